"""An image beside itself with its map: contours where it exceeds what is usual, and a scale."""

__all__ = ["outlined", "overlay", "picture", "plain", "scale_of", "shown_size"]

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..arrays import Bools, Floats, Pixels
from ..calibration import FALSE_ALARM_RATE, threshold
from ..data.decode import to_pillow
from ..data.frame import Box
from .attribution import Explanation

# The longer side of what is shown, in pixels; the scale's width, and the line above.
_SHOWN, _SCALE, _LINE, _GAP = 336, 16, 22, 8
_INK, _PAPER, _CONTOUR = "#1b2030", "#ffffff", "#c8102e"
_MARKED = "#00a3e0"
_COLD, _WARM, _HOT = "#fff3a6", "#ff8c1a", "#b5121b"
_NEAREST = Image.Resampling.NEAREST


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which an image of that size is shown; its map must have them.

    Example:
        >>> shown_size((1270, 500)), shown_size((28, 28))
        ((336, 132), (336, 336))
    """
    scale = _SHOWN / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def overlay(image: Pixels, box: Box | None, found: Explanation, place: int) -> Image.Image:
    """An image in grey under its map, a contour around what exceeds the threshold.

    Arguments:
        image: `(C, h, w)`, uint8, in the frame.
        box: Where in it the image lies; None for all over.
        found: Its map is of the size at which it is shown.
        place: Of the image in `found`.
    """
    surface = found.maps[place]
    low, limit, high = scale_of(found.usual_of(place))
    strength = ((surface - low) / max(high - low, 1e-12)).clip(0, 1)
    level = Image.fromarray((255 * np.nan_to_num(strength)).astype(np.uint8))
    heat = ImageOps.colorize(level, _COLD, _HOT, mid=_WARM)
    grey = ImageOps.colorize(ImageOps.grayscale(plain(image, box, surface.shape)), "black", "white")
    drawn = Image.composite(heat, grey, level.point(lambda v: min(190, 2 * v)))
    return _contour(drawn, np.nan_to_num(surface, nan=-np.inf) > limit, _CONTOUR)


def outlined(image: Image.Image, mask: Bools) -> Image.Image:
    """An image with an outline of what a mask `(H, W)`, of any size, marks."""
    of = Image.fromarray((255 * mask).astype(np.uint8))
    # What is marked is seen however small it is shown.
    fitting = of.resize(image.size, Image.Resampling.BOX if of.width > image.width else _NEAREST)
    return _contour(image.copy(), np.asarray(fitting) > 0, _MARKED)


def _contour(drawn: Image.Image, inside: Bools, colour: str) -> Image.Image:
    padded = np.pad(inside, 1, mode="edge")
    eroded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge = Image.fromarray((255 * (inside & ~eroded)).astype(np.uint8))
    drawn.paste(Image.new("RGB", drawn.size, colour), mask=edge)
    return drawn


def picture(
    image: Pixels, box: Box | None, found: Explanation, place: int, *, name: str, p_value: float
) -> Image.Image:
    """An image, beside it the same with its map, the scale, and a line above them.

    Arguments:
        image: As of `overlay`; so are
        box,
        found and
        place.
        name: Of the image.
        p_value: Of the image.
    """
    height, width = found.maps[place].shape
    both = Image.new("RGB", (2 * width + 3 * _GAP + _SCALE + 64, height + _LINE + _GAP), _PAPER)
    both.paste(plain(image, box, (height, width)), (0, _LINE))
    both.paste(overlay(image, box, found, place), (width + _GAP, _LINE))
    left = 2 * (width + _GAP)
    ramp = np.linspace(255, 0, height).round().astype(np.uint8)[:, None].repeat(_SCALE, 1)
    both.paste(ImageOps.colorize(Image.fromarray(ramp), _COLD, _HOT, mid=_WARM), (left, _LINE))
    draw, font = ImageDraw.Draw(both), ImageFont.load_default(12)
    low, limit, high = scale_of(found.usual_of(place))
    middle = _LINE + height // 2
    draw.line((left - 3, middle, left + _SCALE + 3, middle), _CONTOUR, 2)
    at = left + _SCALE + 6
    draw.text((at, middle), f"{limit:.3g}\n5% limit", _CONTOUR, font, anchor="lm")
    draw.text((at, _LINE), f"{high:.3g}", _INK, font, anchor="lt")
    draw.text((at, _LINE + height), f"{low:.3g}", _INK, font, anchor="lb")
    tail = f"  p = {p_value:.2g}, p of the map = {found.p_value[place]:.2g}"
    room = both.width - draw.textlength(tail, font)
    shown = "".join(c if c.isprintable() else "?" for c in name)
    while shown and draw.textlength(shown, font) > room:
        shown = shown[1:]
    draw.text((0, 4), shown + tail, _INK, font)
    return both


def scale_of(usual: Floats) -> tuple[float, float, float]:
    """The value that is clear, the limit in the middle, and the one that is hottest.

    Arguments:
        usual: Peaks `(n,)` of the maps of images that calibrate.

    Example:
        >>> tuple(round(each) for each in scale_of(np.arange(39.0)))
        (19, 37, 55)
    """
    low, limit = float(np.median(usual)), threshold(usual, FALSE_ALARM_RATE)
    if math.isinf(limit):  # too few images to say: the largest there was
        limit = float(usual.max())
    low = min(low, limit)
    return low, limit, 2 * limit - low


def plain(image: Pixels, box: Box | None, shape: tuple[int, ...]) -> Image.Image:
    """An image `(C, h, w)` cut out of its frame, in a height and width; few pixels stay seen."""
    cut: NDArray[np.uint8] = image
    if box is not None:
        cut = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
    size = (shape[1], shape[0])
    enlarge = cut.shape[1] * 2 <= shape[0]  # so that pixels are seen where there are few
    how = _NEAREST if enlarge else Image.Resampling.BILINEAR
    return to_pillow(np.ascontiguousarray(cut)).convert("RGB").resize(size, how)
