"""Lists of arrays or of Pillow images."""

__all__ = ["open_list"]

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ...errors import ApproxMassError
from ..decode import Encoded
from ..source import ImageSource
from .array import as_array, open_array
from .common import KINDS, numbered


def open_list(name: str, items: Sequence[Any]) -> ImageSource:
    """Images of a list: all arrays of one shape and dtype, or all Pillow images."""
    if any(isinstance(item, str | os.PathLike) for item in items):
        raise ApproxMassError(
            f"{name}: a list of paths is not a source of images; give {KINDS}", code="bad-source"
        )
    if not any(isinstance(item, Image.Image) for item in items):
        return _open_arrays(name, items)
    for i, item in enumerate(items):
        if not isinstance(item, Image.Image):
            raise ApproxMassError(
                f"{name}: image {i} is {type(item).__name__}, others are Pillow images: "
                "give only arrays or only Pillow images",
                code="bad-source",
            )

    def batches(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        for i in range(0, len(items), n):
            yield numbered(i, len(items[i : i + n])), items[i : i + n]

    def some(places: list[int]) -> Iterator[tuple[int, Encoded]]:
        for i in places:
            yield i, items[i]

    return ImageSource(name, len(items), batches, some=some)


def _open_arrays(name: str, items: Sequence[Any]) -> ImageSource:
    arrays = [
        as_array(f"{name}: image {i}", item, code="bad-image") for i, item in enumerate(items)
    ]
    for i, array in enumerate(arrays):
        if (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            raise ApproxMassError(
                f"{name}: image {i} is {array.dtype} {array.shape}, but the first is "
                f"{arrays[0].dtype} {arrays[0].shape}: give all the same shape and dtype",
                code="bad-image" if array.shape == arrays[0].shape else "wrong-shape",
            )
    if not arrays:
        return open_array(name, np.empty(0))
    return open_array(name, np.stack(arrays), several=arrays[0].ndim > 1)
