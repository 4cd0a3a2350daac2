"""Encoders: from images to what the flow models, and how an image gets there once."""

__all__ = ["Encoder", "Lite0Encoder", "PixelEncoder", "WhitenedEncoder"]

from .base import Encoder
from .pixels import PixelEncoder
from .pooled import Lite0Encoder
from .whitened import WhitenedEncoder
