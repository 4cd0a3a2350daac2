"""Explanations as pictures in a folder."""

__all__ = ["explain_files"]

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import check_file, write_atomic
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
        folder: Made if absent; pictures of the same names are replaced.

    Returns:
        JSON-ready: for each image its name, picture, p-value, verdict, and the components with the
        largest shares of the squared mass (of a whitened space); and why others were skipped.

    Raises:
        ApproxMassError: the method is not a flow, not one image can be read, or the folder cannot
            be written or is one of the sources.
    """
    if folder.exists() and not folder.is_dir():
        raise ApproxMassError(f"{folder} is not a folder: choose another name")
    place = Path(os.path.realpath(folder))
    for name in sources:
        given = Path(os.path.realpath(name))
        if given in (place, *place.parents) or given.parent == place:
            raise ApproxMassError(
                f"{folder} holds images of {name}, or lies in it: choose another folder"
            )
    check_file(folder / "001.png")
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    for name in sources:
        for chunk, scores in detector.score_chunks(name):
            skipped += [f"image {label} {error}" for label, error in chunk.unreadable]
            if not chunk.readable:
                continue
            explanation = detector.explain(chunk.images)
            for i, label in enumerate(chunk.readable):
                shares = explanation.components[i]
                stem = re.sub(r"[^\w.-]+", "-", Path(label).stem)
                stem = stem.encode()[:60].decode(errors="ignore")  # file systems count bytes
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
    if not rows:
        raise ApproxMassError(f"no image can be explained; the first, {skipped[0]}")
    return {"images": rows, "skipped": skipped}
