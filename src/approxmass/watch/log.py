"""The log of `watch`: rows, whole or not there, added to a CSV file or to a Parquet folder."""

__all__ = ["Log", "open_log"]

import contextlib
import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ..errors import ApproxMassError
from ..storage.atomic import check_file, plain_os_errors, write_atomic
from .chain import CHECK, first_wrong, with_checks

# A part of a Parquet log is written again with each batch until it has as many rows.
_PART_ROWS = 10_000
# Lines of a last row that is not whole, whose name may hold line ends: more are a damaged log.
_CUT_LINES = 10
# Bytes at the end of a CSV log that are known by heart: those of the last check.
_TAIL = 24


class Log(Protocol):
    """Rows of one schema, each with a check of it and of those before (`chain.py`)."""

    def read(self) -> Any:
        """All the whole rows, as an Arrow table; nothing is written yet."""

    def start(self) -> None:
        """Cut off a row that is not whole, and have a log on the disk."""

    def check(self) -> None:
        """Refuse a log that another program has cut, replaced or removed since it was read."""

    def append(self, rows: Any) -> Any:
        """Add rows, and have them on the disk; returns them with their checks."""

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
    return kind(path, schema.append(pa.field(CHECK, pa.string())))


class _CsvLog:
    def __init__(self, path: Path, schema: Any) -> None:
        self._path, self._schema, self._last = path, schema, ""
        header = io.BytesIO()
        pyarrow.csv.write_csv(schema.empty_table(), header)
        self._header = header.getvalue()
        check_file(path)
        with plain_os_errors(path):
            self._file = path.open("a+b")
        try:
            self._end = self._whole()
            self._tail = self._read_tail()
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
        try:
            names = next(csv.reader([line.decode(errors="replace")]))
        except csv.Error:  # as of a line end within
            return False
        return bool(names == self._schema.names)

    def _read_tail(self) -> bytes:
        size = min(self._end, _TAIL)
        return os.pread(self._file.fileno(), size, self._end - size)  # what is there now

    def read(self) -> Any:
        self._file.seek(0)
        data = self._file.read(self._end)
        if not data:
            return self._schema.empty_table()
        try:
            table = pyarrow.csv.read_csv(
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
        self._last = _checked(self._path, table)
        return table

    def start(self) -> None:
        with _writing(self._path):
            self._file.truncate(self._end)  # what is left of a row that was cut short
            if not self._end:
                self._write(self._header)

    def check(self) -> None:
        try:
            found, mine = os.stat(self._path), os.fstat(self._file.fileno())
        except OSError:
            raise _changed(self._path) from None
        same = (found.st_dev, found.st_ino, mine.st_size) == (mine.st_dev, mine.st_ino, self._end)
        if not same or self._read_tail() != self._tail:
            raise _changed(self._path)

    def append(self, rows: Any) -> Any:
        rows = with_checks(rows, self._last)
        self.check()
        if len(rows):
            data = io.BytesIO()
            pyarrow.csv.write_csv(rows, data, pyarrow.csv.WriteOptions(include_header=False))
            with _writing(self._path):
                self._write(data.getvalue())
        self._last = _last_check(rows, self._last)
        return rows

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._end += len(data)
        self._tail = (self._tail + data)[-_TAIL:]

    def close(self) -> None:
        self._file.close()


class _ParquetLog:
    def __init__(self, path: Path, schema: Any) -> None:
        self._path, self._schema, self._last = path, schema, ""
        if path.exists() and not path.is_dir():
            raise ApproxMassError(
                f"{path} is a file, a log is a folder: choose another name", code="would-overwrite"
            )
        with plain_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        found = sorted(each.name for each in path.iterdir())
        # Of a part that was being written when the process was killed.
        partial = [name for name in found if name.startswith(".part-")]
        parts = [name for name in found if _is_part(name)]
        foreign = sorted({*found} - {*partial, *parts})
        if foreign:
            raise ApproxMassError(
                f"{path} is not a log, it holds {foreign[0]!r}: choose another name",
                code="would-overwrite",
            )
        if parts != [_part(number) for number in range(len(parts))]:
            raise _damaged(path)
        self._partial = partial
        self._parts = self._found()
        self._open = schema.empty_table()

    def _found(self) -> dict[str, tuple[int, int, int]]:
        """The parts that there are, with what the system says of each."""
        with os.scandir(self._path) as found:
            facts = {each.name: each.stat() for each in found if _is_part(each.name)}
        return {
            name: (fact.st_ino, fact.st_size, fact.st_mtime_ns)
            for name, fact in sorted(facts.items())
        }

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
            self._open = tables[-1]
        table = pa.concat_tables([self._schema.empty_table(), *tables])
        self._last = _checked(self._path, table)
        return table

    def start(self) -> None:
        for name in self._partial:
            (self._path / name).unlink(missing_ok=True)
        if not self._parts:
            self._write(self._schema.empty_table())

    def check(self) -> None:
        try:
            same = self._found() == self._parts
        except OSError:
            same = False
        if not same:
            raise _changed(self._path)

    def append(self, rows: Any) -> Any:
        rows = with_checks(rows, self._last)
        self.check()
        if len(rows):
            self._write(rows)
        self._last = _last_check(rows, self._last)
        return rows

    def _write(self, rows: Any) -> None:
        full = len(self._open) >= _PART_ROWS
        number = max(0, len(self._parts) - 1 + full)
        self._open = pa.concat_tables([rows] if full else [self._open, rows])
        with write_atomic(self._path / _part(number)) as path, path.open("wb") as file:
            pyarrow.parquet.write_table(self._open, file)
            file.flush()
            os.fsync(file.fileno())
        self._parts = self._found()

    def close(self) -> None:
        pass


def _part(number: int) -> str:
    return f"part-{number:06}.parquet"


def _is_part(name: str) -> bool:
    return re.fullmatch(r"part-\d{6}\.parquet", name) is not None


def _checked(path: Path, rows: Any) -> str:
    """The last check of a log, all of which are right."""
    wrong = first_wrong(rows)
    if wrong is not None:
        raise ApproxMassError(
            f"{path} is damaged or was edited, at row {wrong + 1:,} ({rows['name'][wrong]}): put "
            "back what it was, or move it away, and the images are scored anew",
            code="damaged",
        )
    return _last_check(rows, "")


def _last_check(rows: Any, before: str) -> str:
    return str(rows[CHECK][-1]) if len(rows) else before


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ApproxMassError(
            f"cannot write {path}: {(error.strerror or str(error)).lower()}; see to that and "
            "repeat the command, which goes on from the last whole row",
            code="cannot-write",
        ) from error


def _damaged(path: Path) -> ApproxMassError:
    return ApproxMassError(
        f"{path} is damaged: move it away, and the images are scored anew", code="damaged"
    )


def _changed(path: Path) -> ApproxMassError:
    return ApproxMassError(
        f"{path} was cut, replaced or removed by another program, and nothing was written to it: "
        "put back what it was, or move it away, and the images are scored anew",
        code="damaged",
    )


def _of_another_run(path: Path) -> ApproxMassError:
    return ApproxMassError(
        f"{path} is not a log of this detector, or was written by an earlier version: choose "
        "another name",
        code="other-run",
    )
