"""Which images belong together, as a person says: frames of one film, photos of one part."""

__all__ = ["SUBFOLDER", "open_groups"]

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ApproxMassError
from .readers.parquet import has_column, values_of
from .source import ImageSource

# Groups that are the folders of the images.
SUBFOLDER = "subfolder"


def open_groups(groups: Any, source: ImageSource) -> NDArray[np.int64]:
    r"""The group of each image of a source, `(N,)`, as numbers.

    Arguments:
        groups: One of

            - `subfolder`: images of one folder below the source are a group;
            - a column of the source, a Parquet file; each image without a value is its own group;
            - a regular expression with one group `(...)`, searched in the name of each image, such
              as `(film\d+)_`: images in which it finds the same text are a group;
            - one label an image, `(N,)`.
        source: The images.

    Raises:
        ApproxMassError: it is none of these, or a name in which the expression finds nothing.

    Example:
        >>> from approxmass.data import open_images
        >>> images = open_images(np.zeros((4, 8, 8), np.uint8))
        >>> open_groups(["left", "right", "left", "up"], images)
        array([0, 1, 0, 2])
        >>> open_groups("([01])|(?:[23])()", images)
        Traceback (most recent call last):
        ...
        approxmass.errors.ApproxMassError: groups: ... is not subfolder or a regular expression ...
    """
    labels = _of_text(groups, source) if isinstance(groups, str) else np.asarray(groups)
    if labels.shape != (len(source),) or labels.dtype.kind not in "iubUSO":
        raise _bad(
            f"groups must be one whole number or text an image, {len(source):,}, not "
            f"{labels.dtype} of shape {labels.shape}"
        )
    return np.unique(labels.astype(str), return_inverse=True)[1].astype(np.int64)


def _of_text(groups: str, source: ImageSource) -> NDArray[Any]:
    path = Path(source.name)
    is_table = path.suffix.lower() == ".parquet" and path.is_file()
    if is_table and has_column(source.name, path, groups):
        values = values_of(source.name, path, groups)
        return np.array([f"row {i}" if v is None else f"= {v}" for i, v in enumerate(values)])
    names = [name for some, _ in source.parts()[0](1024) for name in some]
    if groups == SUBFOLDER:
        return _folders(names, source)
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise _bad(f"groups: {groups!r} is no regular expression ({error})") from None
    if pattern.groups != 1:
        column = ", a column of the file" if is_table else ""
        raise _bad(
            f"groups: {groups!r} is not {SUBFOLDER}{column} or a regular expression with one "
            "group (...): give one of these"
        )
    found = [pattern.search(name) for name in names]
    texts = [None if match is None else match[1] for match in found]
    missing = [name for name, text in zip(names, texts, strict=True) if text is None]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise _bad(
            f"groups: {groups!r} finds nothing in the name {missing[0]}{more}: give an expression "
            "that does"
        )
    return np.array(texts)


def _folders(names: list[str], source: ImageSource) -> NDArray[Any]:
    folders = [os.path.dirname(name) for name in names]
    if not any(folders):
        raise _bad(
            f"groups: {source.name} has no subfolders: give a regular expression with one group "
            "(...) for the names, or leave groups out"
        )
    return np.array(folders)


def _bad(message: str) -> ApproxMassError:
    return ApproxMassError(message, code="bad-groups")
