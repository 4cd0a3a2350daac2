"""Which axis of an array is which."""

__all__ = ["channels_first", "stacked"]

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .unreadable import UnreadableError

_CHANNELS = (1, 3)
# Flattened images of fewer pixels a side are not looked for: any small number would be one.
_SMALLEST_SIDE = 8
# Values of the flattened images that everybody has: 28 x 28, and 32 x 32 in colour.
_USUAL = (784, 3072)
# An image is rarely so many times longer than wide; a table of flattened images often is.
_LONG = 2


def channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """View of `array` as `(N, C, H, W)`, with C = 1 or 3.

    Arguments:
        array: `(H, W)` (one image), `(N, H, W)`, `(N, C, H, W)` or `(N, H, W, C)`.

    Raises:
        UnreadableError: Any other shape, one that can be read in two ways, no pixels at all, or a
            dtype that holds none.

    Example:
        >>> channels_first(np.zeros((5, 28, 30, 3))).shape
        (5, 3, 28, 30)
        >>> channels_first(np.zeros((28, 30, 3)))
        Traceback (most recent call last):
            ...
        approxmass.data.unreadable.UnreadableError: has shape (28, 30, 3): is it one RGB image of
        30x28 (then give array[None]), or 28 grey images of 3x30 (then give list(array))?
    """
    _check(array)
    shape = array.shape
    if array.ndim == 2:
        _check_flat(*shape)
        return array[None, None]
    if array.ndim == 3 and shape[2] in _CHANNELS:
        one = f"one {_kind(shape[2])} image of {shape[1]}x{shape[0]} (then give array[None])"
        raise _ambiguous(shape, one, _many(shape))
    if array.ndim == 3 and shape[0] == 3:
        one = f"one RGB image of {shape[2]}x{shape[1]} (then give array[None])"
        raise _ambiguous(shape, one, _many(shape))
    return stacked(array)


def stacked(array: NDArray[Any]) -> NDArray[Any]:
    """View as `(N, C, H, W)` of an array whose first axis counts the images.

    Raises:
        UnreadableError: As `channels_first`.

    Example:
        >>> stacked(np.zeros((3, 28, 30))).shape
        (3, 1, 28, 30)
    """
    _check(array)
    shape = array.shape
    if array.ndim == 3:
        return array[:, None]
    first = array.ndim == 4 and shape[1] in _CHANNELS
    last = array.ndim == 4 and shape[3] in _CHANNELS
    if first and last and shape[1:] != (1, 1, 1):
        raise _ambiguous(
            shape,
            f"{_kind(shape[1])} images of {shape[3]}x{shape[2]}",
            f"{_kind(shape[3])} images of {shape[2]}x{shape[1]} "
            "(either way give a list of Pillow images)",
        )
    if first:
        return array
    if last:
        return np.moveaxis(array, 3, 1)
    raise UnreadableError(
        f"has shape {shape}: give (N,H,W), (N,C,H,W) or (N,H,W,C), with 1 or 3 channels",
        code="wrong-shape",
    )


def _check(array: NDArray[Any]) -> None:
    if array.dtype.kind == "O":
        raise UnreadableError(
            "holds Python objects, as arrays of mixed sizes do: give one size to all, "
            "or a list of Pillow images and a size"
        )
    if array.dtype.kind not in "buif":
        raise UnreadableError(f"holds {array.dtype} values: give uint8, or floats in [0, 1]")
    if 0 in array.shape:
        raise UnreadableError(f"holds no images (shape {array.shape})", code="bad-source")


def _check_flat(height: int, width: int) -> None:
    """Refuse what may be a table of flattened images, one a row."""
    long = max(height, width) > _LONG * min(height, width)
    if height == width or not (long or width in _USUAL):
        return
    for channels in _CHANNELS:
        side = math.isqrt(width // channels)
        if side >= _SMALLEST_SIDE and side * side * channels == width:
            axes = f"{side}, {side}" if channels == 1 else f"3, {side}, {side}"
            raise _ambiguous(
                (height, width),
                f"one grey image of {width}x{height} (then give array[None])",
                f"{height} flattened {_kind(channels)} images of {side}x{side} (then give "
                f"array.reshape(-1, {axes}))",
            )


def _many(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} grey images of {shape[2]}x{shape[1]} (then give list(array))"


def _kind(channels: int) -> str:
    return "grey" if channels == 1 else "RGB"


def _ambiguous(shape: tuple[int, ...], one: str, other: str) -> UnreadableError:
    return UnreadableError(f"has shape {shape}: is it {one}, or {other}?", code="wrong-shape")
