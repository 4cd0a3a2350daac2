"""Shapes of images: taken, told, compared."""

__all__ = ["NEEDED", "describe_shape", "mismatch", "shape_of"]

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ..arrays import Shape

# What an error calls a shape that the caller asked for.
NEEDED = "what is needed"


def shape_of(images: NDArray[Any]) -> Shape:
    """`(C, H, W)` of an image, or of each of several `(N, C, H, W)`.

    Example:
        >>> import numpy as np
        >>> shape_of(np.zeros((5, 3, 32, 48)))
        (3, 32, 48)
    """
    channels, height, width = images.shape[-3:]
    return channels, height, width


def describe_shape(shape: Sequence[int]) -> str:
    """`(C, H, W)` in words.

    Example:
        >>> describe_shape((3, 32, 48))
        '48x32 RGB'
    """
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def mismatch(shape: Sequence[int], what: str, other: Sequence[int]) -> str:
    """Why an image of `shape` cannot be used where `what` is `other`, and the cure.

    Example:
        >>> mismatch((1, 9, 7), NEEDED, (1, 8, 8))
        'is 7x9 grey, but what is needed is 8x8 grey: convert it to 8x8 grey'
    """
    if what == NEEDED:
        cure = f"convert it to {describe_shape(other)}"
    elif shape[0] == other[0]:
        cure = "pass a size to have every image resized"
    else:
        cure = "convert them all to grey or all to RGB"
    return f"is {describe_shape(shape)}, but {what} is {describe_shape(other)}: {cure}"
