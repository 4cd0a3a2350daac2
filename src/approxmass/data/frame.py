"""The size at which a model sees images, where nobody gives one."""

__all__ = ["framed"]

from .source import ImageSource


def framed(source: ImageSource, side: int | None) -> tuple[ImageSource, list[str]]:
    """The images resized to a square, and a remark, unless they are of a size that was asked for.

    Arguments:
        source: Images.
        side: Of the square; None for as they are.

    Example:
        >>> import numpy as np
        >>> from approxmass.data import open_images
        >>> source, notes = framed(open_images(np.zeros((2, 80, 100), np.uint8)), 64)
        >>> source.shape, len(notes)
        ((1, 64, 64), 1)
    """
    _, height, width = source.native_shape
    if source.size is not None or side is None or (height, width) == (side, side):
        return source, []
    return source.resized(side), [
        f"size: images are resized to {side}x{side} (the first is {width}x{height}); give a size "
        "to choose another"
    ]
