"""One HTML page of all that is to be said about a detector on named sets of images."""

__all__ = ["check_page", "write_report"]

from .page import check_page, write_report
