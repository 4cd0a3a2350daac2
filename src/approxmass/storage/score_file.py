"""Scores as a table: one row an image, Parquet, CSV or lines of JSON, written as they come."""

__all__ = [
    "FIRST",
    "ScoreFile",
    "at_rate",
    "format_of",
    "from_source",
    "score_table",
    "scores_in",
    "unreadable_in",
    "whole_table",
]

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from ..data.source import Chunk
from ..errors import ApproxMassError
from ..scores import Scores

# Of a detector by folds, the column that is kept of `Scores.first` until all rows are there.
FIRST = "first"


class _JSONLines:
    """Rows as JSON, one a line; what is missing or no number is null."""

    def __init__(self, file: BinaryIO, schema: Any) -> None:
        self._file = file

    def write_table(self, table: Any) -> None:
        for row in table.to_pylist():
            known = {k: None if v != v or v in _INFINITE else v for k, v in row.items()}
            self._file.write(json.dumps(known, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        pass


_INFINITE = (math.inf, -math.inf)
_WRITERS = {
    "csv": pyarrow.csv.CSVWriter,
    "jsonl": _JSONLines,
    "parquet": pyarrow.parquet.ParquetWriter,
}


def format_of(
    target: Path, asked: str | None = None, known: Sequence[str] = tuple(_WRITERS)
) -> str:
    """The format of a table of scores: that asked for, or as its name ends; of `-` CSV.

    Arguments:
        target: The file to write; `-` is standard output.
        asked: One of csv, jsonl and parquet; None to go by the name.
        known: The formats that there may be.

    Raises:
        ApproxMassError: a name that ends otherwise, or a format that it may not have.
    """
    if target == Path("-"):
        if asked == "parquet":
            raise ApproxMassError(
                "a Parquet file is not for a pipe: give -o FILE.parquet, or --format csv or jsonl",
                code="bad-option",
            )
        return asked or "csv"
    found = target.suffix.lower().removeprefix(".")
    if found not in known:
        listed = [f".{name}" for name in known]
        raise ApproxMassError(
            f"{target}: scores are written as {', '.join(listed[:-1])} or {listed[-1]}: end it in "
            "one",
            code="bad-option",
        )
    if asked not in (None, found):
        raise ApproxMassError(
            f"{target} is {found} by its name, and not {asked}: leave --format out, or name it "
            "otherwise",
            code="bad-option",
        )
    return found


def score_table(
    chunk: Chunk, scores: Scores, more: Mapping[str, NDArray[Any]] | None = None
) -> Any:
    """The scores of a chunk as an Arrow table, one row an image.

    With the columns of `Scores.columns`, then `error`. An unreadable image has its reason there
    and no more.

    Arguments:
        chunk: Images, of which k can be read.
        scores: Of these.
        more: Further columns, `(k,)` each, to stand before `error`.
    """
    readable = np.array([error is None for error in chunk.errors])
    # Row of each image among the readable ones; null for the others.
    place = pa.array(np.cumsum(readable) - 1, mask=~readable)
    table = scores.to_arrow(more).take(place)
    names, errors = pa.array(chunk.names, pa.string()), pa.array(chunk.errors, pa.string())
    table = table.set_column(0, "name", names)
    return table.set_column(table.num_columns - 1, "error", errors)


def whole_table(chunk: Chunk, scores: Scores) -> Any:
    """As `score_table`, with all that `scores_in` gives back: by folds a column more, `FIRST`."""
    return score_table(chunk, scores, {} if scores.first is None else {FIRST: scores.first})


def scores_in(table: Any) -> Scores:
    """The scores in a `whole_table` of the images that could be read.

    But for their names, the statistics and the density, whose columns are those of the method.
    """
    rows = table.filter(table["error"].is_null())

    def column(name: str) -> NDArray[Any]:
        found: NDArray[Any] = rows[name].to_numpy(zero_copy_only=False)
        return found

    none = np.full(len(rows), np.nan)
    return Scores(
        log_prob=none,
        mass=none,
        statistic=column("statistic"),
        p_value=column("p_value"),
        is_outlier=column("is_outlier").astype(bool),
        statistics={},
        group=column("group") if "group" in table.column_names else None,
        first=column(FIRST) if FIRST in table.column_names else None,
        names=np.broadcast_to(np.array("", object), len(rows)),  # of many images much to keep
    )


def unreadable_in(table: Any) -> list[tuple[str, str]]:
    """Names of the images that could not be read, each with the reason, worded to follow it."""
    rows = table.filter(table["error"].is_valid())
    return list(zip(rows["name"].to_pylist(), rows["error"].to_pylist(), strict=True))


def at_rate(table: Any, rate: float) -> Any:
    """The same table with the verdicts at another false-alarm rate."""
    verdicts = pyarrow.compute.less_equal(table["p_value"], rate)
    return table.set_column(table.column_names.index("is_outlier"), "is_outlier", verdicts)


def from_source(table: Any, source: str) -> Any:
    """The same table with a column that says where its images are from."""
    return table.add_column(0, "source", pa.repeat(source, len(table)))


class ScoreFile:
    """Writes tables of one schema to an open file, in one of the formats of `format_of`.

    Arguments:
        file: Open for writing bytes; it stays open.
        format: Its format.
    """

    def __init__(self, file: BinaryIO, format: str) -> None:
        self._file, self._make = file, _WRITERS[format]
        self._writer: Any = None

    def __enter__(self) -> "ScoreFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def append(self, table: Any) -> None:
        """Append rows, an Arrow table; whoever reads a pipe has them then."""
        if self._writer is None:
            self._writer = self._make(self._file, table.schema)
        self._writer.write_table(table)
        self._file.flush()
