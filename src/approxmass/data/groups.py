"""Which group an image belongs to: its camera, its film, the part of which it is a photo."""

__all__ = ["SUBFOLDER", "check_groups", "groups_of", "open_groups"]

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ApproxMassError
from .readers.parquet import texts_of
from .readers.shards import table_of
from .source import ImageSource

# The word for: what comes before the first stroke in the name of an image.
SUBFOLDER = "subfolder"


def groups_of(source: ImageSource, how: str) -> list[str | None]:
    r"""The group of each image, in their order; None of one that has none.

    Arguments:
        source: Images.
        how: A column of their Parquet file; or `subfolder`: of a folder, the first on the way to
            each; or a regular expression with one group `(...)` that is searched in the name of
            each, such as `(film\d+)_`.

    Raises:
        ApproxMassError: it is none of these, or no image is in a group.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from approxmass.data import open_images
        >>> folder = Path(tempfile.mkdtemp())
        >>> for camera in ("east", "west"):
        ...     (folder / camera).mkdir()
        ...     Image.new("L", (4, 4)).save(folder / camera / "1.png")
        >>> groups_of(open_images(folder), "subfolder")
        ['east', 'west']
        >>> groups_of(open_images(folder), "ea(.)")
        ['s', None]
    """
    table = table_of(source.name)
    if table is not None and how in table.schema.names:
        return check_groups(texts_of(table, how), source)
    pattern = None if how == SUBFOLDER else _pattern(how, source, is_table=table is not None)
    names = [name for some, _ in source.parts()[0](1024) for name in some]
    if pattern is None:
        found = [name.split("/")[0] if "/" in name else None for name in names]
    else:
        matches = [pattern.search(name) for name in names]
        found = [None if match is None else match[1] for match in matches]
    if all(group is None for group in found):
        where = f"finds nothing in the names of its images, such as {names[0]}" if names else ""
        raise _bad(
            f"{source.name}: its images are in no subfolders, which tell their groups apart: sort "
            "them into some, or give a regular expression with one group (...) for their names"
            if pattern is None
            else f"{source.name}: {how!r} {where}: give an expression that does"
        )
    return check_groups(found, source)


def _pattern(how: str, source: ImageSource, *, is_table: bool) -> re.Pattern[str]:
    try:
        pattern = re.compile(how)
        known = pattern.groups == 1
    except re.error:
        known = False
    if not known:
        lacks = f"has no column {how}" if is_table else f"is no Parquet file with a column {how}"
        raise _bad(
            f"{source.name} {lacks}, which tells the groups of its images apart: add it, or give "
            f"{SUBFOLDER} or a regular expression with one group (...) for the names of images"
        )
    return pattern


def check_groups(groups: Sequence[Any], source: ImageSource) -> list[str | None]:
    """One an image, as text; None for an image of no group.

    Raises:
        ApproxMassError: another number of them, or what is neither text nor a whole number.
    """
    if len(groups) != len(source):
        raise _bad(
            f"there are {len(groups):,} groups for the {len(source):,} {source.unit}s of "
            f"{source.name}: give each its own"
        )
    return [_as_text(group) for group in groups]


def _as_text(group: Any) -> str | None:
    if group is None or group != group:  # a table's word for none is NaN
        return None
    if not isinstance(group, str | int | np.integer | np.bool_ | np.str_):
        raise _bad(f"groups are text or whole numbers, not {group!r}: give each its own")
    return str(group) or None


def open_groups(groups: Any, source: ImageSource) -> NDArray[np.int64]:
    """The group of each image of a source as a number, `(N,)`; one of no group is its own.

    Arguments:
        groups: A word that `groups_of` takes, or the group of each image.
        source: The images.

    Raises:
        ApproxMassError: it is none of these.

    Example:
        >>> from approxmass.data import open_images
        >>> images = open_images(np.zeros((4, 8, 8), np.uint8))
        >>> open_groups(["left", None, "left", "up"], images)
        array([0, 1, 0, 2])
    """
    if isinstance(groups, str):
        found = groups_of(source, groups)
    elif np.ndim(groups) == 1:
        found = check_groups(list(groups), source)
    else:
        raise _bad(
            f"groups must be one text or whole number for each {source.unit}, {len(source):,} in "
            "all"
        )
    number: dict[object, int] = {}
    of = [
        number.setdefault(place if group is None else group, len(number))
        for place, group in enumerate(found)
    ]
    return np.array(of, np.int64)


def _bad(message: str) -> ApproxMassError:
    return ApproxMassError(message, code="bad-group")
