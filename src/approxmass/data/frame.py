"""The frame that images are brought into: its choice, and where in it an image lies."""

__all__ = ["Box", "Frame", "Resample", "box_in", "chosen_frame", "placed"]

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

Resample = Literal["bilinear", "bicubic", "lanczos"]


class Frame(NamedTuple):
    """What images are brought into: height and width in pixels, and how they are scaled."""

    height: int
    width: int
    resample: Resample = "bilinear"


class Box(NamedTuple):
    """Where an image lies in a frame, in pixels of the frame."""

    top: int
    left: int
    height: int
    width: int


# The frame of longer images is no longer: a side can be no shorter than its stride.
_LONGEST = 8
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def box_in(height: int, width: int, frame: Frame) -> Box:
    """The largest place in a frame, in its middle, that has the aspect of an image.

    An image whose sides come within half a pixel of the frame's fills it.

    Example:
        >>> box_in(100, 200, Frame(64, 64))
        Box(top=16, left=0, height=32, width=64)
    """
    scale = min(frame.height / height, frame.width / width)
    inside = (
        min(frame.height, max(1, round(scale * height))),
        min(frame.width, max(1, round(scale * width))),
    )
    return Box((frame.height - inside[0]) // 2, (frame.width - inside[1]) // 2, *inside)


def placed(image: Image.Image, frame: Frame) -> Image.Image:
    """An image scaled into a frame, not squashed; what it leaves free is filled by its reflection.

    So nothing of an image is lost, and there is no border that usual images do not have.

    Example:
        >>> image = Image.fromarray(np.array([[0, 50, 100]], np.uint8))
        >>> np.asarray(placed(image, Frame(1, 5))).tolist(), placed(image, Frame(3, 3)).size
        ([[50, 0, 50, 100, 50]], (3, 3))
    """
    box = box_in(image.height, image.width, frame)
    if (image.height, image.width) != (box.height, box.width):
        image = image.resize((box.width, box.height), _FILTERS[frame.resample])
    below = frame.height - box.top - box.height
    right = frame.width - box.left - box.width
    if not any((box.top, below, box.left, right)):
        return image
    free = [(box.top, below), (box.left, right)] + [(0, 0)] * (len(image.getbands()) > 1)
    return Image.fromarray(np.pad(np.asarray(image), free, mode="reflect"))


def chosen_frame(
    sizes: Sequence[tuple[int, int]], side: int, stride: int, resample: Resample = "bilinear"
) -> Frame:
    """A frame of the median aspect of some images and the area of a square.

    Arguments:
        sizes: Height and width of the images.
        side: Of the square.
        stride: Height and width are multiples of it.
        resample: How they are scaled.

    Example:
        >>> chosen_frame([(533, 400), (400, 533), (533, 400)], 256, 32)
        Frame(height=288, width=224, resample='bilinear')
    """
    # The logarithm: as many upright images as lying ones make a square.
    aspect = math.exp(np.median([math.log(height / width) for height, width in sizes]))
    root = math.sqrt(min(max(aspect, 1 / _LONGEST), _LONGEST))
    height, width = (max(stride, round(of / stride) * stride) for of in (side * root, side / root))
    return Frame(height, width, resample)
