"""A source of images as one kind of stream, whatever it reads from."""

__all__ = ["Batches", "Chunk", "ImageSource", "describe_shape"]

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..arrays import Pixels, Shape
from ..errors import ApproxMassError
from ..runtime.machine import cores
from .chunk import Chunk
from .decode import Encoded, UnreadableError, decode, resize
from .guard import pillow_guard
from .shapes import NEEDED, describe_shape, mismatch, shape_of

if TYPE_CHECKING:
    import hashlib

# More would hold more decoded images than they are worth.
_MOST_THREADS = 8
# Of encoded images of fewer bytes the most work is Python's, which runs in one thread at a time.
_SMALL = 2048
# Up to n items at a time, with their names: encoded images, or pixels (k, C, H, W).
Batches = Callable[[int], Iterator[tuple[list[str], Sequence[Encoded] | Pixels]]]


class ImageSource:
    """A finite, ordered stream of equally shaped 8-bit images; `open_images` makes one.

    Arguments:
        name: What an error calls it.
        count: Images in it.
        batches: Opens it anew: the images in order, up to so many at a time.
        shape: `(C, H, W)` of every image; None where only decoding one tells it.
        labels: Reads the labels; None where there are none.

    Attributes:
        name: The source as a person wrote it, or "array".
        size: Side of the square that every image is resized to; None leaves them as they are.
    """

    def __init__(
        self,
        name: str,
        count: int,
        batches: Batches,
        *,
        shape: Shape | None = None,
        labels: Callable[[], NDArray[Any] | None] | None = None,
    ) -> None:
        if not count:
            raise ApproxMassError(
                f"{name}: holds no images: give a source that has some", code="bad-source"
            )
        self.name = name
        self.size: int | None = None
        self._count = count
        self._batches = batches
        self._native = shape
        self._labels = labels
        # The image that told the shape, by its place, until a stream comes to it.
        self._decoded: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"ImageSource({self.name!r}, {len(self)} images, size={self.size})"

    @property
    def native_shape(self) -> Shape:
        """`(C, H, W)` of the first readable image, before any resizing.

        Raises:
            ApproxMassError: Not one image of the source can be read.
        """
        if self._native is None:
            self._native = self._look()
        return self._native

    @property
    def shape(self) -> Shape:
        """`(C, H, W)` of every image that `chunks` and `read` give."""
        if self.size is None:
            return self.native_shape
        return (self.native_shape[0], self.size, self.size)

    def labels(self) -> NDArray[Any] | None:
        """Labels as they are written, one an image, read at every call; None where there are none.

        Raises:
            ApproxMassError: They cannot be read.

        Example:
            >>> from approxmass.data import open_images
            >>> open_images("sample:mnist").labels() is None
            True
        """
        return None if self._labels is None else self._labels()

    def resized(self, size: int) -> Self:
        """The same source, with every image resized to `size` x `size` pixels.

        Raises:
            ApproxMassError: `size` is below 1.

        Example:
            >>> from approxmass.data import open_images
            >>> open_images(np.zeros((5, 28, 28), np.uint8)).resized(32).shape
            (1, 32, 32)
        """
        _at_least_one(self.name, size, "resize to {}")
        other = copy.copy(self)
        other.size = size
        return other

    def chunks(
        self, n: int = 1024, *, shape: Shape | None = None, threads: int | None = None
    ) -> Iterator[Chunk]:
        """Stream the images in order, at most `n` at a time; unreadable ones become errors.

        An image of another shape than `shape`, or than the first readable image, is unreadable.

        Arguments:
            n: Images of a chunk.
            shape: `(C, H, W)` that every image must have.
            threads: The most that decode at once; None for what suits the machine and the images.

        Raises:
            ApproxMassError: Not one image can be read, an array holds something else than
                8-bit pixels, or the file breaks off; `n` or `threads` is below 1.

        Example:
            >>> from approxmass.data import open_images
            >>> [len(chunk.names) for chunk in open_images("sample:mnist").chunks(400)]
            [400, 400, 200]
        """
        _at_least_one(self.name, n, "stream {} images at a time")
        _at_least_one(self.name, 1 if threads is None else threads, "decode in {} threads")
        waiting: deque[Future[Chunk]] = deque()
        pool: ThreadPoolExecutor | None = None
        start = 0
        try:
            for names, items in self._batches(n):
                if isinstance(items, np.ndarray):
                    yield self._resized_array(names, items, shape)
                    continue
                if pool is None:
                    workers = _workers(items[0], threads)
                    pool = ThreadPoolExecutor(workers)
                wanted = (self.shape, "the first image") if shape is None else (shape, NEEDED)
                waiting.append(pool.submit(self._decode, start, names, items, *wanted))
                start += len(names)
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def read(
        self,
        *,
        shape: Shape | None = None,
        order: NDArray[np.int64] | None = None,
        digest: "hashlib._Hash | None" = None,
        threads: int | None = None,
    ) -> Pixels:
        """All images, uint8 `(N, C, H, W)`; of `shape`, if it is given.

        Arguments:
            shape: `(C, H, W)` that every image must have.
            order: `(N,)`, each of 0 to N-1 once: image `order[r]` of the source becomes row `r`.
            digest: Updated with the bytes of the pixels, in the order of the source.
            threads: As in `chunks`.

        Raises:
            ApproxMassError: As `chunks`; any image is unreadable; `order` is no permutation.

        Example:
            >>> from approxmass.data import open_images
            >>> open_images("sample:mnist").read().shape
            (1000, 1, 28, 28)
        """
        places = None if order is None else self._places(order)
        images = np.empty((len(self), *(self.shape if shape is None else shape)), np.uint8)
        done = 0
        for chunk in self.chunks(shape=shape, threads=threads):
            chunk.require_readable(self.name)
            rows = slice(done, done + len(chunk.images))
            images[rows if places is None else places[rows]] = chunk.images
            if digest is not None:
                digest.update(chunk.images.data)
            done = rows.stop
        return images

    def _places(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row that each image becomes."""
        places = np.arange(len(self))
        if not np.array_equal(np.sort(order), places):
            raise ApproxMassError(
                f"{self.name}: order must hold each of 0 to {len(self) - 1} once", code="bad-option"
            )
        places[order] = np.arange(len(self))
        return places

    def _look(self) -> Shape:
        first, place = "", 0
        with pillow_guard():
            for names, items in self._batches(16):
                if isinstance(items, np.ndarray):
                    return shape_of(items)
                for name, item in zip(names, items, strict=True):
                    try:
                        pixels = decode(item)
                    except UnreadableError as error:
                        first = first or f"image {name} {error}"
                        place += 1
                    else:
                        self._decoded[place] = pixels
                        return shape_of(pixels)
        raise ApproxMassError(
            f"{self.name}: no image can be read; the first, {first}", code="bad-image"
        )

    def _resized_array(self, names: list[str], items: Pixels, shape: Shape | None) -> Chunk:
        images = items if self.size is None else resize(items, self.size)
        if shape is not None and images.shape[1:] != shape:
            reason = mismatch(images.shape[1:], NEEDED, shape)
            raise ApproxMassError(f"{self.name}: image {names[0]} {reason}", code="wrong-shape")
        return Chunk(images, names, [None] * len(names), [None] * len(names))

    def _decode(
        self, start: int, names: list[str], items: Sequence[Encoded], shape: Shape, what: str
    ) -> Chunk:
        images = np.empty((len(items), *shape), np.uint8)
        errors: list[UnreadableError | None] = []
        k = 0
        with pillow_guard():
            for place, item in enumerate(items, start):
                try:
                    pixels = self._pixels(place, item)
                    if pixels.shape != shape:
                        reason = mismatch(pixels.shape, what, shape)
                        raise UnreadableError(reason, code="wrong-shape")
                except UnreadableError as error:
                    errors.append(error)
                else:
                    images[k] = pixels
                    errors.append(None)
                    k += 1
        reasons = [None if error is None else str(error) for error in errors]
        codes = [None if error is None else error.code for error in errors]
        return Chunk(images[:k], names, reasons, codes)

    def _pixels(self, place: int, item: Encoded) -> Pixels:
        known = self._decoded.pop(place, None)
        if known is None:
            return decode(item, self.size)
        return known if self.size is None else resize(known[None], self.size)[0]


def _workers(item: Encoded, most: int | None) -> int:
    """How many threads decode images like this one while the caller works on earlier ones."""
    small = isinstance(item, bytes) and len(item) < _SMALL
    return 1 if small else min(cores(), _MOST_THREADS, *([] if most is None else [most]))


def _at_least_one(name: str, number: int, what: str) -> None:
    if number < 1:
        raise ApproxMassError(
            f"{name}: cannot {what.format(number)}: give 1 or more", code="bad-option"
        )
