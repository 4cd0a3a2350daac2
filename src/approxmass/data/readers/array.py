"""Arrays in memory and in `.npy` files."""

__all__ = ["as_array", "npy_labels", "open_array", "open_npy", "plain_tensor"]

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Pixels
from ...errors import ApproxMassError, Code
from ..layouts import channels_first, stacked
from ..modes import to_uint8
from ..remarks import Remarks
from ..shapes import shape_of
from ..source import ImageSource
from ..unreadable import UnreadableError
from .common import numbered, rows_within
from .npy import NpyRows


def as_array(name: str, source: object, *, code: Code = "bad-source") -> NDArray[Any]:
    """Anything that can be one as an array; `name` is what an error calls it, `code` its kind."""
    masked = int(np.ma.getmaskarray(source).sum()) if np.ma.isMaskedArray(source) else 0
    if masked:
        what = "pixels" if code != "bad-labels" else "labels"
        raise ApproxMassError(
            f"{name}: {masked:,} {what} are masked: give them a value (array.filled) or leave the "
            "images out",
            code="bad-labels" if code == "bad-labels" else "bad-image",
        )
    try:
        return np.asarray(plain_tensor(source))
    except (TypeError, ValueError, RuntimeError) as error:  # arrays on a GPU, ragged lists
        reason = str(error).partition("\n")[0]
        raise ApproxMassError(
            f"{name}: cannot be turned into a NumPy array: {reason}", code=code
        ) from error


def plain_tensor(source: Any) -> Any:
    """A tensor as NumPy can take it: of no graph, on the CPU, of a type that NumPy has.

    All else as it is.

    Example:
        >>> import torch
        >>> np.asarray(plain_tensor(torch.ones(1, dtype=torch.bfloat16, requires_grad=True)))
        array([1.], dtype=float32)
    """
    if not hasattr(source, "detach"):
        return source
    tensor = source.detach().cpu().resolve_conj().resolve_neg()
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16 and smaller floats
        return tensor.float().numpy()


def open_array(
    name: str,
    array: NDArray[Any],
    labels: Callable[[], NDArray[Any] | None] | None = None,
    *,
    several: bool = False,
) -> ImageSource:
    """Images of an array; values are looked at as the stream comes to them.

    Arguments:
        name: What an error calls it.
        array: The images.
        labels: Reads their labels.
        several: The first axis is known to count the images.
    """
    try:
        plain = np.asarray(array)  # where it was a memory map
        view = stacked(plain) if several else channels_first(plain)
    except UnreadableError as error:
        raise ApproxMassError(f"{name}: {error}", code=error.code) from None
    return _in_blocks(name, view, lambda start, stop: view[start:stop], labels)


def _in_blocks(
    name: str,
    like: NDArray[Any],
    read: Callable[[int, int], NDArray[Any]],
    labels: Callable[[], NDArray[Any] | None] | None = None,
) -> ImageSource:
    """Images that are as `like`, `(N, C, H, W)`, and that `read` gives from a place to another."""
    remarks = Remarks()
    kind = like.dtype.kind + str(like.dtype.itemsize)
    if kind[0] in "iu" and kind not in ("u1", "u2"):
        remarks.say(f"pixels: {like.dtype} does not say its range: taken as 8-bit values, 0 to 255")

    def batches(n: int, start: int = 0) -> Iterator[tuple[list[str], Pixels]]:
        together = rows_within(n, like[:1].nbytes)
        for i in range(start, len(like), together):
            block = read(i, i + together)
            try:
                pixels = to_uint8(block)
            except UnreadableError as error:
                raise ApproxMassError(
                    f"{name}: image {i + error.index} {error}", code=error.code
                ) from None
            if kind == "u2":
                remarks.note_block(i, len(block), ("deep", int(block.max())))
            yield numbered(i, len(pixels)), pixels

    def some(places: list[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        for i in places:
            yield i, read(i, i + 1)

    return ImageSource(
        name,
        len(like),
        batches,
        shape=shape_of(like),
        labels=labels,
        some=some,
        remarks=remarks,
        onward=batches,
    )


def open_npy(name: str, path: Path) -> ImageSource:
    """Images of a `.npy` file, which stays on disk."""
    file = NpyRows(name, path)
    if file.like.ndim < 3:  # one image, or what is refused
        return open_array(name, file.rows(0, len(file)) if file.like.ndim else file.like)
    try:
        like = channels_first(file.like)
    except UnreadableError as error:
        raise ApproxMassError(f"{name}: {error}", code=error.code) from None
    return _in_blocks(name, like, lambda start, stop: stacked(file.rows(start, stop)))


def npy_labels(name: str, path: Path) -> NDArray[Any] | None:
    """Labels of a `.npy` file; None where it holds images."""
    file = NpyRows(name, path)
    column = file.like.ndim == 2 and file.like.shape[1] == 1
    return file.rows(0, len(file)) if file.like.ndim == 1 or column else None
