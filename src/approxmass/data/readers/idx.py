"""The IDX format of MNIST: a file of images, and one of labels beside it."""

__all__ = ["idx_labels", "is_idx", "open_idx"]

import io
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...arrays import Pixels
from ...errors import ApproxMassError
from ..layouts import stacked
from ..modes import to_uint8
from ..shapes import shape_of
from ..source import ImageSource
from ..unreadable import UnreadableError
from .common import at_most, maybe_gzip, numbered, reading, rows_within

_WANTED = "an IDX file: download it again"


def is_idx(name: str, path: Path) -> bool:
    """Whether a file begins as the IDX format of 8-bit values does."""
    with reading(name, "a file of images"), maybe_gzip(path) as file:
        return file.read(3) == b"\0\0\x08"


def open_idx(name: str, path: Path) -> ImageSource:
    """Images of an IDX file, packed with gzip or not, of which a few are in memory at a time."""
    with reading(name, _WANTED), maybe_gzip(path) as file:
        shape = _shape(name, file)
        if len(shape) == 1:
            raise ApproxMassError(
                f"{name}: holds labels, not images: give the file called ...-images-idx3-ubyte",
                code="bad-source",
            )
        if len(shape) not in (3, 4):
            raise ApproxMassError(
                f"{name}: not an IDX file of 8-bit images (magic 0x0803 or 0x0804)",
                code="bad-source",
            )
        view = _like(name, shape)
        start, total = file.tell(), math.prod(shape)
        # Of a packed file no more than its header says is unpacked, a little at a time.
        if file.seek(start + total - 1) < start + total - 1 or not file.read(1):
            raise _truncated(name)
        file.read(1)  # at its end a packed file checks its sum

    def batches(n: int) -> Iterator[tuple[list[str], Pixels]]:
        with reading(name, _WANTED), maybe_gzip(path) as file:
            file.seek(start)
            each = total // shape[0]
            together = rows_within(n, each)
            for i in range(0, shape[0], together):
                k = min(together, shape[0] - i)
                data = np.frombuffer(file.read(k * each), np.uint8)
                if len(data) < k * each:
                    raise _truncated(name)
                yield numbered(i, k), to_uint8(stacked(data.reshape(k, *shape[1:])))

    return ImageSource(name, shape[0], batches, shape=shape_of(view))


def idx_labels(name: str, path: Path) -> NDArray[Any] | None:
    """Labels of an IDX file; None where it holds images."""
    with reading(name, _WANTED), maybe_gzip(path) as file:
        shape = _shape(name, file)
        if len(shape) != 1:
            return None
        labels = np.frombuffer(at_most(file, shape[0]), np.uint8)
    if len(labels) < shape[0]:
        raise _truncated(name)
    return labels


def _like(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """What the images are as, which takes no memory, if there can be such images.

    Raises:
        ApproxMassError: there are none, or they are larger than any.
    """
    most = Image.MAX_IMAGE_PIXELS or math.inf
    if 0 not in shape and math.prod(shape[1:]) > 3 * most:
        raise ApproxMassError(
            f"{name}: says that an image has {math.prod(shape[1:]):,} values, which is more than "
            f"{most:,} pixels: make them smaller",
            code="bad-image",
        )
    try:
        return stacked(np.broadcast_to(np.uint8(0), (min(1, shape[0]), *shape[1:])))
    except UnreadableError as error:
        raise ApproxMassError(f"{name}: {error}", code=error.code) from None
    except ValueError:  # an axis of none, and others too long for any array
        raise ApproxMassError(
            f"{name}: holds no images (shape {shape})", code="bad-source"
        ) from None


def _shape(name: str, file: io.BufferedIOBase) -> tuple[int, ...]:
    """What the header says of the values that follow it."""
    zeros, dtype, ndim = struct.unpack(">HBB", file.read(4))
    if zeros or dtype != 8:
        raise ApproxMassError(
            f"{name}: not an IDX file of 8-bit values (magic 0x0801, 0x0803 or 0x0804)",
            code="bad-source",
        )
    return struct.unpack(f">{ndim}I", file.read(4 * ndim))


def _truncated(name: str) -> ApproxMassError:
    return ApproxMassError(f"{name}: is truncated: download it again", code="damaged")
