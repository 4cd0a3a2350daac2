"""Which group an image belongs to, such as its camera: by a column or by a subfolder."""

__all__ = ["SUBFOLDER", "check_groups", "groups_of"]

from collections.abc import Sequence
from pathlib import Path

from ..errors import ApproxMassError
from .readers.parquet import has_column, texts_of
from .source import ImageSource

# The word for: what comes before the first stroke in the name of an image.
SUBFOLDER = "subfolder"


def groups_of(source: ImageSource, per: str) -> list[str | None]:
    """The group of each image, in their order; None of one that has none.

    Arguments:
        source: Images.
        per: A column of their Parquet file, or `subfolder`: of a folder, the first on the way to
            each.

    Raises:
        ApproxMassError: there is no such column, or no image is in a subfolder.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from approxmass.data import open_images
        >>> folder = Path(tempfile.mkdtemp())
        >>> for camera in ("east", "west"):
        ...     (folder / camera).mkdir()
        ...     Image.new("L", (4, 4)).save(folder / camera / "1.png")
        >>> groups_of(open_images(folder), "subfolder")
        ['east', 'west']
    """
    path = Path(source.name)
    is_table = path.suffix.lower() == ".parquet" and path.is_file()
    if is_table and has_column(source.name, path, per):
        found = texts_of(source.name, path, per)
        return check_groups(found, source)
    if per != SUBFOLDER:
        lacks = f"has no column {per}" if is_table else f"is no Parquet file with a column {per}"
        raise _bad(
            f"{source.name} {lacks}, which tells the groups of its images apart: add it, or say of "
            "which one group all are (--for NAME)"
        )
    names = [name for some, _ in source.parts()[0](1024) for name in some]
    found = [name.split("/")[0] if "/" in name else None for name in names]
    if all(group is None for group in found):
        raise _bad(
            f"{source.name}: its images are in no subfolders, which tell their groups apart: sort "
            "them into some, or say of which one group all are (--for NAME)"
        )
    return found


def check_groups(groups: Sequence[object], source: ImageSource) -> list[str | None]:
    """One an image, as text.

    Raises:
        ApproxMassError: another number of them, or an empty name.
    """
    if len(groups) != len(source):
        raise _bad(
            f"there are {len(groups):,} groups for the {len(source):,} images of {source.name}: "
            "give one an image"
        )
    found = [None if group is None else str(group) for group in groups]
    return [group or None for group in found]


def _bad(message: str) -> ApproxMassError:
    return ApproxMassError(message, code="bad-group")
