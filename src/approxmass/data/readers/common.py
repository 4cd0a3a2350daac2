"""What the readers of several formats share."""

__all__ = ["KINDS", "label_name", "maybe_gzip", "numbered", "one_column", "reading", "stored"]

import gzip
import io
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...errors import ApproxMassError

KINDS = (
    "an array, a list of arrays, paths or Pillow images, a data set, a folder of images, an image "
    "file, a pattern of such, a .npy, .npz, .parquet or IDX file, hf:NAME[:[CONFIG:]SPLIT], or "
    "sample:NAME"
)


@contextmanager
def reading(name: str, wanted: str) -> Iterator[None]:
    """Name the file in whatever its reader raises; `wanted` says what it should be, and a cure."""
    try:
        yield
    except (ApproxMassError, ImportError):
        raise
    except Exception as error:  # zip, zlib, NumPy and Arrow have one kind each, and more
        if isinstance(error, OSError) and error.strerror:
            raise ApproxMassError(
                f"{name}: cannot be opened: {error.strerror}", code="bad-source"
            ) from error
        raise ApproxMassError(f"{name}: is truncated or not {wanted}", code="damaged") from error


def maybe_gzip(path: Path) -> io.BufferedIOBase:
    """Open a file to read, unpacked where it is gzip'ed."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")


def numbered(start: int, count: int) -> list[str]:
    """Names of images that have none.

    Example:
        >>> numbered(7, 2)
        ['7', '8']
    """
    return [str(i) for i in range(start, start + count)]


def stored(paths: list[str | None], start: int) -> list[str]:
    """Names of the rows of a table: the path where one is stored, else the number.

    Example:
        >>> stored(["a.png", None], 7)
        ['a.png', 'row 8']
    """
    return [path or f"row {i}" for i, path in enumerate(paths, start)]


def label_name(names: Container[str]) -> str | None:
    """The array or column that holds labels, or None.

    Example:
        >>> label_name(["image", "label"])
        'label'
    """
    return next((n for n in ("label", "labels", "fine_label", "y") if n in names), None)


def one_column(name: str, column: str, known: Sequence[str]) -> str:
    """That column, which must be there once.

    Raises:
        ApproxMassError: it is not.

    Example:
        >>> one_column("mine.csv", "a", ["a", "b"])
        'a'
    """
    if column not in known:
        raise ApproxMassError(
            f"{name}: has no column {column}, only {', '.join(known[:20]) or 'none'}: name one of "
            "these",
            code="bad-source",
        )
    if known.count(column) > 1:
        raise ApproxMassError(
            f"{name}: has several columns {column}: name them apart", code="bad-source"
        )
    return column
