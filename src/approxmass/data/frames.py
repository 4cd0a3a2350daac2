"""Files of several frames or pages: animations, stacks, scans."""

__all__ = ["Page", "count_pages", "first_of_several", "opened", "page_of"]

import io
import stat
import threading
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from .modes import Declared, declared

# What else they hold beside the image are previews, gain maps or layers, and no further images.
_ONE_IMAGE = {"MPO", "PSD", "ICO", "ICNS"}
# Bits of the TIFF tag NewSubfileType: a smaller copy of another page, a mask of one.
_SUBFILE_TYPE, _NO_PAGE = 254, 1 | 4
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
    return image.format != "TIFF" or len(_pages(image)) > 1


def count_pages(item: object) -> list[int]:
    """Numbers of the frames or pages of an encoded image, by its headers; of a damaged one, 0.

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


def opened(item: bytes | Path) -> Image.Image:
    """An encoded image of which only the header has been read."""
    if isinstance(item, bytes):
        return Image.open(io.BytesIO(item))
    if not stat.S_ISREG(item.stat().st_mode):  # a pipe would be waited for, for ever
        raise OSError(f"{item} is not a file")
    image = Image.open(item)
    image.filename = ""  # by which Pillow maps what is not packed: cut short, it would end us
    return image


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
    if image.format in _ONE_IMAGE or not getattr(image, "is_animated", False):
        return [0]
    several: Any = image
    if image.format != "TIFF":
        return list(range(several.n_frames))
    before, found = image.tell(), []
    for number in range(several.n_frames):
        image.seek(number)
        if not (several.tag_v2.get(_SUBFILE_TYPE, 0) & _NO_PAGE and number):
            found.append(number)
    image.seek(before)
    return found
