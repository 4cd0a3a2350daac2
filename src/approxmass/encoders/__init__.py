"""Encoders: from images to what the flow models, and how an image gets there once."""

__all__ = ["ENCODERS", "Encoder", "PixelEncoder", "WhitenedEncoder"]

from .base import Encoder
from .pixels import PixelEncoder
from .whitened import WhitenedEncoder

# By the names that a detector takes.
ENCODERS = ("pca", "pixels")
