"""Image sets of the catalogue as arrays, alike in size and in compression."""

__all__ = ["Labelling", "Loaded", "as_jpeg", "load", "load_all", "load_labels"]

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..arrays import Pixels
from ..data import open_images, open_labels
from ..errors import ApproxMassError
from .catalog import Found, find_set, has_split

# Labels as they are written, `(N,)`.
Labelling = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """Title, as a table prints it, and images `(N, C, H, W)`."""

    title: str
    images: Pixels


def load(
    name: str, split: str, data: Path | None, *, like: Found | None = None, most: int | None = None
) -> Loaded:
    """A split of a set of the catalogue.

    Arguments:
        name: In the catalogue.
        split: `train` or `test`.
        data: Folder of local image sets; None for the hub.
        like: The in-distribution set: the images are resized to its size, and go through JPEG as
            its images did.
        most: Take the first so many.

    Raises:
        ApproxMassError: as `find_set`.
    """
    found = find_set(name, split, data)
    source = open_images(found.source)
    if like is not None:  # grey or in colour as that set, whatever the pixels say
        channels, _, side = open_images(like.source).shape
        mode: Literal["grey", "rgb"] = "grey" if channels == 1 else "rgb"
        source = open_images(found.source, size=side, mode=mode)
    images = source.read()[:most]
    if like is not None and like.jpeg and not found.jpeg:
        images = as_jpeg(images)
    return Loaded(title=found.title, images=images)


def load_all(name: str, data: Path | None, *, like: Found, most: int | None = None) -> Pixels:
    """Test images of a set, and then its training images if it has any: those of `released`."""
    splits = [split for split in ("test", "train") if has_split(name, split, data)]
    parts = [load(name, split, data, like=like, most=most).images for split in splits]
    return np.concatenate(parts)[:most]


def load_labels(name: str, split: str, data: Path | None) -> Labelling:
    """Labels `(N,)` of a split.

    Raises:
        ApproxMassError: it has none.
    """
    source = find_set(name, split, data).source
    labels = open_labels(source)
    if labels is None:
        raise ApproxMassError(
            f"{source} has no column label, which this row needs: add it, or leave the row out",
            code="bad-labels",
        )
    return labels


def as_jpeg(images: Pixels) -> Pixels:
    """What Pillow's default JPEG (quality 75) leaves of colour images `(N, 3, H, W)`.

    Example:
        >>> grey = np.full((1, 3, 8, 8), 100, np.uint8)
        >>> bool((as_jpeg(grey) == grey).all())
        True
    """
    done = np.empty_like(images)
    for i, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, 2))).save(buffer, "JPEG")
        done[i] = np.moveaxis(np.asarray(Image.open(buffer)), 2, 0)
    return done
