"""A detector behind HTTP, with a page for people; needs the extra `serve`."""

__all__ = ["Limits", "create_app"]

from .app import create_app
from .limits import Limits
