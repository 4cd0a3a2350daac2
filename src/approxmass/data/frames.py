"""Files of several frames or pages: animations, stacks, scans."""

__all__ = ["MOST_PAGES", "TOO_MANY", "Page", "count_pages", "first_of_several", "page_of"]

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from .formats import opened
from .modes import Declared, declared

# What else they hold beside the image are previews, gain maps or layers, and no further images.
_ONE_IMAGE = {"MPO", "PSD", "ICO", "ICNS"}
# Bits of the TIFF tag NewSubfileType: a smaller copy of another page, a mask of one.
_SUBFILE_TYPE, _NO_PAGE = 254, 1 | 4
# More frames or pages of a file are refused, where all are read; this stands for their numbers.
MOST_PAGES, TOO_MANY = 10_000, -1
# Turning the pages of an image that a person opened changes it, and several threads may.
_turning = threading.Lock()


class Page(NamedTuple):
    """One frame or page of an encoded image.

    Attributes:
        item: The whole.
        number: Which, from 0.
    """

    item: bytes | Path | Image.Image
    number: int


def first_of_several(image: Image.Image) -> bool:
    """Whether an image just opened has more frames or pages than the one it stands at.

    Example:
        >>> first_of_several(Image.new("L", (2, 2)))
        False
    """
    if image.format in _ONE_IMAGE or not getattr(image, "is_animated", False):
        return False
    return image.format != "TIFF" or len(list(islice(_each_page(image), 2))) > 1


def count_pages(item: object) -> list[int]:
    """Numbers of the frames or pages of an encoded image, by its headers; of a damaged one, 0.

    `TOO_MANY` stands for more than `MOST_PAGES`.

    Example:
        >>> count_pages(Image.new("L", (2, 2)))
        [0]
    """
    try:
        if isinstance(item, Image.Image):
            with _turning:
                return _pages(item)
        if isinstance(item, bytes | Path):
            with opened(item) as image:
                return _pages(image)
    except Exception:  # decoding it says why
        pass
    return [0]


def page_of(image: Image.Image, number: int) -> tuple[Image.Image, Declared]:
    """That frame or page of an opened image, which is left where it stands, and what it says."""
    with _turning:
        before = image.tell()
        image.seek(number)
        said = declared(image)
        page = image.copy()
        page.format = image.format
        image.seek(before)
    return page, said


def _pages(image: Image.Image) -> list[int]:
    """Numbers of the frames or pages of an opened image; `TOO_MANY` alone for too many."""
    if image.format in _ONE_IMAGE or not getattr(image, "is_animated", False):
        return [0]
    found = list(islice(_each_page(image), MOST_PAGES + 1))
    return found if len(found) <= MOST_PAGES else [TOO_MANY]


def _each_page(image: Image.Image) -> Iterator[int]:
    several: Any = image
    if image.format != "TIFF":
        yield from range(several.n_frames)
        return
    before = image.tell()
    try:
        for number in range(2 * MOST_PAGES):
            try:
                image.seek(number)
            except EOFError:
                return
            if not (several.tag_v2.get(_SUBFILE_TYPE, 0) & _NO_PAGE and number):
                yield number
    finally:
        image.seek(before)
