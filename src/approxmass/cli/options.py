"""Arguments and options that several commands share."""

__all__ = [
    "SHOWN",
    "SOURCE",
    "Device",
    "Folder",
    "For",
    "Json",
    "MoreOod",
    "OodSources",
    "Seed",
    "Skipped",
    "Threads",
    "loaded",
    "say_remarks",
]

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import say

if TYPE_CHECKING:
    from ..data import ImageSource
    from ..detector import Detector

SOURCE = (
    "A folder of images or of Parquet files, an image, a pattern in quotes ('photos/**/*.jpg'), a "
    ".npy, .npz, .parquet or IDX file, a URL (s3://, gs://, ...) of images or of Parquet files, "
    "hf:NAME, or sample:NAME."
)
# Unreadable images named on the terminal.
SHOWN = 10

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A fitted detector.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Also write the facts as JSON; - prints them."),
]
Seed = Annotated[int, typer.Option(min=0, help="Fixes balancing, groups and intervals.")]
Device = Annotated[
    str | None,
    typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...; a GPU where there is one."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Most threads to compute in.")]


For = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="GROUP",
        help="Of a detector calibrated per group (camera): the one that all images are of.",
    ),
]


OodSources = Annotated[
    list[str] | None,
    typer.Option("--ood", metavar="SOURCE", help="Outliers; may be repeated."),
]
MoreOod = Annotated[
    list[str] | None, typer.Argument(metavar="[SOURCE]...", help="More sources for --ood.")
]


def loaded(folder: Path, group: str | None, device: str | None, threads: int | None) -> "Detector":
    """The detector in a folder, with the calibration of one group if that is asked for."""
    from ..detector import Detector

    detector = Detector.load(folder, device=device, threads=threads)
    return detector if group is None else detector.calibrated_for(group)


def say_remarks(source: "ImageSource") -> None:
    """What opening a source did unasked."""
    for line in source.remarks():
        say(line)


class Skipped:
    """Says which images are skipped, as they come: the first few by name, then how many more.

    Attributes:
        unit: What they are, in words: images, or rows.
        count: How many there were.
        first: The first, with its reason; empty while there is none.
    """

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.count = 0
        self.first = ""

    def add(self, unreadable: Iterable[tuple[str, str]]) -> None:
        """Say some more, each a name and a reason that follows it."""
        for name, reason in unreadable:
            line = f"{self.unit} {name} {reason}"
            self.first = self.first or line
            self.count += 1
            if self.count <= SHOWN:
                say(f"skipped: {line}")

    def close(self, where: str) -> None:
        """Say how many were not named, and where they are."""
        if self.count > SHOWN:
            say(f"and {self.count - SHOWN:,} more, {where}")
