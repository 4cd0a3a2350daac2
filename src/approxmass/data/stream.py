"""A source of images as one kind of stream, whatever it reads from."""

__all__ = ["Batches", "Chunk", "ImageSource", "describe_shape"]

import copy
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..errors import ApproxMassError
from ..machine import cores
from .decode import Encoded, Pixels, UnreadableError, decode, pillow_guard, resize

# More would hold more decoded images than they are worth.
_MOST_THREADS = 8
# Of encoded images of fewer bytes the most work is Python's, which runs in one thread at a time.
_SMALL = 2048
# What an error calls a shape that the caller asked for.
_NEEDED = "what is needed"
# Up to n items at a time, with their names: encoded images, or pixels (k, C, H, W).
Batches = Callable[[int], Iterator[tuple[list[str], Sequence[Encoded] | Pixels]]]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive images of a source.

    Attributes:
        images: uint8 `(k, C, H, W)`, C-contiguous: those that could be read.
        names: Of all the images, readable or not.
        errors: Of all the images: why one cannot be read, or None (`k` times).
    """

    images: Pixels
    names: list[str]
    errors: list[str | None]

    @property
    def readable(self) -> list[str]:
        """Names of `images`."""
        return [n for n, error in zip(self.names, self.errors, strict=True) if error is None]

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """Names of the others, each with the reason, worded to follow it."""
        pairs = zip(self.names, self.errors, strict=True)
        return [(name, error) for name, error in pairs if error is not None]

    def require_readable(self, source: str) -> None:
        """Raise `ApproxMassError` for the first unreadable image, if there is any."""
        for name, error in self.unreadable:
            raise ApproxMassError(f"{source}: image {name} {error}")


class ImageSource:
    """A finite, ordered stream of equally shaped 8-bit images; `open_images` makes one.

    Attributes:
        name: The source as a person wrote it, or "array".
        size: Side of the square that every image is resized to; None leaves them as they are.
    """

    def __init__(self, name: str, count: int, batches: Batches) -> None:
        if not count:
            raise ApproxMassError(f"{name}: holds no images: give a source that has some")
        self.name = name
        self.size: int | None = None
        self._count = count
        self._batches = batches

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"ImageSource({self.name!r}, {len(self)} images, size={self.size})"

    @functools.cached_property
    def native_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the first readable image, before any resizing.

        Raises:
            ApproxMassError: Not one image of the source can be read.
        """
        first = ""
        with pillow_guard():
            for names, items in self._batches(16):
                if isinstance(items, np.ndarray):
                    return _shape(items[0])
                for name, item in zip(names, items, strict=True):
                    try:
                        return _shape(decode(item))
                    except UnreadableError as error:
                        first = first or f"image {name} {error}"
        raise ApproxMassError(f"{self.name}: no image can be read; the first, {first}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every image that `chunks` and `read` give."""
        if self.size is None:
            return self.native_shape
        return (self.native_shape[0], self.size, self.size)

    def resized(self, size: int) -> Self:
        """The same source, with every image resized to `size` x `size` pixels.

        Example:
            >>> from approxmass.data import open_images
            >>> open_images(np.zeros((5, 28, 28), np.uint8)).resized(32).shape
            (1, 32, 32)
        """
        if size < 1:
            raise ApproxMassError(f"{self.name}: cannot resize to {size}: give a size of 1 or more")
        other = copy.copy(self)
        other.size = size
        return other

    def chunks(
        self, n: int = 1024, *, shape: tuple[int, int, int] | None = None
    ) -> Iterator[Chunk]:
        """Stream the images in order, at most `n` at a time; unreadable ones become errors.

        An image of another shape than `shape`, or than the first readable image, is unreadable.

        Raises:
            ApproxMassError: Not one image can be read, an array holds something else than
                8-bit pixels, or the file breaks off.

        Example:
            >>> from approxmass.data import open_images
            >>> [len(chunk.names) for chunk in open_images("sample:mnist").chunks(400)]
            [400, 400, 200]
        """
        if n < 1:
            raise ApproxMassError(
                f"{self.name}: cannot stream {n} images at a time: give 1 or more"
            )
        waiting: deque[Future[Chunk]] = deque()
        pool: ThreadPoolExecutor | None = None
        try:
            for names, items in self._batches(n):
                if isinstance(items, np.ndarray):
                    yield self._resized_array(names, items, shape)
                    continue
                if pool is None:
                    threads = _threads(items[0])
                    pool = ThreadPoolExecutor(threads)
                wanted = (self.shape, "the first image") if shape is None else (shape, _NEEDED)
                waiting.append(pool.submit(self._decoded, names, items, *wanted))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def read(self, *, shape: tuple[int, int, int] | None = None) -> Pixels:
        """All images, uint8 `(N, C, H, W)`; of `shape`, if it is given.

        Raises:
            ApproxMassError: As `chunks`; or any image is unreadable.

        Example:
            >>> from approxmass.data import open_images
            >>> open_images("sample:mnist").read().shape
            (1000, 1, 28, 28)
        """
        images = np.empty((len(self), *(self.shape if shape is None else shape)), np.uint8)
        done = 0
        for chunk in self.chunks(shape=shape):
            chunk.require_readable(self.name)
            images[done : done + len(chunk.images)] = chunk.images
            done += len(chunk.images)
        return images

    def _resized_array(
        self, names: list[str], items: Pixels, shape: tuple[int, int, int] | None
    ) -> Chunk:
        images = items if self.size is None else resize(items, self.size)
        if shape is not None and images.shape[1:] != shape:
            reason = _mismatch(images.shape[1:], _NEEDED, shape)
            raise ApproxMassError(f"{self.name}: image {names[0]} {reason}")
        return Chunk(images, names, [None] * len(names))

    def _decoded(
        self, names: list[str], items: Sequence[Encoded], shape: tuple[int, int, int], what: str
    ) -> Chunk:
        images = np.empty((len(items), *shape), np.uint8)
        errors: list[str | None] = []
        k = 0
        with pillow_guard():
            for item in items:
                try:
                    pixels = decode(item, self.size)
                    if pixels.shape != shape:
                        raise UnreadableError(_mismatch(_shape(pixels), what, shape))
                except UnreadableError as error:
                    errors.append(str(error))
                else:
                    images[k] = pixels
                    errors.append(None)
                    k += 1
        return Chunk(images[:k], names, errors)


def _threads(item: Encoded) -> int:
    """How many threads decode images like this one while the caller works on earlier ones."""
    small = isinstance(item, bytes) and len(item) < _SMALL
    return 1 if small else min(cores(), _MOST_THREADS)


def _shape(image: Pixels) -> tuple[int, int, int]:
    channels, height, width = image.shape
    return channels, height, width


def describe_shape(shape: Sequence[int]) -> str:
    """`(C, H, W)` in words.

    Example:
        >>> describe_shape((3, 32, 48))
        '48x32 RGB'
    """
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def _mismatch(shape: Sequence[int], what: str, other: Sequence[int]) -> str:
    if what == _NEEDED:
        cure = f"convert it to {describe_shape(other)}"
    elif shape[0] == other[0]:
        cure = "pass a size to have every image resized"
    else:
        cure = "convert them all to grey or all to RGB"
    return f"is {describe_shape(shape)}, but {what} is {describe_shape(other)}: {cure}"
