"""Why an image is out: where in it the score comes from, and that as a picture."""

__all__ = ["Explanation", "explain", "picture"]

from .attribution import Explanation, explain
from .picture import picture
