"""Embeddings and tables: a vector of numbers a row, in the place of an image."""

__all__ = ["SUFFIXES", "VectorSource", "holds_vectors", "open_vectors"]

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..arrays import Bools, Shape
from ..errors import ApproxMassError, Code
from .chunk import Chunk
from .options import at_least_one
from .readers.array import plain_tensor
from .readers.common import check_regular, numbered, rows_within
from .readers.hub import is_dataset
from .readers.npy import NpyRows
from .readers.npz import is_npz, npz_array, npz_shape
from .readers.rows import first_row, rows_in_order
from .readers.shards import Shards, encoded_columns, remarks_of, shards_of
from .readers.tables import (
    Table,
    frame_columns,
    frame_table,
    is_frame,
    is_table,
    of_numbers,
    open_table,
)
from .remarks import Remarks
from .source import ImageSource

# Rows read at a time, where nobody says.
_TOGETHER = 1024
# What names of files of rows end in.
SUFFIXES = (".csv", ".npy", ".npz", ".parquet")
# What gives items, and is no list of rows that come one by one.
_WHOLE = (list, tuple, Mapping, bytes, bytearray, memoryview, Image.Image)
# Opens the rows anew, `(k, D)` each, in order: up to `n` at a time, from a place on.
_Blocks = Callable[[int, int], Iterator[NDArray[Any]]]


class VectorSource(ImageSource):
    """A finite, ordered stream of vectors, as images `(1, 1, D)` of float64.

    Arguments:
        name: What an error calls it.
        count: Rows.
        blocks: Opens it anew: the rows in order, up to so many at a time, from one on.
        columns: Names of the D numbers.
        remarks: What has been done to them.

    Attributes:
        columns: See above.
    """

    dtype = np.float64
    unit = "row"

    def __init__(
        self,
        name: str,
        count: int,
        blocks: _Blocks,
        columns: Sequence[str],
        remarks: Remarks | None = None,
    ) -> None:
        def batches(n: int, start: int = 0) -> Iterator[tuple[list[str], NDArray[Any]]]:
            for block in blocks(n, start):
                rows = np.asarray(block, dtype=np.float64)
                yield numbered(start, len(rows)), rows[:, None, None, :]
                start += len(rows)

        shape = (1, 1, len(columns))
        super().__init__(name, count, batches, shape=shape, remarks=remarks, onward=batches)
        self.columns = list(columns)

    def __repr__(self) -> str:
        return f"VectorSource({self.name!r}, {len(self)} rows of {len(self.columns)} numbers)"

    def looking_at(self, places: NDArray[np.int64]) -> Self:
        """Itself: nothing is told by what is in it."""
        return self

    def seen(self, **options: Any) -> Self:
        """Itself; what is for images alone is refused."""
        for word, value in options.items():
            if value not in (None, "auto", 255):
                raise ApproxMassError(
                    f"{self.name}: {word} is for images, not for rows of numbers: leave it out",
                    code="bad-option",
                )
        return self

    def resized(self, frame: Any) -> Self:
        """Refused: rows of numbers have no size."""
        raise ApproxMassError(
            f"{self.name}: a size is for images, not for rows of numbers: leave it out",
            code="bad-option",
        )

    def chunks(
        self, n: int | None = None, *, shape: Shape | None = None, threads: int | None = None
    ) -> Iterator[Chunk]:
        """Stream the rows in order; those with a number missing or not finite become errors."""
        n = _TOGETHER if n is None else n
        at_least_one(self.name, n, "stream {} rows at a time")
        if shape is not None and shape != self.shape:
            raise ApproxMassError(
                f"{self.name}: its rows have {self.shape[2]} numbers, and {shape[2]} are needed: "
                "give the columns of the fit",
                code="wrong-shape",
            )
        for names, rows in self.parts()[0](n):
            rows = np.asarray(rows)
            known = np.isfinite(rows[:, 0, 0])
            good = known.all(1)
            # Most often all of them, which need no copy.
            kept = np.ascontiguousarray(rows if good.all() else rows[good])
            errors: list[str | None] = [None] * len(names)
            codes: list[Code | None] = [None] * len(names)
            for place in np.flatnonzero(~good).tolist():
                column = self.columns[int(np.flatnonzero(~known[place])[0])]
                value = rows[place, 0, 0, self.columns.index(column)]
                what = "no value" if np.isnan(value) else "an infinite value"
                errors[place] = f"has {what} for column {column}: fill it in, or leave the row out"
                codes[place] = "bad-image"
            sizes = [(1, len(self.columns))] * len(kept)
            yield Chunk(kept, sizes, None, names, errors, codes, unit=self.unit)

    def part(self, keep: Bools, name: str) -> "VectorSource":
        """Those rows that are marked, in their order."""
        batches = self.parts()[0]

        def blocks(n: int, start: int) -> Iterator[NDArray[Any]]:
            place = 0
            for names, rows in batches(n):
                marks = keep[place : place + len(names)]
                place += len(names)
                found = np.asarray(rows)[marks, 0, 0]
                if start < len(found):
                    yield found[start:]
                start = max(0, start - len(found))

        return VectorSource(name, int(keep.sum()), blocks, self.columns)


def holds_vectors(source: Any) -> bool:
    """Whether something is rows of numbers, where nobody has said so.

    It is if it is an array of two axes or the file of one, a CSV file, a frame or Parquet files
    without a column of images, or a data set or a loader of torch whose first item is a row.

    Example:
        >>> holds_vectors(np.zeros((50, 8))), holds_vectors(np.zeros((50, 8, 8)))
        (True, False)
    """
    if isinstance(source, ImageSource):
        return isinstance(source, VectorSource)
    if isinstance(source, str | Path):
        name, path = str(source), Path(source)
        if path.suffix.lower() == ".npy" and os.path.isfile(path):
            return NpyRows(name, path).like.ndim == 2
        if is_npz(name):
            return len(npz_shape(name)) == 2
        return is_table(name) and not _holds_images(name)
    if is_frame(source):
        return "image" not in frame_columns(source)
    if isinstance(source, list | tuple):
        first = source[0] if source else None
        if isinstance(first, list | tuple):
            return bool(first) and all(isinstance(each, int | float | np.number) for each in first)
        return getattr(first, "ndim", 0) == 1
    if _comes_in_items(source):
        return getattr(first_row(source), "ndim", 0) == 1
    return getattr(source, "ndim", 0) == 2


def _comes_in_items(source: Any) -> bool:
    """Whether something gives items one by one, and is neither an array nor a list."""
    whole = hasattr(source, "__array__") or hasattr(source, "to_list") or is_dataset(source)
    gives = isinstance(source, Iterable) or (
        hasattr(source, "__getitem__") and hasattr(source, "__len__")
    )
    return gives and not whole and not isinstance(source, _WHOLE)


def _holds_images(name: str) -> bool:
    """Whether a table has a column of images, or one is asked for."""
    found = shards_of(name)
    if found is None:  # a CSV file
        return False
    schema, column = Shards(name, found[0]).schema, found[1]
    if column is not None:
        return column not in schema.names or not of_numbers(schema.field(column).type)
    return "image" in schema.names or bool(encoded_columns(schema))


def open_vectors(source: Any, columns: Sequence[str] | None = None) -> VectorSource:
    """Open anything that holds rows of numbers.

    Arguments:
        source: One of

            - an array `(N, D)` or anything that turns into one, such as a tensor or a list;
            - the path of a `.npy` or `.npz` file of one (`FILE.npz:ARRAY` where it holds several),
              of a `.csv` or a `.parquet` file, or of a folder of the latter (`FILE.parquet:COLUMN`
              for one column);
            - a frame of pandas or polars, or a table of Arrow;
            - a torch Dataset or DataLoader, or a generator, of rows or of batches of rows, alone
              or as the first entries of tuples: read now, into memory.
        columns: Those of a table that count, in this order; None for all. A column that holds
            lists of one length is as many numbers.

    Raises:
        ApproxMassError: There is no such thing, it has no rows, no such column, or a column that
            is not of numbers. Missing values show when the stream comes to them.

    Example:
        >>> rows = open_vectors([[1.0, 2.0], [3.0, float("nan")]])
        >>> rows.columns, [chunk.errors[1] for chunk in rows.chunks()]
        (['0', '1'], ['has no value for column 1: fill it in, or leave the row out'])
    """
    if isinstance(source, VectorSource):
        return source
    if isinstance(source, str | Path):
        return _open_path(str(source), Path(source), columns)
    if is_frame(source):
        return _of_table(frame_table(source, columns))
    name = "array"
    if _comes_in_items(source):
        name = type(source).__name__
        data = source if isinstance(source, Iterable) else (source[i] for i in range(len(source)))
        source = rows_in_order(name, data)
    rows = _as_matrix(name, source)
    return _of_rows(name, rows, lambda start, stop: rows[start:stop], columns)


def _open_path(name: str, path: Path, columns: Sequence[str] | None) -> VectorSource:
    check_regular(name, path)
    if path.suffix.lower() == ".npy" and os.path.isfile(path):
        file = NpyRows(name, path)
        return _of_rows(name, _as_matrix(name, file.like), file.rows, columns)
    if is_npz(name):
        rows = _as_matrix(name, npz_array(name))
        return _of_rows(name, rows, lambda start, stop: rows[start:stop], columns)
    if not is_table(name):
        raise ApproxMassError(
            f"{name}: there are no rows of numbers: give a .npy, .npz, .csv or .parquet file",
            code="bad-source",
        )
    return _of_table(open_table(name, path, columns), remarks_of(name))


def _of_table(table: Table, remarks: Remarks | None = None) -> VectorSource:
    return VectorSource(table.name, table.count, table.blocks, table.columns, remarks)


def _of_rows(
    name: str,
    like: NDArray[Any],
    read: Callable[[int, int], NDArray[Any]],
    columns: Sequence[str] | None,
) -> VectorSource:
    """Rows that are as `like`, `(N, D)`, and that `read` gives from one up to another."""
    names = [str(i) for i in range(like.shape[1])]
    if columns is not None and len(columns) == len(names) and not set(columns) <= set(names):
        names, columns = list(columns), None  # an array has no names of its own
    if columns is not None and (missing := [each for each in columns if each not in names]):
        raise ApproxMassError(
            f"{name}: has no column {missing[0]}: those of an array are 0 to {len(names) - 1}",
            code="bad-source",
        )
    # All of them in their order need no copy.
    every = columns is None or list(columns) == names
    chosen = slice(None) if every else [int(each) for each in columns or ()]

    def blocks(n: int, start: int) -> Iterator[NDArray[Any]]:
        together = rows_within(n, like[:1].nbytes)
        for place in range(start, len(like), together):
            yield read(place, place + together)[:, chosen]

    return VectorSource(name, len(like), blocks, names if columns is None else columns)


def _as_matrix(name: str, source: Any) -> NDArray[Any]:
    if np.ma.isMaskedArray(source) and source.dtype.kind in "biuf":
        source = np.ma.filled(source.astype(np.float64), np.nan)  # what is masked is missing
    try:
        rows = np.asarray(plain_tensor(source))
    except (TypeError, ValueError, RuntimeError) as error:  # of tensors, ragged lists
        reason = str(error).partition("\n")[0]
        raise ApproxMassError(
            f"{name}: cannot be turned into rows of numbers: {reason}", code="bad-source"
        ) from error
    if rows.ndim != 2 or not rows.shape[1] or rows.dtype.kind not in "biuf":
        raise ApproxMassError(
            f"{name}: rows of numbers are an array (N, D), not {rows.dtype} of shape {rows.shape}",
            code="bad-source",
        )
    return rows
