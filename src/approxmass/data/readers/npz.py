"""Several arrays in a `.npz` file: images, and perhaps labels."""

__all__ = ["npz_labels", "open_npz"]

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ApproxMassError
from ..source import ImageSource
from .array import open_array
from .common import label_name, reading

_IMAGES = ("images", "x", "arr_0")


def open_npz(name: str, path: Path) -> ImageSource:
    """Images of a `.npz` file: the array `images`, `x` or `arr_0`, or the only one."""
    with _arrays(name, path) as arrays:
        keys = list(arrays.keys())
        known = [key for key in _IMAGES if key in keys]
        if not known and len(keys) != 1:
            raise ApproxMassError(
                f"{name}: holds the arrays {', '.join(keys) or '(none)'}: call one of them images",
                code="bad-source",
            )
        array = arrays[known[0] if known else keys[0]]
    return open_array(name, array, lambda: npz_labels(name, path))


def npz_labels(name: str, path: Path) -> NDArray[Any] | None:
    """Labels of a `.npz` file: the array `label`, `labels`, `fine_label` or `y`."""
    with _arrays(name, path) as arrays:
        key = label_name(arrays.keys())
        return None if key is None else arrays[key]


@contextmanager
def _arrays(name: str, path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    with (
        reading(name, "a .npz file of numbers: save it again with numpy.savez"),
        path.open("rb") as file,
    ):
        yield np.load(file, allow_pickle=False)
