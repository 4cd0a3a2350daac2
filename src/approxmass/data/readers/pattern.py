"""Image files by a pattern, such as `photos/**/*.jpg`."""

__all__ = ["is_pattern", "open_pattern", "pattern_labels"]

import glob
import os
from pathlib import Path

from ...arrays import Labels
from ...errors import ApproxMassError
from ..source import ImageSource
from .folder import classes_of, open_files


def is_pattern(name: str) -> bool:
    """Whether a name holds `*`, `?` or `[...]`.

    Example:
        >>> is_pattern("photos/**/*.jpg"), is_pattern("photos/1.jpg")
        (True, False)
    """
    return glob.has_magic(name)


def open_pattern(name: str) -> ImageSource:
    """The files that match, sorted, called by their path from the folder before the pattern.

    Raises:
        ApproxMassError: none does.
    """
    return open_files(name, Path(_folder(name)), _matched(name))


def pattern_labels(name: str) -> Labels | None:
    """Number of each image's subfolder, as of the folder before the pattern."""
    return classes_of(_matched(name))


def _folder(name: str) -> str:
    """What comes before the first part with a sign of a pattern."""
    folder = name
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder


def _matched(name: str) -> list[str]:
    folder = _folder(name)
    rest = os.path.relpath(name, folder or ".")
    found = glob.glob(rest, root_dir=folder or None, recursive=True)
    files = [each for each in found if os.path.isfile(os.path.join(folder, each))]
    if not files:
        raise ApproxMassError(
            f"{name}: no file matches: look at the folder {folder or '.'}, and put ** for folders "
            "in between",
            code="bad-source",
        )
    return sorted(Path(each).as_posix() for each in files)
