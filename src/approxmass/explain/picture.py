"""An image beside itself with a map of it."""

__all__ = ["picture"]

import numpy as np
from PIL import Image, ImageOps

from ..arrays import Floats, Pixels
from ..data.decode import to_pillow

# Pictures are enlarged to about this many pixels a side.
_SHOWN = 224


def picture(image: Pixels, share: Floats) -> Image.Image:
    """An image beside itself with the map over it: the hotter, the more of the mass lies there.

    Arguments:
        image: `(C, H, W)`, uint8.
        share: `(H, W)`, a map of an `Explanation`.

    Returns:
        An RGB picture, some 224 pixels high.

    Example:
        >>> picture(np.zeros((1, 28, 28), np.uint8), np.full((28, 28), 1 / 784)).size
        (456, 224)
    """
    height, width = share.shape
    scale = max(1, round(_SHOWN / max(height, width)))
    size = (width * scale, height * scale)
    plain = to_pillow(image).convert("RGB").resize(size, Image.Resampling.NEAREST)
    strength = Image.fromarray((255 * share / share.max()).astype(np.uint8))
    strength = strength.resize(size, Image.Resampling.BICUBIC)
    heat = ImageOps.colorize(strength, "#d1271b", "#fff3a6", mid="#ff8c1a", midpoint=110)
    grey = ImageOps.colorize(ImageOps.grayscale(plain), "#10131f", "#8f97ad")
    # Clear where there is no heat, so that the image shows.
    over = Image.composite(heat, grey, strength.point(lambda v: min(255, 2 * v)))
    both = Image.new("RGB", (2 * size[0] + 8, size[1]), "white")
    both.paste(plain, (0, 0))
    both.paste(over, (size[0] + 8, 0))
    return both
