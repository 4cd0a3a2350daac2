"""A first look at a source: the shape of its images, and whether they are grey or in colour."""

__all__ = [
    "HEADERS",
    "LOOKED_AT",
    "Batches",
    "Onward",
    "Some",
    "first_shape",
    "partly",
    "sample_places",
    "samples_of",
    "sizes_of",
    "votes_of",
]

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Pixels, Shape
from ..errors import ApproxMassError
from .colour import Votes
from .decode import Encoded, stored_grey, stored_size
from .guard import pillow_guard
from .modes import to_uint8
from .region import Region
from .shapes import shape_of
from .unreadable import UnreadableError

# Up to n items at a time, with their names: encoded images, or pixels (k, C, H, W).
Batches = Callable[[int], Iterator[tuple[list[str], Sequence[Encoded] | Pixels]]]
# The same from a place on: `(n, start)`.
Onward = Callable[[int, int], Iterator[tuple[list[str], Sequence[Encoded] | Pixels]]]
# An item, or a block of one image, with its place.
_Sample = tuple[int, Encoded | NDArray[Any]]
# The items at these places, which rise.
Some = Callable[[list[int]], Iterator[_Sample]]
_Keep = Callable[[int, Encoded], Pixels]

# Images whose pixels are looked at, and whose headers.
LOOKED_AT, HEADERS = 64, 1000
# Where a source can only be read in order, the images are among the first so many.
_IN_ORDER = 1000


def sample_places(
    count: int, among: NDArray[np.int64] | None = None, most: int = LOOKED_AT
) -> list[int]:
    """Places of some images, one at random in each part of a source; the same at every call.

    Arguments:
        count: Of the images.
        among: Places that may be looked at, rising; None for all.
        most: How many to choose.

    Example:
        >>> sample_places(3)
        [0, 1, 2]
        >>> len(sample_places(10_000))
        64
    """
    if among is not None:
        return [int(among[place]) for place in sample_places(len(among), most=most)]
    if count <= most:
        return list(range(count))
    edges = np.linspace(0, count, most + 1).astype(int)
    chosen = np.random.default_rng(0).integers(edges[:-1], edges[1:])
    return [int(place) for place in chosen]


def samples_of(
    count: int,
    some: Some | None,
    batches: Batches,
    among: NDArray[np.int64] | None = None,
    most: int = LOOKED_AT,
) -> Iterator[_Sample]:
    """Some images of a source, spread over it; where `some` is None over its beginning."""
    if some is not None:
        yield from some(sample_places(count, among, most))
        return
    first = min(count, _IN_ORDER)
    early = None if among is None or not (among < first).any() else among[among < first]
    chosen = sample_places(first, early, most)
    start = 0
    for names, items in batches(_IN_ORDER):
        for place in chosen:
            at = place - start
            if 0 <= at < len(names):
                yield place, items[at : at + 1] if isinstance(items, np.ndarray) else items[at]
        start += len(names)
        if start > chosen[-1]:
            return


def votes_of(
    samples: Iterator[_Sample], known: Collection[int], keep: _Keep, region: Region | None = None
) -> Votes:
    """What these images are; `keep` decodes those whose header does not tell, or that are known.

    Of blocks only what is in the region is looked at.
    """
    votes = Votes()
    first = min(known, default=0)  # those before it could not be read
    with pillow_guard():
        for place, item in samples:
            if place < first:
                continue
            with suppress(UnreadableError):  # which the stream will name
                if isinstance(item, np.ndarray):
                    pixels = to_uint8(item)[0]
                    votes.count(pixels if region is None else region.blanked(pixels))
                elif place not in known and stored_grey(item):
                    votes.grey += 1
                else:
                    votes.count(keep(place, item))
    return votes


def sizes_of(samples: Iterator[_Sample]) -> list[tuple[int, int]]:
    """Height and width of those that can be read, upright, by their headers."""
    sizes = []
    with pillow_guard():
        for _, item in samples:
            with suppress(Exception):  # the stream will say why
                sizes.append(item.shape[2:] if isinstance(item, np.ndarray) else stored_size(item))
    return sizes


def first_shape(name: str, batches: Batches, keep: _Keep) -> Shape:
    """Shape of the first readable image, as it is stored.

    Raises:
        ApproxMassError: There is none.
    """
    first, place = "", 0
    with pillow_guard():
        for names, items in batches(16):
            if isinstance(items, np.ndarray):
                return shape_of(items)
            for image, item in zip(names, items, strict=True):
                try:
                    return shape_of(keep(place, item))
                except UnreadableError as error:
                    first = first or f"image {image} {error}"
                    place += 1
    raise ApproxMassError(f"{name}: no image can be read; the first, {first}", code="bad-image")


def partly(batches: Batches, onward: Onward | None, start: int, stop: int) -> Batches:
    """The items from one place up to another."""

    def some(n: int) -> Iterator[tuple[list[str], Sequence[Encoded] | Pixels]]:
        place = start if onward is not None else 0
        for names, items in onward(n, start) if onward is not None else batches(n):
            low, high = max(0, start - place), min(len(names), stop - place)
            place += len(names)
            if low < high:
                yield names[low:high], items[low:high]
            if place >= stop:
                return

    return some
