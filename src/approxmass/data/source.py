"""A source of images as one kind of stream, whatever it reads from."""

__all__ = ["Batches", "Chunk", "ImageSource", "Some", "describe_shape"]

import copy
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..arrays import Pixels, Shape
from ..errors import ApproxMassError
from ..runtime.cores import cores
from .chunk import Chunk, chunk_size
from .convert import Converter
from .decode import Encoded, How, decode
from .frame import Frame
from .look import (
    HEADERS,
    Batches,
    Onward,
    Some,
    first_shape,
    partly,
    samples_of,
    sizes_of,
    votes_of,
)
from .options import at_least_one, check_seen, one_an_image, row_of_each
from .region import Region
from .remarks import Note, Remarks
from .shapes import NEEDED, describe_shape

if TYPE_CHECKING:
    import hashlib

# More would hold more decoded images than they are worth.
_MOST_THREADS = 8
# Of encoded images of fewer bytes the most work is Python's, which runs in one thread at a time.
_SMALL = 2048
# Bytes of decoded images that are kept from when the source was looked at until their turn.
_KEPT = 64 << 20


class ImageSource:
    """A finite, ordered stream of equally shaped 8-bit images; `open_images` makes one.

    Arguments:
        name: What an error calls it.
        count: Images in it.
        batches: Opens it anew: the images in order, up to so many at a time.
        shape: `(C, H, W)` of every image; None where only decoding one tells it.
        labels: Reads the labels; None where there are none.
        some: Gives single images; None where they can only be had in order.
        remarks: Where what is done to the images is noted.
        onward: As `batches`, from a place on; None where all before it must be gone through.

    Attributes:
        name: The source as a person wrote it, or "array".
        frame: Height and width that every image is brought to; None leaves them as they are.
        mode: "grey" or "rgb", or "auto": what most images are, by their pixels.
        background: Grey, 0 to 255, of the ground that transparent images are drawn on.
        region: What is outside of it becomes mid grey; None where all is looked at.
        dtype: Of what `chunks` and `read` give.
        unit: What one of them is, in words: an image, or a row.
    """

    dtype: ClassVar[type] = np.uint8
    unit: ClassVar[str] = "image"

    def __init__(
        self,
        name: str,
        count: int,
        batches: Batches,
        *,
        shape: Shape | None = None,
        labels: Callable[[], NDArray[Any] | None] | None = None,
        some: Some | None = None,
        remarks: Remarks | None = None,
        onward: Onward | None = None,
    ) -> None:
        if not count:
            raise ApproxMassError(
                f"{name}: holds no {self.unit}s: give a source that has some", code="bad-source"
            )
        self.name = name
        self.frame: Frame | None = None
        self.mode = "auto"
        self.background = 255
        self.region: Region | None = None
        self._count = count
        self._batches = batches
        self._some = some
        self._onward = onward
        self._stored = shape
        self._native: Shape | None = None
        self._chosen: str | None = None  # how auto came out
        self._among: NDArray[np.int64] | None = None  # places that it looks at before it reads
        self._sizes: list[tuple[int, int]] | None = None  # as `sizes` found them
        self._labels = labels
        self._remarks = Remarks() if remarks is None else remarks
        # Images that told the shape and the mode, by their place, until a stream comes to them.
        self._decoded: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"ImageSource({self.name!r}, {len(self)} images, frame={self.frame})"

    @property
    def native_shape(self) -> Shape:
        """`(C, H, W)` of the first readable image, before any resizing; C by the mode.

        Raises:
            ApproxMassError: Not one image of the source can be read.
        """
        if self._native is None:
            stored = self._stored or first_shape(self.name, self._batches, self._kept)
            channels = {"grey": 1, "rgb": 3}.get(self.mode) or self._vote(stored[0])
            self._native = (channels, *stored[1:])
        return self._native

    @property
    def shape(self) -> Shape:
        """`(C, H, W)` of every image that `chunks` and `read` give."""
        if self.frame is None:
            return self.native_shape
        return (self.native_shape[0], self.frame.height, self.frame.width)

    @property
    def encoded(self) -> bool:
        """Its images are to be decoded; else they are pixels or numbers as they come."""
        return self._stored is None

    def labels(self) -> NDArray[Any] | None:
        """Labels as they are written, one an image, read at every call; None where there are none.

        A column `(N, 1)` becomes `(N,)`.

        Raises:
            ApproxMassError: They cannot be read.

        Example:
            >>> from approxmass.data import open_images
            >>> open_images("sample:mnist").labels() is None
            True
        """
        return None if self._labels is None else one_an_image(self._labels())

    def remarks(self) -> list[str]:
        """What has been done to the images unasked so far, a line each, in plain words.

        Some of it shows as the images are read.

        Example:
            >>> from approxmass.data import open_images
            >>> source = open_images(np.full((1, 2, 2), 7))
            >>> source.remarks()
            ['pixels: int64 does not say its range: taken as 8-bit values, 0 to 255']
        """
        return [*filter(None, [self._chosen]), *self._remarks.lines()]

    def parts(
        self,
    ) -> tuple[Batches, Some | None, Callable[[], NDArray[Any] | None] | None, Remarks]:
        """What opens its items, gives single ones, reads its labels, and what is said of it.

        For a source made from it.
        """
        return self._batches, self._some, self._labels, self._remarks.anew()

    def span(self, start: int, stop: int) -> Self:
        """The images from one place up to another, called as in the whole; without labels.

        Where a shape is given each is as in the whole; mode "auto" looks at these alone.

        Example:
            >>> from approxmass.data import open_images
            >>> chunks = open_images("sample:mnist").span(7, 10).chunks()
            >>> [name for chunk in chunks for name in chunk.names]
            ['7', '8', '9']
        """
        other = copy.copy(self)
        other._batches = partly(self._batches, self._onward, start, stop)
        other._count, other._some, other._labels, other._onward = stop - start, None, None, None
        other._native, other._chosen, other._sizes, other._among = None, None, None, None
        other._decoded, other._remarks = {}, self._remarks.anew()
        return other

    def looking_at(self, places: NDArray[np.int64]) -> Self:
        """The same source, whose mode and sizes are told by the images at these places alone.

        What is chosen by them depends on no other image.
        """
        other = copy.copy(self)
        other._among = np.sort(places)
        other._native, other._chosen, other._sizes = None, None, None
        other._decoded, other._remarks = {}, self._remarks.anew()
        return other

    def seen(
        self,
        *,
        mode: str | None = None,
        background: int | None = None,
        region: Region | None = None,
    ) -> Self:
        """The same source, its images grey or RGB, on another ground, or of them a region alone.

        None changes nothing. A region is laid over each image as it is, before any resizing.

        Raises:
            ApproxMassError: There is no such mode; `background` is not 0 to 255.

        Example:
            >>> from approxmass.data import open_images
            >>> open_images("sample:mnist").seen(mode="rgb").shape
            (3, 28, 28)
        """
        check_seen(self.name, mode, background)
        other = copy.copy(self)
        other.mode = self.mode if mode is None else mode
        other.background = self.background if background is None else background
        other.region = self.region if region is None else region
        other._native, other._chosen = None, None
        other._decoded, other._remarks = {}, self._remarks.anew()
        return other

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of up to 1,000 images, by their headers; those unreadable are left out.

        Example:
            >>> from approxmass.data import open_images
            >>> set(open_images("sample:mnist").sizes())
            {(28, 28)}
        """
        if self._stored is not None:
            return [self._stored[1:]]
        if self._sizes is None:
            samples = samples_of(self._count, self._some, self._batches, self._among, HEADERS)
            self._sizes = sizes_of(samples) or [self.native_shape[1:]]
        return self._sizes

    def resized(self, frame: int | tuple[int, int] | Frame) -> Self:
        """The same source, every image brought to a height and width, or to a square, unsquashed.

        What an image leaves free is filled by its reflection.

        Raises:
            ApproxMassError: a side is below 1.

        Example:
            >>> from approxmass.data import open_images
            >>> open_images(np.zeros((5, 28, 28), np.uint8)).resized(32).shape
            (1, 32, 32)
        """
        wanted = Frame(frame, frame) if isinstance(frame, int) else Frame(*frame)
        at_least_one(self.name, min(wanted.height, wanted.width), "resize to {}")
        other = copy.copy(self)
        other.frame = wanted
        return other

    def chunks(
        self, n: int | None = None, *, shape: Shape | None = None, threads: int | None = None
    ) -> Iterator[Chunk]:
        """Stream the images in order, at most `n` at a time; unreadable ones become errors.

        An image of another shape than `shape`, or than the first readable image, is unreadable.
        Where `shape` is grey, RGB images whose pixels are grey pass, those in colour only in mode
        "grey"; where it is RGB, grey images pass with three equal channels.

        Arguments:
            n: Images of a chunk; None for as many as make 16 MiB of pixels.
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
        n = chunk_size(self.shape if shape is None else shape) if n is None else n
        at_least_one(self.name, n, "stream {} images at a time")
        at_least_one(self.name, 1 if threads is None else threads, "decode in {} threads")
        waiting: deque[Future[Chunk]] = deque()
        pool: ThreadPoolExecutor | None = None
        convert: Converter | None = None
        start = 0
        try:
            for names, items in self._batches(n):
                if convert is None:
                    convert = self._converter(shape)
                if isinstance(items, np.ndarray):
                    yield convert.pixels(start, names, items)
                    start += len(names)
                    continue
                if pool is None:
                    workers = _workers(items[0], threads)
                    pool = ThreadPoolExecutor(workers)
                waiting.append(pool.submit(convert.encoded, start, names, items))
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
        places = None if order is None else row_of_each(self.name, order, len(self))
        images: Pixels = np.empty(
            (len(self), *(self.shape if shape is None else shape)), self.dtype
        )
        done = 0
        for chunk in self.chunks(shape=shape, threads=threads):
            chunk.require_readable(self.name)
            rows = slice(done, done + len(chunk.images))
            images[rows if places is None else places[rows]] = chunk.images
            if digest is not None:
                digest.update(chunk.images.data)
            done = rows.stop
        return images

    def _converter(self, shape: Shape | None) -> Converter:
        wanted = (self.shape, "the first image") if shape is None else (shape, NEEDED)
        how = How(
            channels=wanted[0][0],
            luminance=shape is None or self.mode == "grey",
            background=self.background,
            region=self.region,
            needed=wanted if self.frame is None else None,
        )
        kept, remarks = self._decoded, self._remarks
        return Converter(self.name, *wanted, self.frame, how, remarks, kept, decode)

    def _vote(self, stored: int) -> int:
        """Channels of all images, by the pixels of some of them."""
        if self._stored is not None and stored == 1:
            return 1
        samples = samples_of(self._count, self._some, self._batches, self._among)
        votes = votes_of(samples, self._decoded, self._kept, self.region)
        self._chosen = votes.remark(votes.channels(stored))
        return votes.channels(stored)

    def _kept(self, place: int, item: Encoded) -> Pixels:
        """An image as it is stored (of it the region), kept for the stream, if there is room."""
        pixels = self._decoded.get(place)
        if pixels is None:
            notes: list[Note] = []
            how = How(background=self.background, region=self.region)
            pixels = decode(item, None, how, notes).pixels
            self._remarks.note(place, notes)
            kept = sum(each.nbytes for each in self._decoded.values())
            if not kept or kept + pixels.nbytes <= _KEPT:
                self._decoded[place] = pixels
        return pixels


def _workers(item: Encoded, most: int | None) -> int:
    """How many threads decode images like this one while the caller works on earlier ones."""
    small = isinstance(item, bytes) and len(item) < _SMALL
    return 1 if small else min(cores(), _MOST_THREADS, *([] if most is None else [most]))
