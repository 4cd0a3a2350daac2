"""Images from anywhere, as streams of 8-bit pixels."""

__all__ = ["Chunk", "ImageSource", "describe_shape", "open_images"]

from .sources import open_images
from .stream import Chunk, ImageSource, describe_shape
