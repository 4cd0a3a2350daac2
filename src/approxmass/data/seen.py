"""A source as a detector sees it: images of its mode, on its background, or rows of numbers."""

__all__ = ["open_seen"]

from collections.abc import Sequence
from typing import Any

from .images import open_images
from .region import Region
from .source import ImageSource
from .vectors import open_vectors


def open_seen(
    images: Any,
    *,
    rows: bool,
    columns: Sequence[str] | None = None,
    mode: str = "auto",
    background: int = 255,
    pages: bool = False,
    region: Region | None = None,
) -> ImageSource:
    """Images of the size that they have, of them a region alone; or rows of numbers.

    Arguments:
        images: Whatever `open_images` takes, or `open_vectors`.
        rows: It is rows of numbers.
        columns: Of these, as of `open_vectors`.
        mode: Of images, as of `open_images`; so are
        background: and
        pages.
        region: Of each image; None for all of it.

    Raises:
        ApproxMassError: it cannot be opened, or is of the other kind.

    Example:
        >>> open_seen("sample:mnist", rows=False, mode="rgb").shape
        (3, 28, 28)
    """
    if rows:
        found = open_vectors(images, columns)
        return found.seen(mode=mode, background=background, region=region)
    opened = open_images(images, mode=mode, background=background, pages=pages)
    return opened if region is None else opened.seen(region=region)
