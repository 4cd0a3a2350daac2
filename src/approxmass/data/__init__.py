"""Images from anywhere, as streams of 8-bit pixels."""

__all__ = ["Chunk", "ImageSource", "describe_shape", "open_images", "open_labels"]

from .labels import open_labels
from .sources import open_images
from .stream import Chunk, ImageSource, describe_shape
