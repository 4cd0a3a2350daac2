"""Arrays in memory and in `.npy` files."""

__all__ = ["as_array", "npy_labels", "open_array", "open_npy"]

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Pixels
from ...errors import ApproxMassError, Code
from ..decode import UnreadableError, channels_first, to_uint8
from ..shapes import shape_of
from ..source import ImageSource
from .common import numbered, reading


def as_array(name: str, source: object, *, code: Code = "bad-source") -> NDArray[Any]:
    """Anything that can be one as an array; `name` is what an error calls it, `code` its kind."""
    try:
        return np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:  # tensors on a GPU, ragged lists
        reason = str(error).partition("\n")[0]
        raise ApproxMassError(
            f"{name}: cannot be turned into a NumPy array: {reason}", code=code
        ) from error


def open_array(
    name: str, array: NDArray[Any], labels: Callable[[], NDArray[Any] | None] | None = None
) -> ImageSource:
    """Images of an array; values are looked at as the stream comes to them."""
    try:
        view = channels_first(np.asarray(array))  # plain, where it was a memory map
    except UnreadableError as error:
        raise ApproxMassError(f"{name}: {error}", code=error.code) from None

    def batches(n: int) -> Iterator[tuple[list[str], Pixels]]:
        for i in range(0, len(view), n):
            try:
                pixels = to_uint8(view[i : i + n])
            except UnreadableError as error:
                raise ApproxMassError(
                    f"{name}: image {i + error.index} {error}", code=error.code
                ) from None
            yield numbered(i, len(pixels)), pixels

    return ImageSource(name, len(view), batches, shape=shape_of(view), labels=labels)


def open_npy(name: str, path: Path) -> ImageSource:
    """Images of a `.npy` file, which stays on disk."""
    with reading(name, "a .npy file of numbers: save it again with numpy.save"):
        array = np.lib.format.open_memmap(path, mode="r")
    return open_array(name, array)


def npy_labels(name: str, path: Path) -> NDArray[Any] | None:
    """Labels of a `.npy` file; None where it holds images."""
    with reading(name, "a file of labels"):
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    return array if array.ndim == 1 else None
