"""One encoded image to 8-bit pixels: bytes, a file, or an image of Pillow.

Every road ends in the same few lines, so that an image has the same pixels whichever it took. What
is too large, or of another size than is needed, is refused by its header before it is decoded.
"""

__all__ = [
    "AS_STORED",
    "Decoded",
    "Encoded",
    "How",
    "UnreadableError",
    "decode",
    "finished",
    "resize",
    "stored_grey",
    "stored_size",
    "to_pillow",
    "to_uint8",
]

import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..arrays import Pixels, Shape
from .checked_png import SIGNATURE, check_png, ordinary_pixels, png_header
from .formats import opened, what_it_is
from .frame import Frame, placed
from .frames import MOST_PAGES, TOO_MANY, Page, first_of_several, page_of
from .guard import LARGEST, check_header, check_size, room_for, strips
from .modes import Declared, declared, eight_bit, is_grey, to_uint8
from .region import Region
from .remarks import Note
from .shapes import mismatch
from .unreadable import UnreadableError

# Where Pillow keeps what can hold the orientation of a PNG image.
_ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type APP1"}
_ORIENTATION = 0x0112
_GREY_MODES = {"1", "L", "LA", "La", "F"}

Encoded = bytes | Path | Image.Image | Page | None


@dataclass(frozen=True)
class How:
    """What every image becomes.

    Attributes:
        channels: 1 for grey, 3 for RGB; None leaves each as it is stored.
        luminance: Images in colour become grey too, where grey is wanted, and do not stay RGB.
        background: The grey, 0 to 255, of the ground that transparent images are drawn on.
        region: What is outside of it becomes one grey, before anything else; None for all inside.
        needed: `(C, H, W)` that it must have as it is stored, and whose shape that is, in words;
            None where any size will do.
    """

    channels: int | None = None
    luminance: bool = False
    background: int = 255
    region: Region | None = None
    needed: tuple[Shape, str] | None = None

    def check_size(self, width: int, height: int, grey: bool) -> None:
        """Refuse an image that has not the size that is needed, upright or turned.

        Raises:
            UnreadableError: it has not.
        """
        if self.needed is None or (height, width) == self.needed[0][1:]:
            return
        if (width, height) != self.needed[0][1:]:  # or turned, which decoding tells
            shape = (1 if grey and self.channels != 3 else 3, height, width)
            raise UnreadableError(
                mismatch(shape, self.needed[1], self.needed[0]), code="wrong-shape"
            )


AS_STORED = How()


class Decoded(NamedTuple):
    """One image: its pixels `(C, H, W)`, and the height and width it had before it was framed."""

    pixels: Pixels
    size: tuple[int, int]


def decode(
    item: Encoded,
    frame: Frame | None = None,
    how: How = AS_STORED,
    notes: list[Note] | None = None,
) -> Decoded:
    """Pixels `(C, H, W)` of one encoded image, upright, brought into a frame if given.

    Modes 1, L, LA, I;16, I and F are grey (C = 1), all others RGB (C = 3), until `how` says
    otherwise. What is transparent is drawn on a ground first. Call it within `pillow_guard()`.

    Arguments:
        item: The image.
        frame: Height and width, in pixels.
        how: What it becomes.
        notes: What was done to it unasked is added here.

    Raises:
        UnreadableError: There is no image in it, too large a one, or one that is damaged.

    Example:
        >>> decode(Image.new("LA", (4, 2), (7, 255)), frame=Frame(3, 3)).pixels.tolist()
        [[[7, 7, 7], [7, 7, 7], [7, 7, 7]]]
        >>> decode(Image.new("LA", (1, 1), (7, 0))).pixels.tolist()
        [[[255]]]
    """
    if isinstance(item, Path):
        item = _bytes_of(item)
    if not item:
        raise UnreadableError("is empty (0 bytes): copy it again or remove it")
    try:
        pixels = None
        if isinstance(item, bytes) and (header := png_header(item)) is not None:
            how.check_size(header.width, header.height, header.grey)
            check_size(header.width, header.height, 2 * header.stored, "PNG")
            pixels = ordinary_pixels(item)
        if pixels is None:
            return _by_pillow(item, frame, how, notes)
        if how.region is not None:
            stored = how.region.blanked(_pixels(pixels))
            return finished(to_pillow(stored), frame, how, notes)
        if frame is None and how.channels in (None, 1 if pixels.ndim == 2 else 3):
            return Decoded(_pixels(pixels), (pixels.shape[0], pixels.shape[1]))
        return finished(Image.fromarray(pixels), frame, how, notes)
    except UnreadableError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
        raise UnreadableError(f"has more than {limit}: make it smaller") from error
    except MemoryError as error:
        raise UnreadableError("needs more memory than there is: make it smaller") from error
    # Damaged files make Pillow's readers raise nearly anything, and none of it reads well.
    except Exception as error:
        raise UnreadableError(what_it_is(item)) from error


def _by_pillow(
    item: bytes | Image.Image | Page, frame: Frame | None, how: How, notes: list[Note] | None
) -> Decoded:
    image, said = _opened(item)
    how.check_size(image.width, image.height, _is_grey_mode(image.mode))
    check_header(image, item if isinstance(item, bytes) else None)
    with room_for(image):
        if notes is not None and not isinstance(item, Page) and first_of_several(image):
            notes.append(("frames", 0))
        flat = _flat(image, said, how, notes)
        if how.region is not None:
            flat = to_pillow(how.region.blanked(_pixels(flat)))
        return finished(flat, frame, how, notes)


def finished(
    image: Image.Image, frame: Frame | None, how: How, notes: list[Note] | None = None
) -> Decoded:
    """Pixels `(C, H, W)` of an image in mode L or RGB: its colours as `how` says, then its frame.

    Example:
        >>> finished(Image.new("RGB", (2, 2), (7, 7, 7)), Frame(1, 1), How(channels=1)).size
        (2, 2)
    """
    stored = 1 if image.mode == "L" else 3
    if how.channels == 3 and stored == 1:
        image = image.convert("RGB")
        if notes is not None:
            notes.append(("to-rgb", 0))
    elif how.channels == 1 and stored == 3:
        grey = all(is_grey(np.asarray(strip)) for _, strip in strips(image))
        if grey or how.luminance:
            image = image.convert("L")
        if how.luminance and not grey and notes is not None:
            notes.append(("to-grey", 0))
    size = (image.height, image.width)
    return Decoded(_pixels(image if frame is None else placed(image, frame)), size)


def stored_grey(item: Encoded) -> bool:
    """Whether an encoded image is stored as grey, by its header; False where that is unclear.

    Example:
        >>> stored_grey(Image.new("L", (2, 2))), stored_grey(b"no image")
        (True, False)
    """
    try:
        if isinstance(item, bytes) and item.startswith(SIGNATURE):
            return item[25] in (0, 4)
        if isinstance(item, Image.Image):
            return _is_grey_mode(item.mode)
        if isinstance(item, bytes | Path):
            with opened(item) as image:
                return _is_grey_mode(image.mode)
    except Exception:  # decoding it says why
        pass
    return False


def stored_size(item: Encoded) -> tuple[int, int]:
    """Height and width of an encoded image, upright, by its header.

    Raises:
        OSError: there is no image in it; Pillow's readers raise others too.

    Example:
        >>> stored_size(Image.new("L", (3, 2)))
        (2, 3)
    """
    if isinstance(item, Page):
        item = item.item
    if not isinstance(item, Image.Image):
        with opened(item or b"") as image:
            return stored_size(image)
    # Looking for an orientation decodes a PNG image, and most have none.
    maybe = item.format != "PNG" or bool(_ORIENTED & item.info.keys())
    turned = maybe and item.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (item.width, item.height) if turned else (item.height, item.width)


def _is_grey_mode(mode: str) -> bool:
    return mode in _GREY_MODES or mode.startswith("I")


def _bytes_of(path: Path) -> bytes:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for, for ever
            raise UnreadableError("is not a file: remove it")
        if facts.st_size > LARGEST:
            raise UnreadableError(f"is a file of {facts.st_size / 1e6:,.0f} MB: make it smaller")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(
            f"cannot be opened ({error.strerror}): put the file there, or leave it out"
        ) from error


def _opened(item: bytes | Image.Image | Page) -> tuple[Image.Image, Declared]:
    """An image whose file has been checked but is not decoded, and what it says."""
    if isinstance(item, Page):
        return _page(item)
    if isinstance(item, Image.Image):
        _check_unread(item)
        return item, declared(item)
    image = opened(item)
    return image, declared(image)


def _flat(image: Image.Image, said: Declared, how: How, notes: list[Note] | None) -> Image.Image:
    """An image in mode L or RGB, upright."""
    image.load()
    check_header(image)  # an icon is as large as the PNG in it says
    # Looking for an orientation takes as long as decoding a small image, and most have none.
    if image.format != "PNG" or _ORIENTED & image.info.keys():
        with suppress(Exception):  # damaged EXIF data, of which Pillow makes many errors
            if image.getexif().get(_ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
    return eight_bit(image, said, how.background, notes)


def _page(page: Page) -> tuple[Image.Image, Declared]:
    """A page, and what it says; a file is not read whole for each of its pages."""
    if page.number == TOO_MANY:
        raise UnreadableError(f"has more than {MOST_PAGES:,} frames or pages: split it")
    item = page.item
    if isinstance(item, Image.Image):
        _check_unread(item)
        return page_of(item, page.number)
    if isinstance(item, Path):
        with item.open("rb") as file:
            is_png = file.read(len(SIGNATURE)) == SIGNATURE
        item = _bytes_of(item) if is_png else item
    if isinstance(item, bytes) and item.startswith(SIGNATURE):
        check_png(item)
    image = opened(item)
    # A frame of a GIF may be larger than those before it, which are decoded on the way to it.
    for number in range(page.number + 1) if image.format == "GIF" else (page.number,):
        check_header(image)
        image.seek(number)
    return image, declared(image)


def _check_unread(image: Image.Image) -> None:
    """Hold the file behind an image that a person opened, and that is not yet read, to account."""
    file: Any = getattr(image, "fp", None)
    if image.format != "PNG" or not getattr(image, "tile", None) or file is None:
        return
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    if data.startswith(SIGNATURE):
        check_png(data)


def resize(images: Pixels, frame: Frame) -> Pixels:
    """Images `(k, C, H, W)` in a frame, each as the encoded ones are.

    Example:
        >>> resize(np.array([[[[0, 100], [0, 100]]]], np.uint8), Frame(3, 3))[0, 0, 0].tolist()
        [0, 50, 100]
    """
    if images.shape[2:] == frame[:2]:
        return images
    planes = images[:, 0] if images.shape[1] == 1 else np.moveaxis(images, 1, 3)
    result = np.empty((*images.shape[:2], frame.height, frame.width), np.uint8)
    for i, plane in enumerate(planes):
        result[i] = _pixels(placed(Image.fromarray(plane), frame))
    return result


def to_pillow(image: Pixels) -> Image.Image:
    """Pixels `(C, H, W)` as an image, grey or RGB.

    Example:
        >>> to_pillow(np.zeros((3, 2, 5), np.uint8)).size
        (5, 2)
    """
    return Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2))


def _pixels(image: Image.Image | Pixels) -> Pixels:
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
