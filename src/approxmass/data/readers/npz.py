"""Several arrays in a `.npz` file: images, and perhaps labels, of one split or of several."""

__all__ = ["npz_labels", "open_npz", "split_of"]

import re
from collections.abc import Iterable, Iterator, Mapping
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
# As in MedMNIST (train_images) and in Keras (x_train); the split, and what goes with it.
_OF_SPLIT = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))


def split_of(name: str) -> tuple[Path, str] | None:
    """The file and the split that `FILE.npz:SPLIT` names; None for another name.

    Example:
        >>> split_of("blood.npz") is None
        True
    """
    match = re.fullmatch(r"(.+\.npz):(\w+)", name)
    return (Path(match[1]), match[2]) if match and Path(match[1]).exists() else None


def open_npz(name: str, path: Path, split: str | None = None) -> ImageSource:
    """Images of a `.npz` file: `images`, `x` or `arr_0`, those of a split, or the only array."""
    with _arrays(name, path) as arrays:
        array = arrays[_image_key(name, list(arrays.keys()), split)]
    return open_array(name, array, lambda: npz_labels(name, path, split))


def npz_labels(name: str, path: Path, split: str | None = None) -> NDArray[Any] | None:
    """Labels of a `.npz` file: `label`, `labels`, `fine_label` or `y`, or those of a split."""
    with _arrays(name, path) as arrays:
        splits = _splits(arrays.keys())
        if split is None and len(splits) == 1:
            (split,) = splits
        if split is not None:
            known = [of.format(split) for _, of in _OF_SPLIT if of.format(split) in arrays]
            return arrays[known[0]] if known else None
        key = label_name(arrays.keys())
        return None if key is None else arrays[key]


def _image_key(name: str, keys: list[str], split: str | None) -> str:
    splits = _splits(keys)
    listed = ", ".join(keys) or "(none)"
    if split is not None:
        if split not in splits:
            raise ApproxMassError(
                f"{name}: there is no split {split}, only the arrays {listed}", code="bad-source"
            )
        return splits[split]
    known = [key for key in _IMAGES if key in keys]
    if known or len(keys) == 1:
        return known[0] if known else keys[0]
    if len(splits) == 1:
        return next(iter(splits.values()))
    cure = (
        f"choose a split, as in {name}:{next(iter(splits))}"
        if splits
        else "call one of them images"
    )
    raise ApproxMassError(f"{name}: holds the arrays {listed}: {cure}", code="bad-source")


def _splits(keys: Iterable[str]) -> dict[str, str]:
    """The array of images of each split."""
    found = {}
    for key in keys:
        for of, _ in _OF_SPLIT:
            match = re.fullmatch(of.format(r"(\w+)"), key)
            if match:
                found[match[1]] = key
    return found


@contextmanager
def _arrays(name: str, path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    with (
        reading(name, "a .npz file of numbers: save it again with numpy.savez"),
        path.open("rb") as file,
    ):
        yield np.load(file, allow_pickle=False)
