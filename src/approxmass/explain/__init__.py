"""Where an image does not belong: a map with a threshold, and that as a picture."""

__all__ = ["Explanation", "Surfaces", "picture"]

from .attribution import Explanation, Surfaces
from .picture import picture
