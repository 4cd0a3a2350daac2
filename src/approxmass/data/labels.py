"""The classes of images, from wherever they are kept beside them."""

__all__ = ["open_labels"]

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ApproxMassError
from .sources import (
    as_array,
    hub_dataset,
    image_files,
    is_idx,
    maybe_gzip,
    reading,
)

_COLUMNS = ("label", "labels", "fine_label", "y")


def open_labels(source: object) -> NDArray[Any] | None:
    """Labels as they are written, in the order of `open_images`; None where there are none.

    Arguments:
        source: One of

            - an array, a list or a tensor of labels;
            - a `.npy`, an IDX file of labels, or a `.npz` with the array `labels` or `y`;
            - a source of images that carries them: a `.parquet` file or `hf:NAME[:[CONFIG:]SPLIT]`
              with a column `label`, or a folder with a subfolder for each class (numbered by name).

    Raises:
        ApproxMassError: a file that cannot be read.

    Example:
        >>> open_labels([0, 1, 1])
        array([0, 1, 1])
    """
    if not isinstance(source, str | os.PathLike):
        return as_array("labels", source)
    name = os.fspath(source)
    if name.startswith("hf:"):
        data = hub_dataset(name)
        column = next((c for c in _COLUMNS if c in data.features), None)
        return None if column is None else np.asarray(data[column])
    path = Path(name)
    if path.is_dir():
        return _of_folder(image_files(name, path))
    if not path.exists():
        if name == "array" or name.startswith("sample:"):
            return None
        raise ApproxMassError(f"{name}: there is no such file of labels")
    with reading(name, "a file of labels"):
        if path.suffix.lower() == ".npy":
            return _vector(np.load(path, allow_pickle=False))
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                key = next((c for c in _COLUMNS if c in arrays), None)
                return None if key is None else arrays[key]
        if path.suffix.lower() == ".parquet":
            return _of_parquet(path)
        if is_idx(name, path):
            return _of_idx(name, path)
    return None


def _vector(array: NDArray[Any]) -> NDArray[Any] | None:
    """Labels, or None where this is an array of images."""
    return array if array.ndim == 1 else None


def _of_folder(files: list[str]) -> NDArray[Any] | None:
    classes = [file.split("/")[0] if "/" in file else None for file in files]
    if None in classes:
        return None
    return np.unique(np.array(classes), return_inverse=True)[1]


def _of_parquet(path: Path) -> NDArray[Any] | None:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    column = next((c for c in _COLUMNS if c in file.schema_arrow.names), None)
    if column is None:
        return None
    labels: NDArray[Any] = file.read([column]).column(0).to_numpy()
    return labels


def _of_idx(name: str, path: Path) -> NDArray[Any] | None:
    with maybe_gzip(path) as file:
        _, dtype, ndim = struct.unpack(">HBB", file.read(4))
        if dtype != 8 or ndim != 1:
            return None
        (count,) = struct.unpack(">I", file.read(4))
        labels = np.frombuffer(file.read(count), np.uint8)
    if len(labels) < count:
        raise ApproxMassError(f"{name}: is truncated: download it again")
    return labels
