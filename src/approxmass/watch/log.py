"""The log of `watch`: rows, whole or not there, added to a CSV file or to a Parquet folder."""

__all__ = ["Log", "open_log"]

import csv
import io
import os
import re
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ..errors import ApproxMassError
from ..storage.atomic import check_file, plain_os_errors, write_atomic

# A part of a Parquet log is written again with each batch until it has as many rows.
_PART_ROWS = 10_000
# Lines of a last row that is not whole, whose name may hold line ends: more are a damaged log.
_CUT_LINES = 10


class Log(Protocol):
    """Rows of one schema."""

    def read(self) -> Any:
        """All the whole rows, as an Arrow table."""

    def append(self, rows: Any) -> None:
        """Add rows, and have them on the disk."""

    def close(self) -> None:
        """Write no more."""


def open_log(path: Path, schema: Any) -> Log:
    """A log, made if absent: a file if its name ends in .csv, else a folder of Parquet files.

    Arguments:
        path: Where.
        schema: Arrow schema of the rows; `name` is the first column.

    Raises:
        ApproxMassError: something else is there, or nothing can be written.
    """
    kind = _CsvLog if path.suffix.lower() == ".csv" else _ParquetLog
    return kind(path, schema)


class _CsvLog:
    def __init__(self, path: Path, schema: Any) -> None:
        self._path, self._schema = path, schema
        header = io.BytesIO()
        pyarrow.csv.write_csv(schema.empty_table(), header)
        self._header = header.getvalue()
        check_file(path)
        with plain_os_errors(path):
            self._file = path.open("a+b")
        try:
            self._end = self._whole()
        except BaseException:
            self._file.close()
            raise

    def _whole(self) -> int:
        """Where the last whole row ends; names may hold line ends, in quotation marks."""
        self._file.seek(0)
        end = place = quotes = beyond = 0
        for line in self._file:
            if place == 0 and not self._is_header(line):
                raise _of_another_run(self._path)
            place += len(line)
            quotes += line.count(b'"')
            beyond += 1
            if line.endswith(b"\n") and quotes % 2 == 0:
                end, beyond = place, 0
        if beyond > _CUT_LINES:
            raise _damaged(self._path)
        return end

    def _is_header(self, line: bytes) -> bool:
        if not line.endswith(b"\n"):
            return self._header.startswith(line)
        names = next(csv.reader([line.decode(errors="replace")]))
        return bool(names == self._schema.names)

    def read(self) -> Any:
        self._file.seek(0)
        data = self._file.read(self._end)
        if not data:
            return self._schema.empty_table()
        try:
            return pyarrow.csv.read_csv(
                pa.BufferReader(data),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=self._schema,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            raise _damaged(self._path) from error

    def append(self, rows: Any) -> None:
        data = io.BytesIO()
        options = pyarrow.csv.WriteOptions(include_header=self._end == 0)
        pyarrow.csv.write_csv(rows, data, options)
        try:
            if os.fstat(self._file.fileno()).st_nlink == 0:
                raise OSError("it was removed")
            self._file.truncate(self._end)  # what is left of a row that was cut short
            self._file.write(data.getbuffer())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ApproxMassError(
                f"cannot write {self._path}: {(error.strerror or str(error)).lower()}; see to "
                "that and repeat the command, which goes on from the last whole row",
                code="cannot-write",
            ) from error
        self._end += len(data.getbuffer())

    def close(self) -> None:
        self._file.close()


class _ParquetLog:
    def __init__(self, path: Path, schema: Any) -> None:
        self._path, self._schema = path, schema
        if path.exists() and not path.is_dir():
            raise ApproxMassError(
                f"{path} is a file, a log is a folder: choose another name", code="would-overwrite"
            )
        with plain_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        found = sorted(each.name for each in path.iterdir())
        # Of a part that was being written when the process was killed.
        partial = [name for name in found if name.startswith(".part-")]
        self._parts = [name for name in found if re.fullmatch(r"part-\d{6}\.parquet", name)]
        foreign = sorted({*found} - {*partial, *self._parts})
        if foreign:
            raise ApproxMassError(
                f"{path} is not a log, it holds {foreign[0]!r}: choose another name",
                code="would-overwrite",
            )
        for name in partial:
            (path / name).unlink(missing_ok=True)
        self._last = schema.empty_table()

    def read(self) -> Any:
        tables = []
        for name in self._parts:
            try:
                tables.append(pyarrow.parquet.read_table(self._path / name))
            except (OSError, pa.ArrowInvalid) as error:
                raise _damaged(self._path / name) from error
            if tables[-1].schema != self._schema:
                raise _of_another_run(self._path)
        if tables:
            self._last = tables[-1]
        return pa.concat_tables([self._schema.empty_table(), *tables])

    def append(self, rows: Any) -> None:
        if not self._parts or len(self._last) >= _PART_ROWS:
            self._parts.append(f"part-{len(self._parts):06}.parquet")
            self._last = self._schema.empty_table()
        self._last = pa.concat_tables([self._last, rows])
        with write_atomic(self._path / self._parts[-1]) as path, path.open("wb") as file:
            pyarrow.parquet.write_table(self._last, file)
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        pass


def _damaged(path: Path) -> ApproxMassError:
    return ApproxMassError(
        f"{path} is damaged: move it away, and the images are scored anew", code="damaged"
    )


def _of_another_run(path: Path) -> ApproxMassError:
    return ApproxMassError(
        f"{path} is not a log of this detector, or was written by an earlier version: choose "
        "another name",
        code="other-run",
    )
