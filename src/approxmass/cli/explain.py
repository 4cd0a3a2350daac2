"""The command `explain`: explanations as pictures in a folder."""

__all__ = ["explain", "explain_files"]

import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ApproxMassError
from .console import check_outputs, emit, out
from .options import SOURCE, Device, Folder, For, Json, Skipped, Threads, loaded, say_remarks

if TYPE_CHECKING:
    from ..data import Chunk
    from ..detector import Detector
    from ..explain.attribution import Explanation

# Components named for an image.
_NAMED = 3


def explain(
    folder: Folder,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help=SOURCE)],
    output: Annotated[
        Path | None,
        typer.Option("-o", metavar="DIR", help="Folder for the pictures; none of rows of numbers."),
    ] = None,
    group: For = None,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Show where in an image it does not belong, with a limit that usual images keep below."""
    if output is not None:
        _check_folder(output, images)
        check_outputs(output / "001.png" if output.is_dir() else output)
    check_outputs(json_file, inputs=images)
    if json_file is not None and json_file.suffix == ".png":
        raise ApproxMassError(
            f"{json_file} could be one of the pictures: choose another name", code="would-overwrite"
        )
    detector = loaded(folder, group, device, threads)
    detector.fitted.check_explains()
    facts = explain_files(detector, images, output)
    emit(facts, json_file)
    if json_file != Path("-"):
        from .tables import explanations_table

        out.print(explanations_table(facts, detector.fitted.unit))
        if not detector.fitted.vectors:
            out.print(f"Pictures are in {output}/", soft_wrap=True, markup=False)


def explain_files(
    detector: "Detector", sources: Sequence[str], folder: Path | None
) -> dict[str, Any]:
    """Explain every image of some sources and write a picture of each, numbered, to a folder.

    Of rows of numbers there is no picture, but which columns.

    Arguments:
        detector: A fitted detector of the method `flow`.
        sources: Whatever `open_images` takes.
        folder: Made if absent; pictures of the same names are replaced. None of rows of numbers.

    Returns:
        JSON-ready: for each image its name, picture, p-value, verdict, of its map the highest
        value, what this is below in 95% of in-distribution images (None where these are too few to
        say) and the p-value by it, and the components with the largest shares of the squared
        gradient (of whitened codes); and why others were skipped, which is also said on standard
        error.

    Raises:
        ApproxMassError: the method is not a flow, not one image can be read, or the folder cannot
            be written or is one of the sources.
    """
    from ..explain.picture import shown_size
    from ..storage.atomic import check_file

    if detector.fitted.vectors:
        folder = None
    elif folder is None:
        raise ApproxMassError("give a folder for the pictures: -o DIR", code="bad-option")
    else:
        _check_folder(folder, sources)
        check_file(folder / "001.png")
    rows: list[dict[str, Any]] = []
    remarks: dict[str, list[str]] = {}
    skipped = Skipped(detector.fitted.unit)
    for name in sources:
        source = detector.open(name)
        say_remarks(source)
        for chunk in detector.chunks(source):
            skipped.add(chunk.unreadable)
            if not chunk.readable:
                continue
            shown = [shown_size(size) for size in chunk.sizes]
            explanation = detector.explain_pixels(chunk.images, chunk.boxes, shown, chunk.groups)
            scores, map_p = explanation.scores, explanation.p_value
            for i, label in enumerate(chunk.readable):
                shares = explanation.components[i]
                target = None
                if folder is not None:
                    target = _draw(folder, len(rows) + 1, label, chunk, explanation, i)
                rows.append(
                    {
                        "name": label,
                        "picture": target,
                        "p_value": float(scores.p_value[i]),
                        **({} if scores.group is None else {"group": scores.group[i]}),
                        "is_outlier": bool(scores.is_outlier[i]),
                        "map": {
                            "of": explanation.of,
                            "highest": float(explanation.peaks[i]),
                            "threshold": _finite(explanation.threshold(place=i)),
                            "p_value": float(map_p[i]),
                        },
                        "components": [
                            {"component": explanation.names[k], "share": float(shares[k])}
                            for k in shares.argsort()[::-1][:_NAMED].tolist()
                        ],
                    }
                )
        remarks[str(name)] = source.remarks()
    if not rows:
        raise ApproxMassError(
            f"no {skipped.unit} can be explained; the first, {skipped.first}", code="bad-image"
        )
    skipped.close()
    return {"images": rows, "skipped": skipped.lines, "remarks": remarks}


def _draw(
    folder: Path, number: int, label: str, chunk: "Chunk", explanation: "Explanation", place: int
) -> str:
    """Write the picture of an image of a chunk; returns its name."""
    from ..explain.picture import picture
    from ..storage.atomic import write_atomic

    letters = sys.getfilesystemencoding()  # which need not have all of them
    stem = Path(label).stem.encode(letters, "replace").decode(letters)
    stem = re.sub(r"[^\w.-]+", "-", stem)
    stem = stem.encode()[:60].decode(errors="ignore")  # file systems count bytes
    target = folder / f"{number:03}-{stem}.png"
    with write_atomic(target) as path:
        picture(
            chunk.images[place],
            None if chunk.boxes is None else chunk.boxes[place],
            explanation,
            place,
            name=label,
            p_value=float(explanation.scores.p_value[place]),
        ).save(path, "PNG")
    return target.name


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_folder(folder: Path, sources: Sequence[str]) -> None:
    """The pictures take the place of no image that is explained."""
    if folder.exists() and not folder.is_dir():
        raise ApproxMassError(
            f"{folder} is not a folder: choose another name", code="would-overwrite"
        )
    place = Path(os.path.realpath(folder))
    for name in sources:
        given = Path(os.path.realpath(name))
        if given in (place, *place.parents) or given.parent == place:
            raise ApproxMassError(
                f"{folder} holds images of {name}, or lies in it: choose another folder",
                code="would-overwrite",
            )
