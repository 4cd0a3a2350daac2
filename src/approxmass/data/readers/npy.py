"""Rows of a `.npy` file, read when they are asked for.

Not through a memory map: where a file is cut short while it is mapped, the system ends the process.
"""

__all__ = ["NpyRows"]

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ApproxMassError
from .common import header_of, reading

_WANTED = "a .npy file of numbers: save it again with numpy.save"


class NpyRows:
    """The array in a `.npy` file, a few rows of which are in memory at a time.

    One whose first axis is not its slowest (Fortran order) is read whole.

    Arguments:
        name: What an error calls it.
        path: The file.

    Attributes:
        name: As given.
        like: An array of the same shape and type that takes no memory.

    Raises:
        ApproxMassError: the file cannot be read, holds no plain array, or less than it says.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name, self._path = name, path
        self._whole: NDArray[Any] | None = None
        with reading(name, _WANTED), path.open("rb") as file:
            shape, fortran, dtype = header_of(file)
            self._start, self._known = file.tell(), _identity(file.fileno())
            if self._start + math.prod(shape) * dtype.itemsize > os.fstat(file.fileno()).st_size:
                raise ValueError("shorter than it says")
            self.like: NDArray[Any] = np.broadcast_to(np.zeros((), dtype), shape)
            if fortran or not shape:
                found = np.fromfile(file, dtype, math.prod(shape))
                self._whole = found.reshape(shape, order="F" if fortran else "C")

    def __len__(self) -> int:
        return len(self.like)

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows from one up to another, or up to the last.

        Raises:
            ApproxMassError: the file is not as it was when it was opened.
        """
        if self._whole is not None:
            return self._whole[start:stop]
        count = max(0, min(stop, len(self)) - start)
        each, dtype = math.prod(self.like.shape[1:]), self.like.dtype
        with reading(self.name, _WANTED), self._path.open("rb") as file:
            file.seek(self._start + start * each * dtype.itemsize)
            found = np.fromfile(file, dtype, count * each)
            if len(found) < count * each or _identity(file.fileno()) != self._known:
                raise ApproxMassError(
                    f"{self.name}: was changed or cut short while it was read: give a file that "
                    "nobody writes",
                    code="damaged",
                )
        return found.reshape(count, *self.like.shape[1:])


def _identity(file: int) -> tuple[int, ...]:
    """What tells a file from another, and from itself once it is written to."""
    known = os.fstat(file)
    return known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns
