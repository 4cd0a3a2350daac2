"""The size at which a model sees images, where nobody gives one."""

__all__ = ["framed"]

from .source import ImageSource

# Images larger than this a side are resized to it.
_LARGEST_SIDE = 64


def framed(source: ImageSource) -> tuple[ImageSource, list[str]]:
    """The images at the size that a model sees, and a remark where they are resized unasked.

    Example:
        >>> import numpy as np
        >>> from approxmass.data import open_images
        >>> source, notes = framed(open_images(np.zeros((2, 80, 100), np.uint8)))
        >>> source.shape, len(notes)
        ((1, 64, 64), 1)
    """
    if source.size is not None:
        return source, []
    _, height, width = source.native_shape
    if max(height, width) <= _LARGEST_SIDE:
        return source, []
    return source.resized(_LARGEST_SIDE), [
        f"size: images are resized to {_LARGEST_SIDE}x{_LARGEST_SIDE} (the first is "
        f"{width}x{height}), as are all over {_LARGEST_SIDE} pixels a side; give a size to choose "
        "another"
    ]
