"""The command `calibrate`."""

__all__ = ["calibrate"]

from pathlib import Path
from typing import Annotated

import typer

from .console import check_outputs, say
from .options import (
    SOURCE,
    Device,
    Folder,
    Json,
    SkipLimit,
    Threads,
    say_remarks,
    say_skipped,
)

Output = Annotated[
    Path | None,
    typer.Option("-o", metavar="DIR2", help="Write the detector here, not in the place of DIR."),
]
Per = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Calibrate each group of images, such as a camera, by itself: subfolder, a column of "
        "the Parquet file, or a regular expression with one group (...) for the names. An image "
        "scored is compared with its group alone. "
        "(Not the --group of a fit, which keeps images on one side of its split.)",
    ),
]


def calibrate(
    folder: Folder,
    source: Annotated[str, typer.Argument(help=SOURCE)],
    output: Output = None,
    per: Per = None,
    skip_limit: SkipLimit = 0.05,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Give new p-values from new in-distribution images (another camera or day), without a fit."""
    from ..detector import Detector
    from ..storage.artifact import check_target
    from ..storage.locks import alone
    from .fit import show_detector

    target = folder if output is None else output
    check_target(target)
    check_outputs(json_file, inputs=[source], making=target)
    with alone(target, "works on"):  # from what is read to what is written there
        detector = Detector.load(folder, device=device, threads=threads)
        images = detector.open(source)
        say_remarks(images)
        detector.calibrate(images, per=per, skip_limit=skip_limit)
        say_skipped(detector.skipped, images.unit)
        detector.save(target)
    say(f"{target}: calibrated {detector.fitted.in_use.said(detector.fitted.unit)}")
    more = {"remarks": images.remarks(), "skipped": list(detector.skipped)}
    show_detector(target, detector, json_file, more=more)
