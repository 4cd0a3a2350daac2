"""Image files: one, or all of a folder, whose subfolders may be classes."""

__all__ = [
    "classes_of",
    "files_below",
    "folder_labels",
    "image_files",
    "image_suffixes",
    "open_file",
    "open_files",
    "open_folder",
    "shown_name",
]

import functools
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...arrays import Labels
from ...errors import ApproxMassError
from ..decode import Encoded
from ..remarks import Remarks
from ..source import ImageSource
from .common import KINDS, reading


def open_folder(name: str, folder: Path) -> ImageSource:
    """Every image of a folder and below, sorted by path."""
    others: list[str] = []
    found = image_files(name, folder, others)
    if not found:
        raise ApproxMassError(f"{name}: no image in this folder; give {KINDS}", code="bad-source")
    remarks = Remarks()
    if others:
        counts = Counter(os.path.splitext(file)[1].lower() or "no suffix" for file in others)
        listed = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(5))
        files = f"{len(others):,} file{'' if len(others) == 1 else 's'}"
        remarks.say(f"folder: {files} left out, by the name no image that can be read ({listed})")
    return open_files(name, folder, found, remarks)


def folder_labels(name: str, folder: Path) -> Labels | None:
    """Number of each image's subfolder, by name; None where an image is in no subfolder."""
    return classes_of(image_files(name, folder))


def open_file(name: str, path: Path) -> ImageSource:
    """An image file, whatever it is called."""
    source = open_files(name, path.parent, [path.name])
    if path.suffix.lower() not in image_suffixes():
        try:
            source.native_shape  # noqa: B018 - it decodes the image, and keeps it for the stream
        except ApproxMassError:
            raise ApproxMassError(
                f"{name}: not a file of images; give {KINDS}", code="bad-source"
            ) from None
    return source


def open_files(
    name: str, folder: Path, files: list[str], remarks: Remarks | None = None
) -> ImageSource:
    """Image files, as paths from `folder`, in this order; `name` is what an error calls them."""

    def batches(n: int, start: int = 0) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        for i in range(start, len(files), n):
            some = files[i : i + n]
            yield [shown_name(file) for file in some], [folder / file for file in some]

    def some(places: list[int]) -> Iterator[tuple[int, Encoded]]:
        for i in places:
            yield i, folder / files[i]

    return ImageSource(
        name,
        len(files),
        batches,
        labels=lambda: classes_of(files),
        some=some,
        remarks=remarks,
        onward=batches,
    )


def image_files(name: str, folder: Path, others: list[str] | None = None) -> list[str]:
    """Images in a folder and below, as paths from there, in the order in which they are read.

    Files that are not called like images are added to `others`; hidden ones nowhere.
    """
    return files_below(name, folder, image_suffixes(), others)


def files_below(
    name: str, folder: Path, suffixes: Collection[str], others: list[str] | None = None
) -> list[str]:
    """Files in a folder and below whose names end in one of `suffixes`; see `image_files`."""
    found = []
    with reading(name, "a folder"):
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [each for each in folders if not each.startswith(".")]
            below = Path(parent).relative_to(folder).as_posix()
            prefix = "" if below == "." else f"{below}/"  # a Path for each file takes far longer
            for each in files:
                if each.startswith("."):
                    continue
                if os.path.splitext(each)[1].lower() in suffixes:
                    found.append(prefix + each)
                elif others is not None:
                    others.append(each)
    return sorted(found)


def shown_name(file: str) -> str:
    """A file name as text: it need not be, but whoever prints or stores it expects that."""
    return os.fsencode(file).decode(errors="backslashreplace")


def classes_of(files: list[str]) -> Labels | None:
    """Number of the first subfolder on the way to each file; None where one is in none.

    Example:
        >>> classes_of(["b/1.png", "a/2.png"])
        array([1, 0])
    """
    if not all("/" in file for file in files):
        return None
    return np.unique([file.split("/")[0] for file in files], return_inverse=True)[1]


@functools.cache
def image_suffixes() -> frozenset[str]:
    """What names of images end in, in small letters."""
    return frozenset(s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def _raise(error: OSError) -> None:
    raise error
