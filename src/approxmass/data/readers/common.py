"""What the readers of several formats share."""

__all__ = [
    "BYTES",
    "KINDS",
    "at_most",
    "check_regular",
    "header_of",
    "label_name",
    "maybe_gzip",
    "numbered",
    "one_column",
    "reading",
    "rows_within",
    "stored",
]

import gzip
import io
import os
import stat
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import ApproxMassError

# Bytes of the header of a `.npy` file, beyond which NumPy reads none, and of a piece of a file.
_MOST_HEADER, _PIECE = 10_000, 1 << 20

KINDS = (
    "an array, a list of arrays, paths or Pillow images, a data set, a folder of images, an image "
    "file, a pattern of such, a .npy, .npz, .parquet or IDX file, hf:NAME[:[CONFIG:]SPLIT], or "
    "sample:NAME"
)


# What is read at a time.
BYTES = 1 << 24


def rows_within(n: int, each: float) -> int:
    """How many rows of so many bytes are read at a time: `n` or, of large ones, fewer.

    Example:
        >>> rows_within(1024, 28 * 28), rows_within(1024, 8 * 512 * 512), rows_within(1024, 1e12)
        (1024, 8, 1)
    """
    return max(1, min(n, int(BYTES // max(1.0, each))))


def check_regular(name: str, path: str | os.PathLike[str]) -> None:
    """Refuse what is neither file nor folder, before anything opens it: it may wait for ever.

    Raises:
        ApproxMassError: it is a pipe, a socket or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # whoever opens it says so
        return
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    raise ApproxMassError(
        f"{name}: is {kinds.get(stat.S_IFMT(mode), 'a device')}, which cannot be read twice: write "
        "it to a file, and give that",
        code="bad-source",
    )


def at_most(file: io.BufferedIOBase, count: int) -> bytes:
    """So many bytes, or what there is; no room is made for what is not."""
    pieces = []
    while count > 0 and (piece := file.read(min(count, _PIECE))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def header_of(file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Shape, whether in Fortran order, and type of the array at the beginning of a `.npy` file.

    Raises:
        ValueError: it is none, or one of Python's objects.
    """
    of, version = np.lib.format, np.lib.format.read_magic(file)
    if version != (1, 0):  # NumPy would make room for as long a header as is said
        place = file.tell()
        if int.from_bytes(file.read(4), "little") > _MOST_HEADER:
            raise ValueError("a header that is too long")
        file.seek(place)
    read = of.read_array_header_1_0 if version == (1, 0) else of.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Python objects")
    return tuple(shape), fortran, dtype


@contextmanager
def reading(name: str, wanted: str) -> Iterator[None]:
    """Name the file in whatever its reader raises; `wanted` says what it should be, and a cure."""
    try:
        yield
    except (ApproxMassError, ImportError, MemoryError):
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
