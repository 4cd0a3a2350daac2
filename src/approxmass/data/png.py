"""An image as the bytes of a PNG file."""

__all__ = ["png_bytes"]

import io

from PIL import Image

from ..arrays import Pixels
from .decode import to_pillow


def png_bytes(image: Pixels | Image.Image, *, optimize: bool = False) -> bytes:
    """An image as the bytes of a PNG file.

    Arguments:
        image: Pixels `(C, H, W)`, or an image of Pillow.
        optimize: Take longer for fewer bytes.

    Example:
        >>> import numpy as np
        >>> png_bytes(np.zeros((1, 28, 28), np.uint8))[1:4]
        b'PNG'
    """
    opened = image if isinstance(image, Image.Image) else to_pillow(image)
    buffer = io.BytesIO()
    opened.save(buffer, "PNG", optimize=optimize)
    return buffer.getvalue()
