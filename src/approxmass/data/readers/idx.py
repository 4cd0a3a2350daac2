"""The IDX format of MNIST: a file of images, and one of labels beside it."""

__all__ = ["idx_labels", "is_idx", "open_idx"]

import io
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Pixels
from ...errors import ApproxMassError
from ..layouts import stacked
from ..modes import to_uint8
from ..shapes import shape_of
from ..source import ImageSource
from ..unreadable import UnreadableError
from .common import maybe_gzip, numbered, reading

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
        start, total = file.tell(), math.prod(shape)
        if file.seek(0, os.SEEK_END) < start + total:
            raise _truncated(name)
    try:
        view = stacked(np.broadcast_to(np.uint8(0), shape))
    except UnreadableError as error:
        raise ApproxMassError(f"{name}: {error}", code=error.code) from None

    def batches(n: int) -> Iterator[tuple[list[str], Pixels]]:
        with reading(name, _WANTED), maybe_gzip(path) as file:
            file.seek(start)
            for i in range(0, shape[0], n):
                k = min(n, shape[0] - i)
                data = np.frombuffer(file.read(k * (total // shape[0])), np.uint8)
                yield numbered(i, k), to_uint8(stacked(data.reshape(k, *shape[1:])))

    return ImageSource(name, shape[0], batches, shape=shape_of(view))


def idx_labels(name: str, path: Path) -> NDArray[Any] | None:
    """Labels of an IDX file; None where it holds images."""
    with reading(name, _WANTED), maybe_gzip(path) as file:
        shape = _shape(name, file)
        if len(shape) != 1:
            return None
        labels = np.frombuffer(file.read(shape[0]), np.uint8)
    if len(labels) < shape[0]:
        raise _truncated(name)
    return labels


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
