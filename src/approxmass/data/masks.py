"""Which pixels of images are the defect: masks in a column, or in a folder beside the images."""

__all__ = ["NONE", "Kept", "Masks", "open_masks"]

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from ..arrays import Bools
from ..errors import ApproxMassError
from .decode import How, decode
from .formats import image_suffixes, opened
from .guard import check_header, pillow_guard
from .readers.folder import image_files, shown_name
from .readers.parquet import column_of
from .readers.shards import table_of
from .source import ImageSource
from .unreadable import UnreadableError

# A mask as it is kept; None marks nothing.
Kept = bytes | Path | NDArray[Any] | None


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of the images of a source.

    Attributes:
        name: What errors call them.
        stream: Opens them anew: one an image, in their order, not yet read.
    """

    name: str
    stream: Callable[[], Iterator[Kept]]

    def only(self, keep: Bools) -> "Masks":
        """The masks of the images that are marked, `(N,)`."""
        return Masks(self.name, lambda: compress(self.stream(), keep))

    def read(self, kept: Kept, image: str, size: tuple[int, int]) -> Bools:
        """Where an image is marked, `(H, W)`.

        Arguments:
            kept: Its mask.
            image: Its name.
            size: H and W, upright.

        Raises:
            ApproxMassError: the mask cannot be read, or is of another size.
        """
        if kept is None:
            return np.zeros(size, bool)
        try:
            marked = _marked(kept) if isinstance(kept, bytes | Path) else np.asarray(kept) != 0
        except UnreadableError as error:
            raise _bad(f"{self.name}: the mask of image {image} {error}") from error
        if marked.shape != size:
            shown, wanted = ("x".join(map(str, each[::-1])) for each in (marked.shape, size))
            raise _bad(
                f"{self.name}: the mask of image {image} is {shown}, the image {wanted}: give a "
                "mask of the size of its image"
            )
        return marked


# Of images of which nothing is marked.
NONE = Masks("masks", lambda: iter(()))


def open_masks(where: str | os.PathLike[str] | Sequence[Any], source: ImageSource) -> Masks:
    """Masks of the images of a source; what is not zero in one is the defect.

    Arguments:
        where: One of

            - a column of the source, a Parquet file: encoded images as binary or struct<bytes>,
              null where nothing is marked;
            - a folder. The mask of image NAME of the source S lies there at NAME or S/NAME, of S
              the last part, with any image suffix, and with `_mask` before it or not;
            - one an image: an array `(H, W)`, an encoded image, its path, or None.
        source: The images.

    Raises:
        ApproxMassError: there is no such column or folder, or an image without a mask.

    Example:
        >>> from approxmass.data import open_images
        >>> images = open_images(np.zeros((2, 4, 4), np.uint8))
        >>> masks = open_masks([None, np.eye(4)], images)
        >>> [int(masks.read(kept, "0", (4, 4)).sum()) for kept in masks.stream()]
        [0, 4]
    """
    if not isinstance(where, str | os.PathLike):
        masks = list(where)
        _check_count("masks", len(masks), source)
        return Masks("masks", lambda: iter(masks))
    name = os.fspath(where)
    table = table_of(source.name)
    if table is not None and name in table.schema.names:
        called = f"{source.name}, column {name}"
        _check_count(called, table.num_rows, source)
        return Masks(called, column_of(table, name))
    if not os.path.isdir(name):
        missing = f"{source.name} has no column {name}, and" if table is not None else f"{name}:"
        raise _bad(
            f"{missing} there is no such folder: give a folder of masks"
            f"{', or a column of the file' if table is not None else ''}"
        )
    files = _files_of(name, Path(name), source)
    return Masks(name, lambda: iter(files))


def _files_of(name: str, folder: Path, source: ImageSource) -> list[Path]:
    """The mask of each image, of which none may be missing."""
    known: dict[str, list[str]] = defaultdict(list)
    for file in image_files(name, folder):
        known[os.path.splitext(shown_name(file))[0]].append(file)
    beside = os.path.basename(os.path.normpath(source.name))
    found: list[Path] = []
    missing: list[str] = []
    for names, _ in source.parts()[0](1024):
        for image in names:
            stem, suffix = os.path.splitext(image)
            stem = stem if suffix.lower() in image_suffixes() else image
            places = (f"{stem}_mask", stem, f"{beside}/{stem}_mask", f"{beside}/{stem}")
            files = next((known[place] for place in places if place in known), [])
            if len(files) > 1:
                same = [file for file in files if os.path.splitext(file)[1] == suffix]
                if len(same) != 1:
                    raise _bad(
                        f"{name}: image {image} of {source.name} has several masks, "
                        f"{', '.join(map(shown_name, files))}: leave one"
                    )
                files = same
            if files:
                found.append(folder / files[0])
            else:
                missing.append(image)
    if missing:
        others = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        place = f"{os.path.splitext(missing[0])[0]}_mask.png"
        raise _bad(
            f"{name}: no mask for image {missing[0]}{others} of the {len(source):,} of "
            f"{source.name}: add it as {place} or {beside}/{place}, all zero for no defect"
        )
    return found


def _marked(kept: bytes | Path) -> Bools:
    """Where an encoded image is not zero."""
    with pillow_guard():
        try:
            with opened(kept) as image:
                check_header(image)
                if image.mode.startswith("I") or image.mode == "F":  # of which 8 bits are too few
                    wide: Bools = np.asarray(ImageOps.exif_transpose(image)) != 0
                    return wide
        except Exception:  # decoding it says why
            pass
        return np.asarray(decode(kept, how=How(background=0)).pixels.any(0))


def _check_count(name: str, count: int, source: ImageSource) -> None:
    if count != len(source):
        raise _bad(
            f"{name}: {count:,} masks for the {len(source):,} images of {source.name}: give one an "
            "image"
        )


def _bad(message: str) -> ApproxMassError:
    return ApproxMassError(message, code="bad-masks")
