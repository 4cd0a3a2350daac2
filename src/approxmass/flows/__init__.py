"""Normalizing flows: `forward(x)` returns `(z, logdet)` and keeps nothing on the module."""

__all__ = ["Flow", "RealNVP", "VectorFlow"]

from .realnvp import RealNVP as RealNVP
from .vector import VectorFlow as VectorFlow

Flow = RealNVP | VectorFlow
