"""One reader for each format: it opens the images, and reads the labels that come with them."""

__all__ = ["Reader", "reader_of"]

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..source import ImageSource
from .array import npy_labels, open_npy
from .folder import folder_labels, open_file, open_folder
from .idx import idx_labels, is_idx, open_idx
from .mvtec import is_mvtec, open_mvtec
from .npz import npz_labels, open_npz
from .parquet import open_parquet, parquet_labels


class Reader(NamedTuple):
    """What reads a format; both take the name for errors, and the path.

    Attributes:
        images: Opens the images.
        labels: Reads the labels; None where there are none.
    """

    images: Callable[[str, Path], ImageSource]
    labels: Callable[[str, Path], NDArray[Any] | None]


_FOLDER = Reader(open_folder, folder_labels)
_MVTEC = Reader(open_mvtec, lambda name, path: None)
_FILE = Reader(open_file, lambda name, path: None)
_IDX = Reader(open_idx, idx_labels)
_BY_SUFFIX = {
    ".npy": Reader(open_npy, npy_labels),
    ".npz": Reader(open_npz, npz_labels),
    ".parquet": Reader(open_parquet, parquet_labels),
}


def reader_of(name: str, path: Path) -> Reader:
    """The reader of what is there, by its name or, for the IDX format, its first bytes."""
    if path.is_dir():
        return _MVTEC if is_mvtec(path) else _FOLDER
    known = _BY_SUFFIX.get(path.suffix.lower())
    if known is not None:
        return known
    if re.search(r"(-idx\d-ubyte|\.idx)(\.gz)?$", path.name) or is_idx(name, path):
        return _IDX
    return _FILE
