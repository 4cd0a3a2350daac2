"""A source whose animations and stacks are read whole."""

__all__ = ["every_page"]

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decode import Encoded
from .frames import Page, count_pages
from .guard import pillow_guard
from .look import Batches
from .source import ImageSource

# Encoded images that are held at a time while their pages are counted.
_AT_ONCE = 16


def every_page(source: ImageSource) -> ImageSource:
    """The same source with a row for each frame or page; further ones are called `name#2`, ...

    Their headers are read now, to know how many there are. Its labels are repeated.

    Example:
        >>> from PIL import Image
        >>> from approxmass.data import open_images
        >>> len(every_page(open_images([Image.new("L", (2, 2))] * 3)))
        3
    """
    batches, _, labels, remarks = source.parts()
    numbers: list[list[int]] = []
    with pillow_guard():
        for _, items in batches(_AT_ONCE):
            if isinstance(items, np.ndarray):
                return source
            numbers += [count_pages(item) for item in items]

    def repeated() -> NDArray[Any] | None:
        found = None if labels is None else labels()
        return None if found is None else np.repeat(found, [len(each) for each in numbers], axis=0)

    made = ImageSource(
        source.name,
        sum(map(len, numbers)),
        _paged(batches, numbers),
        labels=repeated,
        remarks=remarks,
    )
    made.frame = source.frame
    return made.seen(mode=source.mode, background=source.background, region=source.region)


def _paged(batches: Batches, numbers: list[list[int]]) -> Batches:
    def flat(n: int) -> Iterator[tuple[str, Encoded]]:
        place = 0
        for names, items in batches(n):
            for name, item in zip(names, items, strict=True):
                pages = numbers[place]
                place += 1
                for k, number in enumerate(pages, 1):
                    whole = pages == [0] or item is None or isinstance(item, Page | np.ndarray)
                    yield (
                        name if k == 1 else f"{name}#{k}",
                        item if whole else Page(item, number),
                    )

    def grouped(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        rows = flat(n)
        while some := list(islice(rows, n)):
            yield [name for name, _ in some], [item for _, item in some]

    return grouped
