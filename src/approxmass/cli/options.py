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
    "SkipLimit",
    "Skipped",
    "Threads",
    "loaded",
    "say_of_set",
    "say_remarks",
    "say_skipped",
]

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ApproxMassError
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
SkipLimit = Annotated[
    float,
    typer.Option(
        "--skip-limit",
        metavar="SHARE",
        min=0.0,
        max=1.0,
        help="Share of the images of a source that may be unreadable; they are skipped and listed. "
        "0 stops at the first.",
    ),
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
    """What opening a source did unasked, and what it left out."""
    for line in source.remarks():
        say(line)


def say_of_set(
    name: str, remarks: Sequence[str], skipped: Sequence[tuple[str, str]], unit: str
) -> None:
    """What was done to the images of one of several sets, and which of them were skipped."""
    for line in remarks:
        say(f"{name}: {line}")
    say_skipped([" ".join(each) for each in skipped], f"{name}: {unit}")


def say_skipped(lines: Sequence[str], unit: str) -> None:
    """Which images, each with its reason, were skipped: the first few, and how many more."""
    skipped = Skipped(unit)
    skipped.add((line, "") for line in lines)
    skipped.close()


class Skipped:
    """Says which images are skipped, as they come: the first few by name, then how many more.

    Arguments:
        unit: What they are, in words: images, or rows.
        most: How many there may be.
        of: What an error calls the source.

    Attributes:
        lines: Those there were, with their reasons.
    """

    def __init__(self, unit: str, most: float = math.inf, of: str = "") -> None:
        self.unit, self.most, self.of = unit, most, of
        self.lines: list[str] = []

    @property
    def count(self) -> int:
        """How many there were."""
        return len(self.lines)

    @property
    def first(self) -> str:
        """The first; empty while there is none."""
        return self.lines[0] if self.lines else ""

    def add(self, unreadable: Iterable[tuple[str, str]]) -> None:
        """Say some more, each a name and a reason that follows it.

        Raises:
            ApproxMassError: there are more than there may be.
        """
        for name, reason in unreadable:
            self.lines.append(f"{self.unit} {name} {reason}".rstrip())
            if self.count <= SHOWN:
                say(f"skipped: {self.lines[-1]}")
            if self.count > self.most + 1e-9:
                raise ApproxMassError(
                    f"{self.of}: more {self.unit}s cannot be read than --skip-limit lets pass; the "
                    f"first, {self.first}",
                    code="bad-image",
                )

    def close(self, where: str = "--json has them all") -> None:
        """Say how many were not named, and where they are."""
        if self.count > SHOWN:
            say(f"and {self.count - SHOWN:,} more, {where}")
