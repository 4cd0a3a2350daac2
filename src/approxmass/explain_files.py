"""Explanations as pictures in a folder."""

__all__ = ["explain_files"]

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import check_file, write_atomic
from .data import open_images
from .detector import Detector
from .errors import ApproxMassError
from .explain import picture

# Components named for an image.
_NAMED = 3


def explain_files(detector: Detector, sources: Sequence[str], folder: Path) -> dict[str, Any]:
    """Explain every image of some sources and write a picture of each, numbered, to a folder.

    Arguments:
        detector: A fitted detector of the method `flow`.
        sources: Whatever `open_images` takes.
        folder: Made if absent; pictures of an earlier call are replaced.

    Returns:
        JSON-ready: for each image its name, picture, p-value, verdict, and the components with the
        largest shares of the squared mass (of a whitened space).

    Raises:
        ApproxMassError: as `Detector.explain`; or the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ApproxMassError(f"{folder} is not a folder: choose another name")
    check_file(folder / "001.png")
    channels, height, width = detector.facts["shape"]
    rows: list[dict[str, Any]] = []
    for name in sources:
        source = open_images(name, size=detector.settings.size)
        for chunk in source.chunks(256, shape=(channels, height, width)):
            chunk.require_readable(source.name)
            scores = detector.score(chunk.images)
            explanation = detector.explain(chunk.images)
            for i, label in enumerate(chunk.names):
                shares = explanation.components[i]
                stem = re.sub(r"[^\w.-]+", "-", Path(label).stem)[:60]
                target = folder / f"{len(rows) + 1:03}-{stem}.png"
                with write_atomic(target) as path:
                    picture(chunk.images[i], explanation.maps[i]).save(path, "PNG")
                rows.append(
                    {
                        "name": label,
                        "picture": target.name,
                        "p_value": float(scores.p_value[i]),
                        "is_outlier": bool(scores.is_outlier[i]),
                        "components": [
                            {"component": explanation.names[k], "share": float(shares[k])}
                            for k in np.argsort(shares)[::-1][:_NAMED].tolist()
                        ],
                    }
                )
    return {"images": rows}
