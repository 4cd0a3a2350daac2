"""Image files: one, or all of a folder, whose subfolders may be classes."""

__all__ = [
    "classes_of",
    "files_below",
    "folder_labels",
    "image_files",
    "kind_of_file",
    "left_out",
    "open_file",
    "open_files",
    "open_folder",
    "shown_name",
]

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from ...arrays import Labels
from ...errors import ApproxMassError
from ..decode import Encoded
from ..formats import image_suffixes
from ..remarks import Remarks
from ..source import ImageSource
from .common import KINDS, reading

# What is no file of another kind, but is not read.
_HIDDEN, _LINKS = "hidden", "links to folders"
# Kinds that are named.
_NAMED = 8


def open_folder(name: str, folder: Path) -> ImageSource:
    """Every image of a folder and below, sorted by path."""
    others: Counter[str] = Counter()
    found = image_files(name, folder, others)
    if not found:
        more = f" ({left_out(others)})" if others else ""
        raise ApproxMassError(
            f"{name}: no image in this folder{more}; give {KINDS}", code="bad-source"
        )
    return open_files(name, folder, found, Remarks(*filter(None, [left_out(others)])))


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


def image_files(name: str, folder: Path, others: Counter[str] | None = None) -> list[str]:
    """Images in a folder and below, as paths from there, in the order in which they are read.

    What else is there is counted in `others`, by its kind.
    """
    return files_below(name, folder, image_suffixes(), others)


def files_below(
    name: str, folder: Path, suffixes: Collection[str], others: Counter[str] | None = None
) -> list[str]:
    """Files in a folder and below whose names end in one of `suffixes`; see `image_files`."""
    found = []
    others = Counter() if others is None else others
    with reading(name, "a folder"):
        for parent, folders, files in os.walk(folder, onerror=_raise):
            hidden = sum(each.startswith(".") for each in (*folders, *files))
            folders[:] = [each for each in folders if not each.startswith(".")]
            links = sum(os.path.islink(os.path.join(parent, each)) for each in folders)
            others.update({_HIDDEN: hidden, _LINKS: links})
            below = Path(parent).relative_to(folder).as_posix()
            prefix = "" if below == "." else f"{below}/"  # a Path for each file takes far longer
            for each in files:
                if each.startswith("."):
                    continue
                if os.path.splitext(each)[1].lower() in suffixes:
                    found.append(prefix + each)
                else:
                    others[kind_of_file(each)] += 1
    return sorted(found)


def kind_of_file(name: str) -> str:
    """What a file is by the end of its name, in words.

    Example:
        >>> kind_of_file("a/1.DCM"), kind_of_file("a/photo")
        ('.dcm', 'no suffix')
    """
    return os.path.splitext(name)[1].lower() or "no suffix"


def left_out(others: Counter[str]) -> str | None:
    """What of a folder is not read, in words; None where all is.

    Example:
        >>> left_out(Counter({".dcm": 3, "hidden": 1}))
        'left out: 4 files of other kinds (.dcm 3, hidden 1)'
    """
    known = +others
    if not known:
        return None
    most = sorted(known, key=lambda kind: (-known[kind], kind))[:_NAMED]
    listed = ", ".join(f"{shown_name(kind)} {known[kind]:,}" for kind in most)
    more = ", ..." if len(known) > _NAMED else ""
    total = known.total()
    files = "1 file of another kind" if total == 1 else f"{total:,} files of other kinds"
    return f"left out: {files} ({listed}{more})"


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


def _raise(error: OSError) -> None:
    raise error
