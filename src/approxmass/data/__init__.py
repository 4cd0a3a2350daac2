"""Images from anywhere, as streams of 8-bit pixels."""

__all__ = [
    "Chunk",
    "ImageSource",
    "check_labels",
    "describe_shape",
    "open_images",
    "open_labels",
]

from .images import open_images
from .labels import check_labels, open_labels
from .source import Chunk, ImageSource, describe_shape
