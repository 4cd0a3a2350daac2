"""Pixels of any kind to 8-bit grey or RGB: one rule for arrays, files and Pillow images.

What a value means is declared by what holds it, and never guessed from the values of one image:
8 bits are 0 to 255, 16 bits 0 to 65535, floats 0 to 1; integers that declare no range (of 32 bits,
or signed) are 0 to 255, with a remark. What is outside is refused.
"""

__all__ = ["Declared", "declared", "eight_bit", "is_blank", "is_grey", "scaled", "to_uint8"]

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..arrays import Pixels
from .guard import strips
from .remarks import Note
from .unreadable import UnreadableError

# How far apart the channels of a grey image are once a JPEG has rounded them, at most.
_ROUNDING = 4
_GREY = {"1", "L", "LA", "La"}
_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_SIXTEEN = 65535
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _SIGNED = 258, 339, 2


class Declared(NamedTuple):
    """What a file says of its values.

    Attributes:
        top: The largest value that they can have; None where nothing says so.
        raw: How they are stored, as Pillow calls it; empty where that is not known.
    """

    top: int | None
    raw: str


def to_uint8(block: NDArray[Any]) -> Pixels:
    """8-bit pixels of images; always a new C-ordered array.

    Arguments:
        block: `(k, ...)`: uint8, bool, uint16 (0 to 65535), floats in [0, 1], or other integers
            in [0, 255].

    Raises:
        UnreadableError: A value is out of range, or 16-bit values of one image are all below 256
            (8 bits in 16, which would become black); it carries the image's index.

    Example:
        >>> to_uint8(np.array([[0.0, 0.5, 1.0]]))
        array([[  0, 128, 255]], dtype=uint8)
        >>> to_uint8(np.array([[0, 32768, 65535]], np.uint16))
        array([[  0, 128, 255]], dtype=uint8)
    """
    if block.dtype.kind == "b":
        return block.astype(np.uint8, order="C") * np.uint8(255)
    if block.dtype == np.uint8:
        return block.copy(order="C")
    if block.dtype.kind == "f":
        _check_range(block, 1)
        scaled_up: Pixels = np.rint(block * 255).astype(np.uint8, order="C")
        return scaled_up
    return scaled(block, _SIXTEEN if block.dtype.kind + str(block.dtype.itemsize) == "u2" else None)


def scaled(block: NDArray[Any], top: int | None) -> Pixels:
    """8-bit pixels of integers that go from 0 to `top`; None where they are as 8 bits have them.

    Raises:
        UnreadableError: As `to_uint8`.

    Example:
        >>> scaled(np.array([[0, 2048, 4095]]), 4095)
        array([[  0, 128, 255]], dtype=uint8)
    """
    _check_range(block, 255 if top is None else top)
    if top is None:
        return block.astype(np.uint8, order="C")
    if top == _SIXTEEN and block.max() > 0:
        _check_deep(block.reshape(len(block), -1).max(axis=1))
    return _in_8_bits(block, top)


def _in_8_bits(block: NDArray[Any], top: int) -> Pixels:
    wide = block.astype(np.int64)
    return ((wide * 255 + top // 2) // top).astype(np.uint8, order="C")


def _check_deep(largest: NDArray[Any]) -> None:
    """Refuse 8 bits in 16, by the largest 16-bit value of each image, `(k,)`."""
    small = (largest > 0) & (largest <= 255)
    if small.any():
        index = int(np.argmax(small))
        raise UnreadableError(
            f"has 16-bit values of {largest[index]} at most, which are black: if they are 8-bit"
            " values save it with 8 bits, else scale them to 0 to 65535",
            index=index,
        )


def _check_range(block: NDArray[Any], top: int) -> None:
    # NaN fails every comparison; the slow search for the culprit only runs once there is one.
    if block.min() >= 0 and block.max() <= top:
        return
    bad = ~((block >= 0) & (block <= top))
    value = block[bad][0]
    if not np.isfinite(value):
        cure = "replace NaN and infinite values"
    elif value < 0:
        cure = f"bring them to the range 0 to {top}"
    elif top == 1:
        cure = "float pixels go from 0 to 1, so divide by 255 (or convert to uint8)"
    elif top == 255:
        cure = (
            "integers that do not say their range are 8-bit values, 0 to 255, so rescale them (or "
            "save them as unsigned 16-bit ones, 0 to 65535)"
        )
    else:
        cure = f"its pixels go from 0 to {top}, so rescale them"
    index = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
    raise UnreadableError(f"has the value {value:g}: {cure}", index=index)


def declared(image: Image.Image) -> Declared:
    """What a file just opened says of its values; it is forgotten as soon as it is loaded.

    Raises:
        UnreadableError: It has signed 8-bit values, which Pillow takes for unsigned ones.

    Example:
        >>> declared(Image.new("I;16", (2, 2))).top
        65535
    """
    tags: Any = getattr(image, "tag_v2", {})
    bits = (tags.get(_BITS_PER_SAMPLE) or (16,))[0]
    if bits == 8 and _SIGNED in (tags.get(_SAMPLE_FORMAT) or ()):
        raise UnreadableError("has signed 8-bit values: save it with unsigned ones, 0 to 255")
    tiles: Any = getattr(image, "tile", None)
    raw = tiles[0][3] if tiles else ""
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    top = None
    if image.mode.startswith("I;16"):
        top = (1 << bits) - 1
    elif image.mode == "I" and image.format in ("PNG", "PPM"):  # which have 16 bits at most
        top = _SIXTEEN
    return Declared(top, raw if isinstance(raw, str) else "")


def eight_bit(
    image: Image.Image, said: Declared, background: int, notes: list[Note] | None
) -> Image.Image:
    """`image` in mode L or RGB, on a ground of that grey where it is transparent.

    Modes 1, L, LA, I and F become grey, all others RGB.

    Raises:
        UnreadableError: A value is out of range.

    Example:
        >>> glass = Image.new("LA", (1, 1), (0, 51))
        >>> eight_bit(glass, declared(glass), 255, None).getpixel((0, 0))
        204
    """
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return _eight_bit(image, said, background, notes)
    if image.mode.startswith("I") and said.top == _SIXTEEN:
        _check_deep(np.array([max(np.asarray(strip).max() for _, strip in strips(image))]))
    result: Image.Image | None = None
    for row, strip in strips(image):  # so that a large one is in memory twice at most
        flat = _eight_bit(strip, said, background, notes)
        if strip is image:
            return flat
        result = Image.new(flat.mode, image.size) if result is None else result
        result.paste(flat, (0, row))
    assert result is not None  # no image is without rows
    return result


def _eight_bit(
    image: Image.Image, said: Declared, background: int, notes: list[Note] | None
) -> Image.Image:
    """As `eight_bit`, all at once; whether 16-bit values are 8-bit ones has been looked at."""
    alpha = _alpha(image, said.raw)
    if image.mode == "F":
        flat = Image.fromarray(to_uint8(np.asarray(image)[None])[0])
    elif image.mode.startswith("I"):
        values = np.asarray(image)[None]
        _check_range(values, 255 if said.top is None else said.top)
        flat = Image.fromarray(
            (values.astype(np.uint8) if said.top is None else _in_8_bits(values, said.top))[0]
        )
        if notes is not None and said.top is None:
            notes.append(("guess", 0))
        elif notes is not None and said.top == _SIXTEEN:
            notes.append(("deep", int(values.max())))
    else:
        flat = _without_alpha(image)
        if notes is not None and ";16" in said.raw:
            # Of colours of 16 bits Pillow keeps the upper eight.
            largest = max(top for _, top in np.atleast_2d(flat.getextrema()))
            notes.append(("deep", 256 * int(largest) + 255))
    if alpha is None:
        return flat
    if notes is not None:
        notes.append(("alpha", 0))
    ground = Image.new("L", flat.size, background).convert(flat.mode)
    return Image.composite(flat, ground, alpha)


def _without_alpha(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBa", "La"):  # colours that have been multiplied
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    mode = "L" if image.mode in _GREY else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _alpha(image: Image.Image, raw: str) -> Image.Image | None:
    """How opaque each pixel is, in mode L; None where all are."""
    clear = image.info.get("transparency")
    if image.mode in _WITH_ALPHA:
        alpha = image.getchannel(image.getbands()[-1])
    elif image.mode == "P":
        if not image.has_transparency_data:
            return None
        alpha = image.convert("RGBA").getchannel("A")
    elif clear is None:
        return None
    else:
        # Pillow gives the transparent colour as the file stores it, but scales the pixels.
        colour = np.asarray(clear, np.int64)
        colour = (
            colour >> 8 if raw.startswith("RGB;16") else colour * {"L;2": 85, "L;4": 17}.get(raw, 1)
        )
        values = np.asarray(image)
        same = (values * 255 if values.dtype == bool else values) == colour
        opaque = ~(same.all(axis=-1) if same.ndim == 3 else same)
        alpha = Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))
    lowest: Any = alpha.getextrema()[0]
    return None if lowest == 255 else alpha


def is_grey(pixels: Pixels) -> bool:
    """Whether the channels of one image `(H, W, 3)` are equal, to within what a JPEG rounds.

    Example:
        >>> is_grey(np.full((2, 2, 3), 7, np.uint8)), is_grey(np.uint8([[[7, 7, 99]]]))
        (True, False)
    """
    # One row shows colour in most photos, and saves looking at the rest.
    return _spread(pixels[len(pixels) // 2]) <= _ROUNDING and _spread(pixels) <= _ROUNDING


def _spread(pixels: Pixels) -> int:
    """How far apart the channels of a pixel are, at most."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    low, high = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    return int((high - low).max())


def is_blank(pixels: Pixels) -> bool:
    """Whether all pixels of an image are one grey, so that it says nothing of the others.

    Example:
        >>> is_blank(np.zeros((2, 2, 3), np.uint8))
        True
    """
    return bool(pixels.min() == pixels.max())
