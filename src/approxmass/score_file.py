"""Scores as a table on disk: one row an image, Parquet or CSV, written as they come."""

__all__ = ["ScoreFile", "check_suffix"]

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from .data import Chunk
from .detector import Scores
from .errors import ApproxMassError

_WRITERS = {".parquet": pyarrow.parquet.ParquetWriter, ".csv": pyarrow.csv.CSVWriter}


def check_suffix(target: Path) -> None:
    """Raise `ApproxMassError` unless `target` ends in .parquet or .csv."""
    if target.suffix.lower() not in _WRITERS:
        raise ApproxMassError(f"{target}: scores are written as .parquet or .csv: end it in one")


class ScoreFile:
    """Writes scores to `path` in the format that `target` names.

    Columns: `name`, `log_prob` (nats, of a flow), every statistic but the NLL, `statistic`,
    `p_value`, `is_outlier`, `error`. An unreadable image has its reason in `error` and no more.

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
        values = {"log_prob": scores.log_prob} if "nll" in scores.statistics else {}
        values |= {k: v for k, v in scores.statistics.items() if k != "nll"}
        values |= {"statistic": scores.statistic, "p_value": scores.p_value}
        readable = np.array([error is None for error in chunk.errors])
        # Row of each image among the readable ones; null for the others.
        place = pa.array(np.cumsum(readable) - 1, mask=~readable)
        columns: dict[str, pa.Array] = {"name": pa.array(chunk.names, pa.string())}
        columns |= {k: pa.array(v, pa.float64()).take(place) for k, v in values.items()}
        columns["is_outlier"] = pa.array(scores.is_outlier, pa.bool_()).take(place)
        columns["error"] = pa.array(chunk.errors, pa.string())
        table = pa.table(columns)
        if self._writer is None:
            # An open file, since Arrow takes no name that is not valid text.
            self._file = self._path.open("wb")
            self._writer = self._make(self._file, table.schema)
        self._writer.write_table(table)
