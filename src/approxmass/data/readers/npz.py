"""Several arrays in a `.npz` file: images or rows of numbers, and perhaps labels, by split."""

__all__ = ["is_npz", "npz_array", "npz_labels", "npz_shape", "open_npz"]

import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ApproxMassError
from ..source import ImageSource
from .array import open_array
from .common import header_of, label_name, reading

_WANTED = "a .npz file of numbers: save it again with numpy.savez"
_KNOWN = ("images", "x", "arr_0")
# As in MedMNIST (train_images) and in Keras (x_train); the split, and what goes with it.
_OF_SPLIT = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))


def is_npz(name: str) -> bool:
    """Whether a name is that of such a file, or `FILE.npz:SPLIT`."""
    return _parts(name) is not None


def open_npz(name: str) -> ImageSource:
    """Images of a `.npz` file: `images`, `x` or `arr_0`, those of a split, or the only array."""
    return open_array(name, npz_array(name), lambda: npz_labels(name))


def npz_array(name: str) -> NDArray[Any]:
    """The array that a name means, of `FILE.npz`, `FILE.npz:SPLIT` or `FILE.npz:ARRAY`.

    Raises:
        ApproxMassError: there is none, or there are several; or the file is damaged.
    """
    with _arrays(name) as (arrays, split):
        return _read(arrays, _key(name, list(arrays.keys()), split))


def npz_shape(name: str) -> tuple[int, ...]:
    """The shape of that array, by its header.

    Raises:
        ApproxMassError: as `npz_array`.
    """
    with _arrays(name) as (arrays, split):
        key = _key(name, list(arrays.keys()), split)
        return _header(arrays, key)[0]


def npz_labels(name: str) -> NDArray[Any] | None:
    """Labels of a `.npz` file: `label`, `labels`, `fine_label` or `y`, or those of a split."""
    with _arrays(name) as (arrays, split):
        splits = _splits(arrays.keys())
        if split is None and len(splits) == 1:
            (split,) = splits
        if split is not None and (split in splits or split not in arrays):
            known = [of.format(split) for _, of in _OF_SPLIT if of.format(split) in arrays]
            return _read(arrays, known[0]) if known else None
        key = label_name(arrays.keys())
        return None if key is None else _read(arrays, key)


def _read(arrays: "np.lib.npyio.NpzFile", key: str) -> NDArray[Any]:
    """An array, whole, where the file has as much of it as its header says.

    Raises:
        ValueError: it has less.
    """
    shape, dtype, held = _header(arrays, key)
    if math.prod(shape) * dtype.itemsize > held:
        raise ValueError("shorter than it says")
    found: NDArray[Any] = arrays[key]
    return found


def _header(
    arrays: "np.lib.npyio.NpzFile", key: str
) -> tuple[tuple[int, ...], "np.dtype[Any]", int]:
    """Shape and type of an array, and how many bytes the file says to have of it."""
    assert arrays.zip is not None  # while it is open
    with arrays.zip.open(f"{key}.npy") as array:
        shape, _, dtype = header_of(array)
    return shape, dtype, arrays.zip.getinfo(f"{key}.npy").file_size


def _key(name: str, keys: list[str], split: str | None) -> str:
    splits = _splits(keys)
    listed = ", ".join(keys) or "(none)"
    if split is not None:
        if split not in splits and split not in keys:
            raise ApproxMassError(
                f"{name}: there is no split {split}, only the arrays {listed}: name one of them",
                code="bad-source",
            )
        return splits.get(split, split)
    known = [key for key in _KNOWN if key in keys]
    if known or len(keys) == 1:
        return known[0] if known else keys[0]
    if len(splits) == 1:
        return next(iter(splits.values()))
    what = "a split" if splits else "an array"
    cure = f": choose {what}, as in {name}:{next(iter([*splits, *keys]))}" if keys else ""
    raise ApproxMassError(f"{name}: holds the arrays {listed}{cure}", code="bad-source")


def _splits(keys: Iterable[str]) -> dict[str, str]:
    """The array of images of each split."""
    found = {}
    for key in keys:
        for of, _ in _OF_SPLIT:
            match = re.fullmatch(of.format(r"(\w+)"), key)
            if match:
                found[match[1]] = key
    return found


def _parts(name: str) -> tuple[Path, str | None] | None:
    """The file, and the split that is asked for."""
    if Path(name).suffix.lower() == ".npz" and os.path.isfile(name):
        return Path(name), None
    match = re.fullmatch(r"(.+\.npz):(.+)", name, re.IGNORECASE)
    return (Path(match[1]), match[2]) if match and os.path.isfile(match[1]) else None


def _parts_of(name: str) -> tuple[Path, str | None]:
    found = _parts(name)
    assert found is not None  # whoever opens it has looked
    return found


@contextmanager
def _arrays(name: str) -> Iterator[tuple["np.lib.npyio.NpzFile", str | None]]:
    path, split = _parts_of(name)
    with (
        reading(name, _WANTED),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        yield arrays, split
