"""The region of interest that an image or array shows."""

__all__ = ["open_region"]

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Bools
from ..errors import ApproxMassError
from .decode import How, decode
from .guard import pillow_guard
from .region import Region
from .unreadable import UnreadableError

_CURE = "draw what is to be looked at in white, the rest in black"


def open_region(given: Any) -> Region:
    """The region that an image or array shows: what is not 0 is looked at.

    Arguments:
        given: The path of an image, which is made grey (what is transparent in it is not
            looked at); or an array `(H, W)`, bool or uint8.

    Raises:
        ApproxMassError: there is no such image, it cannot be read, the array is another, or
            nothing is looked at.

    Example:
        >>> open_region(np.array([[0, 7], [0, 0]], np.uint8))
        Region(25% of 2x2)
    """
    if isinstance(given, str | os.PathLike):
        name, mask = os.fspath(given), _of_file(Path(given))
    else:
        name, mask = "the region of interest", _of_array(given)
    if not mask.any():
        raise ApproxMassError(
            f"{name} is 0 everywhere, so nothing would be looked at: {_CURE}", code="bad-option"
        )
    return Region.of(mask)


def _of_file(path: Path) -> Bools:
    if not path.is_file():
        raise ApproxMassError(
            f"{path}: there is no such file; the region of interest is an image: {_CURE}",
            code="bad-source",
        )
    try:
        with pillow_guard():
            grey = decode(path, how=How(channels=1, luminance=True, background=0)).pixels[0]
    except UnreadableError as error:
        raise ApproxMassError(
            f"{path}, the region of interest, {error}; or give another image", code="bad-image"
        ) from error
    mask: Bools = grey != 0
    return mask


def _of_array(given: Any) -> Bools:
    try:
        array = np.asarray(given)
    except ValueError:  # a ragged list
        array = np.empty(0)
    if array.ndim != 2 or not array.size or array.dtype not in (np.bool_, np.uint8):
        raise ApproxMassError(
            f"the region of interest is the path of an image or an array (H, W) of bool or uint8, "
            f"not {type(given).__name__} {array.shape} of {array.dtype}: give `mask > 0`, one for "
            "all images",
            code="bad-option",
        )
    mask: Bools = array != 0
    return mask
