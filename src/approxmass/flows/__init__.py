"""Normalizing flows: `forward(x)` returns `(z, logdet)` and keeps nothing on the module."""

__all__ = ["VECTOR_FLOWS", "Flow", "RealNVP", "VectorFlow"]

from .realnvp import RealNVP
from .vector import VECTOR_FLOWS, VectorFlow

Flow = RealNVP | VectorFlow
