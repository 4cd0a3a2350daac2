"""Encoders: from images to what the flow models, and how an image gets there once."""

__all__ = [
    "NETWORKS",
    "Encoder",
    "Network",
    "PixelEncoder",
    "PooledEncoder",
    "VectorEncoder",
    "WhitenedEncoder",
    "is_network",
    "network",
]

from .base import Encoder
from .network import Network
from .networks import NETWORKS, is_network, network
from .pixels import PixelEncoder
from .pooled import PooledEncoder
from .vectors import VectorEncoder
from .whitened import WhitenedEncoder
