"""One reader for each format: it opens the images, and reads the labels that come with them."""

__all__ = ["Reader", "reader_of"]

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..source import ImageSource
from .array import npy_labels, open_npy
from .common import check_regular
from .folder import folder_labels, open_file, open_folder
from .idx import idx_labels, is_idx, open_idx
from .mvtec import is_mvtec, open_mvtec
from .npz import is_npz, npz_labels, open_npz
from .parquet import open_parquet, parquet_labels
from .pattern import is_pattern, open_pattern, pattern_labels
from .shards import shards_of


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
_NPY = Reader(open_npy, npy_labels)
# These read more in the name than a path.
_NPZ = Reader(lambda name, path: open_npz(name), lambda name, path: npz_labels(name))
_TABLE = Reader(lambda name, path: open_parquet(name), lambda name, path: parquet_labels(name))
_PATTERN = Reader(
    lambda name, path: open_pattern(name),
    lambda name, path: pattern_labels(name),
)


def reader_of(name: str, path: Path) -> Reader | None:
    """The reader of what is there, by its name or, for the IDX format, its first bytes.

    None where nothing is.

    Raises:
        ApproxMassError: a pipe, a socket or a device is.
    """
    check_regular(name, path)
    if is_npz(name):
        return _NPZ
    if os.path.isdir(path) and is_mvtec(path):
        return _MVTEC
    if shards_of(name) is not None:
        return _TABLE
    if os.path.isdir(path):
        return _FOLDER
    if not os.path.lexists(path):
        return _PATTERN if is_pattern(name) else None
    if path.suffix.lower() == ".npy":
        return _NPY
    if re.search(r"(-idx\d-ubyte|\.idx)(\.gz)?$", path.name) or is_idx(name, path):
        return _IDX
    return _FILE
