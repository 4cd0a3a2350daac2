"""The images of a source, brought into one frame."""

__all__ = ["framed"]

from .frame import Frame, Resample, chosen_frame
from .source import ImageSource


def framed(
    source: ImageSource,
    side: int,
    *,
    stride: int = 1,
    square: bool = False,
    resample: Resample = "bilinear",
) -> tuple[ImageSource, str]:
    """The images in a frame of their median aspect and the area of a square, and a remark.

    Arguments:
        source: Images.
        side: Of the square.
        stride: Height and width are multiples of it.
        square: The frame is that square, whatever the aspect of the images.
        resample: How they are scaled.

    Example:
        >>> import numpy as np
        >>> from approxmass.data import open_images
        >>> framed(open_images(np.zeros((2, 80, 160), np.uint8)), 64, stride=8)[0].shape
        (1, 48, 88)
    """
    sizes = source.sizes()
    frame = Frame(side, side, resample)
    if not square:
        frame = chosen_frame(sizes, side, stride, resample)
    cure = "" if square else "; give a size to choose another area"
    first = f"one is {sizes[0][1]}x{sizes[0][0]}"
    return source.resized(frame), (
        f"size: images are brought to {frame.width}x{frame.height} ({first}), unsquashed; what "
        f"they leave free is filled by their reflection{cure}"
    )
