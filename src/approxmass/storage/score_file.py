"""Scores as a table on disk: one row an image, Parquet or CSV, written as they come."""

__all__ = [
    "FIRST",
    "ScoreFile",
    "check_suffix",
    "score_table",
    "scores_in",
    "unreadable_in",
    "whole_table",
]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from ..data.source import Chunk
from ..errors import ApproxMassError
from ..scores import Scores

# Of a detector by folds, the column that is kept of `Scores.first` until all rows are there.
FIRST = "first"
_WRITERS = {".parquet": pyarrow.parquet.ParquetWriter, ".csv": pyarrow.csv.CSVWriter}


def check_suffix(target: Path) -> None:
    """Raise `ApproxMassError` unless `target` ends in .parquet or .csv."""
    if target.suffix.lower() not in _WRITERS:
        raise ApproxMassError(
            f"{target}: scores are written as .parquet or .csv: end it in one", code="bad-option"
        )


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


class ScoreFile:
    """Writes scores to `path` in the format that `target` names, with the columns of `score_table`.

    Arguments:
        path: The file to write.
        target: The name that it will have in the end.
    """

    def __init__(self, path: Path, target: Path) -> None:
        self._path = path
        self._make = _WRITERS[target.suffix.lower()]
        self._writer: Any = None

    def __enter__(self) -> "ScoreFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
            self._file.close()

    def write(self, chunk: Chunk, scores: Scores) -> None:
        """Append the rows of a chunk."""
        self.append(score_table(chunk, scores))

    def append(self, table: Any) -> None:
        """Append rows, an Arrow table."""
        if self._writer is None:
            # An open file, since Arrow takes no name that is not valid text.
            self._file = self._path.open("wb")
            self._writer = self._make(self._file, table.schema)
        self._writer.write_table(table)
