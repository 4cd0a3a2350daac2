"""Tables of numbers: Parquet and CSV files, and frames in memory, all as Arrow knows them."""

__all__ = [
    "Table",
    "frame_columns",
    "frame_table",
    "is_frame",
    "is_table",
    "of_numbers",
    "open_table",
]

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Floats
from ...errors import ApproxMassError
from .common import one_column, reading
from .shards import shards_of, table_of

if TYPE_CHECKING:
    import pyarrow as pa

_WANTED = "a table: copy it again"
# Of a number in a column of lists.
_ELEMENT = re.compile(r"\[\d+\]$")


@dataclass(frozen=True, eq=False)
class Table:
    """Some columns of a table, as rows of float64.

    Attributes:
        name: What an error calls it.
        count: Rows.
        columns: Names of the D numbers; of a column of lists one for each, `NAME[0]` and so on.
    """

    name: str
    count: int
    columns: list[str]
    _opened: Any
    _fields: list[tuple[str, int | None]]  # of each column the length of its lists

    def blocks(self, n: int, start: int = 0) -> Iterator[Floats]:
        """Rows `(k, D)` in order from one on, up to `n` at a time; NaN where there is no value."""
        names = [name for name, _ in self._fields]
        with reading(self.name, _WANTED):
            if hasattr(self._opened, "iter_batches"):
                batches = self._opened.iter_batches(n, names, start)
            else:
                batches = self._opened.select(names).slice(start).to_batches(n)
            for batch in batches:
                parts = [
                    self._numbers(batch.column(name), name, length) for name, length in self._fields
                ]
                yield np.concatenate(parts, axis=1)

    def _numbers(self, values: Any, name: str, length: int | None) -> NDArray[np.float64]:
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = len(values)
        if length is None:
            known = values.cast(pa.float64(), safe=False)
            return np.asarray(known.to_numpy(zero_copy_only=False)).reshape(rows, 1)
        if pc.any(pc.not_equal(pc.list_value_length(values), length)).as_py():
            raise ApproxMassError(
                f"{self.name}: the lists of column {name} are not all of {length} numbers",
                code="bad-source",
            )
        found = np.full((rows, length), np.nan)
        known = np.asarray(values.is_valid())
        flat = values.flatten().cast(pa.float64(), safe=False)
        found[known] = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, length)
        return found


def is_table(name: str) -> bool:
    """Whether a name is that of a CSV file, or of Parquet files.

    Example:
        >>> is_table("x.png")
        False
    """
    path = Path(name)
    return (path.suffix.lower() == ".csv" and os.path.isfile(path)) or shards_of(name) is not None


def is_frame(source: Any) -> bool:
    """Whether something is a frame of pandas or polars, or a table of Arrow."""
    return hasattr(source, "columns") and (
        hasattr(source, "to_arrow") or hasattr(source, "column_names") or hasattr(source, "dtypes")
    )


def frame_columns(frame: Any) -> list[str]:
    """The names of the columns of a frame or a table of Arrow."""
    return [str(name) for name in getattr(frame, "column_names", None) or frame.columns]


def open_table(name: str, path: Path, columns: Sequence[str] | None) -> Table:
    """Some columns of a CSV file, or of Parquet files; None for what the name asks for, or all.

    Raises:
        ApproxMassError: it cannot be read, has no such column, or one that is not of numbers.
    """
    shards = shards_of(name)
    asked = None if shards is None else shards[1]
    if asked is not None and columns is None:
        columns = [asked]
    elif asked is not None and asked not in {_ELEMENT.sub("", each) for each in columns or ()}:
        raise ApproxMassError(
            f"{name} asks for the column {asked}, and {', '.join(columns or ())} is wanted: leave "
            "one of both out",
            code="bad-option",
        )
    with reading(name, _WANTED):
        return _table(name, _opened(name, path), columns)


def frame_table(frame: Any, columns: Sequence[str] | None) -> Table:
    """Some columns of a frame; None for all.

    Raises:
        ApproxMassError: it has no such column, or one that is not of numbers.

    Example:
        >>> import pandas as pd
        >>> table = frame_table(pd.DataFrame({"a": [1, 2], "b": [0.5, None]}), None)
        >>> table.columns, next(table.blocks(2)).tolist()
        (['a', 'b'], [[1.0, 0.5], [2.0, nan]])
    """
    known = frame_columns(frame)
    wanted = _wanted("table", known, columns)
    try:
        opened = _as_arrow(frame, known, wanted)
    except Exception as error:  # of many kinds, by what a column holds
        reason = error.args[-1] if error.args else type(error).__name__
        raise ApproxMassError(
            f"table: a column cannot be taken as numbers ({reason}): name the columns that count "
            "(columns=)",
            code="bad-source",
        ) from error
    return _table("table", opened, columns)


def _as_arrow(frame: Any, known: list[str], wanted: list[str]) -> Any:
    """A frame as Arrow knows it; of one of pandas the wanted columns alone."""
    import pyarrow as pa

    if hasattr(frame, "column_names"):
        return frame
    if hasattr(frame, "to_arrow"):
        return frame.to_arrow()
    counting = frame.iloc[:, [known.index(column) for column in wanted]]
    return pa.Table.from_pandas(counting.set_axis(wanted, axis=1), preserve_index=False)


def _opened(name: str, path: Path) -> Any:
    if path.suffix.lower() == ".csv":
        import pyarrow.csv

        return pyarrow.csv.read_csv(path)
    return table_of(name)


def _table(name: str, opened: Any, columns: Sequence[str] | None) -> Table:
    wanted = _wanted(name, list(opened.schema.names), columns)
    fields: list[tuple[str, int | None]] = []
    names: list[str] = []
    for column in wanted:
        length = _length(name, opened, opened.schema.field(column))
        fields.append((column, length))
        names += [column] if length is None else [f"{column}[{i}]" for i in range(length)]
    if not names:
        raise ApproxMassError(f"{name}: has no columns", code="bad-source")
    return Table(name, opened.num_rows, names, opened, fields)


def _wanted(name: str, known: list[str], columns: Sequence[str] | None) -> list[str]:
    """The columns of a table that count, each of which must be there once."""
    wanted = known if columns is None else _fields_of(columns, known)
    for column in wanted:
        one_column(name, column, known)
    return wanted


def _fields_of(columns: Sequence[str], known: Sequence[str]) -> list[str]:
    """The columns of a table behind names of numbers: those of a list are `NAME[0]` and so on."""
    if list(columns) == [str(i) for i in range(len(known))] and not set(columns) & set(known):
        return list(known)  # of an array, which has no names
    found = (name if name in known else _ELEMENT.sub("", name) for name in columns)
    return list(dict.fromkeys(found))


def _length(name: str, opened: Any, field: "pa.Field") -> int | None:
    """Of the lists of a column; None where it holds numbers.

    Raises:
        ApproxMassError: it holds something else.
    """
    import pyarrow as pa

    kind = field.type
    if pa.types.is_fixed_size_list(kind) and of_numbers(kind):
        return int(kind.list_size)
    if hasattr(kind, "value_type") and of_numbers(kind):
        batches = (
            opened.iter_batches(256, columns=[field.name])
            if hasattr(opened, "iter_batches")
            else opened.select([field.name]).to_batches(256)
        )
        known = (batch.column(0).drop_null() for batch in batches)
        return next((len(lists[0]) for lists in known if len(lists)), 0)
    if of_numbers(kind):
        return None
    raise ApproxMassError(
        f"{name}: the column {field.name} is {kind}, not numbers: name the columns that count "
        "(--columns, columns=)",
        code="bad-source",
    )


def of_numbers(kind: "pa.DataType") -> bool:
    """Whether a column of a type holds numbers, or lists of them.

    Example:
        >>> import pyarrow as pa
        >>> of_numbers(pa.int8()), of_numbers(pa.list_(pa.float32())), of_numbers(pa.binary())
        (True, True, False)
    """
    import pyarrow as pa

    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return not hasattr(kind.value_type, "value_type") and of_numbers(kind.value_type)
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
    )
