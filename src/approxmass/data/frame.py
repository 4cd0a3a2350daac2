"""The frame that images are brought into: its choice, and where in it an image lies."""

__all__ = ["Box", "Frame", "box_in", "chosen_frame", "placed"]

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

# Height and width, in pixels.
Frame = tuple[int, int]


class Box(NamedTuple):
    """Where an image lies in a frame, in pixels of the frame."""

    top: int
    left: int
    height: int
    width: int


def box_in(height: int, width: int, frame: Frame) -> Box:
    """The largest place in a frame, in its middle, that has the aspect of an image.

    An image whose sides come within half a pixel of the frame's fills it.

    Example:
        >>> box_in(100, 200, (64, 64))
        Box(top=16, left=0, height=32, width=64)
    """
    scale = min(frame[0] / height, frame[1] / width)
    inside = [
        min(side, max(1, round(scale * of)))
        for of, side in zip((height, width), frame, strict=True)
    ]
    top, left = ((side - of) // 2 for of, side in zip(inside, frame, strict=True))
    return Box(top, left, *inside)


def placed(image: Image.Image, frame: Frame) -> Image.Image:
    """An image scaled into a frame, not squashed; what it leaves free is filled by its reflection.

    So nothing of an image is lost, and there is no border that usual images do not have.

    Example:
        >>> image = Image.fromarray(np.array([[0, 50, 100]], np.uint8))
        >>> np.asarray(placed(image, (1, 5))).tolist(), placed(image, (3, 3)).size
        ([[50, 0, 50, 100, 50]], (3, 3))
    """
    box = box_in(image.height, image.width, frame)
    if (image.height, image.width) != (box.height, box.width):
        image = image.resize((box.width, box.height), Image.Resampling.BILINEAR)
    if (box.height, box.width) == frame:
        return image
    below, right = frame[0] - box.top - box.height, frame[1] - box.left - box.width
    free = [(box.top, below), (box.left, right)] + [(0, 0)] * (len(image.getbands()) > 1)
    return Image.fromarray(np.pad(np.asarray(image), free, mode="reflect"))


def chosen_frame(sizes: Sequence[Frame], side: int, stride: int) -> Frame:
    """A frame of the median aspect of some images and the area of a square.

    Arguments:
        sizes: Height and width of the images.
        side: Of the square.
        stride: Height and width are multiples of it.

    Example:
        >>> chosen_frame([(533, 400), (400, 533), (533, 400)], 256, 32)
        (288, 224)
    """
    aspect = float(np.median([height / width for height, width in sizes]))
    root = math.sqrt(aspect)
    height, width = (max(stride, round(of / stride) * stride) for of in (side * root, side / root))
    return height, width
