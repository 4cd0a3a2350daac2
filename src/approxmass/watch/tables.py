"""The tables of a watched folder: which of their rows are in the log, and what is to be scored."""

__all__ = ["Tables", "row_name"]

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..data import Chunk
from ..data.readers.folder import files_below
from ..data.vectors import SUFFIXES, VectorSource
from ..detector import Detector
from ..errors import ApproxMassError
from .arrivals import Found
from .identity import State, digests, new_digest
from .names import file_name, log_name
from .piece import Piece, Row

# A row is called by its file and its number there; no file that is looked at ends like this.
_ROW = re.compile(r":(\d+)\Z")
# Bytes of a digest.
_EACH = 16


def row_name(file: str, number: int) -> str:
    """What a row of a file is called in a log.

    Example:
        >>> row_name("day/a.csv", 17)
        'day/a.csv:17'
    """
    return f"{log_name(file)}:{number}"


@dataclass(slots=True)
class _Record:
    """A file of the log: a digest for each of its rows, of the rows up to there."""

    file: str
    size: int = 0
    modified: int = 0
    rows: bytearray = field(default_factory=bytearray)
    bad: set[int] = field(default_factory=set)
    error: bytes | None = None  # digest of the file, if it cannot be read


class Tables:
    """The files of rows of a folder, and which of their rows are in the log.

    A file that has changed is read again, and scored from the first row on that is not as it was:
    rows added at its end are new, and of one written anew all that differs. A file with all the
    rows, the size and the time of another, whose name has gone or been given away, was renamed.

    Arguments:
        detector: Of rows of numbers.
        folder: Where the files are.

    Attributes:
        unreadable: Rows, and files, whose last row in the log is an error.
    """

    def __init__(self, detector: Detector, folder: Path) -> None:
        self.unreadable = 0
        self._detector, self._folder = detector, folder
        self._prefix = os.path.join(folder, "")
        self._last: dict[str, _Record] = {}
        self._by_end: dict[bytes, list[_Record]] = {}
        self._cut = ""  # the last file of the log, of which rows may be missing

    def found(self) -> list[str]:
        """The files that count, as paths from the folder, in the order of their names."""
        return files_below(str(self._folder), self._folder, SUFFIXES)

    def lacks_its_end(self, file: str) -> bool:
        """Whether the last line of a CSV file has no end: a number may be cut in two."""
        if not file.lower().endswith(".csv"):
            return False
        try:
            with open(self._prefix + file, "rb") as opened:
                size = opened.seek(0, os.SEEK_END)
                opened.seek(max(0, size - 1))
                return opened.read() not in (b"", b"\n", b"\r")
        except OSError:
            return False

    def stands(self, file: str, state: State) -> bool:
        """Whether the log has all of a file, by its size and time."""
        last = self._last.get(file)
        return (
            last is not None
            and last.error is None
            and file != self._cut
            and (last.size, last.modified) == (state.size, state.modified)
        )

    def take(self, rows: Iterable[Row]) -> None:
        """Take in rows of the log, in its order.

        Raises:
            ValueError: no row can be called so, or not here.
        """
        touched: dict[int, _Record] = {}
        for row in rows:
            found = _ROW.search(row.name)
            file = file_name(row.name if found is None else row.name[: found.start()])
            record = self._last.get(file)
            number = -1 if found is None else int(found[1])
            if record is None or (number == 0 and record.rows):
                record = self._begun(file, record)
            if found is None:
                self._failed(record, row.digest)
            else:
                self._add(record, number, row)
            touched[id(record)] = record
            self._cut = file
        for record in touched.values():
            same = self._by_end.setdefault(bytes(record.rows[-_EACH:]), [])
            same[:] = [each for each in same if each is not record] + [record]

    def _begun(self, file: str, before: _Record | None) -> _Record:
        """A file, or one that was written anew: errors of the one before stand until replaced."""
        record = _Record(file)
        if before is not None:
            record.bad, record.error = before.bad, before.error
            before.bad, before.error = set(), None
        self._last[file] = record
        return record

    def _failed(self, record: _Record, digest: bytes | None) -> None:
        self.unreadable += (digest is not None) - (record.error is not None)
        record.error = digest

    def _add(self, record: _Record, number: int, row: Row) -> None:
        if number * _EACH > len(record.rows):
            raise ValueError(f"{row.name} has no row before it")
        self._failed(record, None)
        record.size, record.modified = row.size, row.modified
        del record.rows[number * _EACH :]
        record.rows += row.digest
        self.unreadable += row.bad - (number in record.bad)
        (record.bad.add if row.bad else record.bad.discard)(number)

    def pieces(self, files: Sequence[Found], done: Callable[[str, State], None]) -> Iterator[Piece]:
        """Score the new rows of files, some at a time; `done` is told of those in the log."""
        for file, state in files:
            path = self._folder / file
            try:
                yield from self._scored(file, state, path)
            except ApproxMassError as error:
                piece = self._error(file, state, str(error).removeprefix(f"{path}: "), error)
                if piece is not None:
                    yield piece
            if State.of(self._prefix + file) == state:
                done(file, state)

    def _scored(self, file: str, state: State, path: Path) -> Iterator[Piece]:
        source = self._detector.open(path)
        assert isinstance(source, VectorSource)
        now = _running(source)
        last = self._last.get(file) or self._moved(file, state, now)
        first = 0 if last is None else _first_new(bytes(last.rows), now)
        if last is not None and first * _EACH == len(now):
            self._failed(last, None)
            return
        left = source.part(np.arange(len(source)) >= first, log_name(file))
        for chunk, scores in self._detector.score_chunks(left):
            if State.of(self._prefix + file) != state:
                return
            places = [first + int(name) for name in chunk.names]
            names = [row_name(file, place) for place in places]
            each = [now[place * _EACH : (place + 1) * _EACH] for place in places]
            kept = np.ones(len(names), bool)
            yield Piece(replace(chunk, names=names), scores, kept, [state] * len(names), each, [])

    def _error(self, file: str, state: State, reason: str, error: ApproxMassError) -> Piece | None:
        """A file that cannot be read, unless that is told already of the same bytes."""
        try:
            digest = digests(self._prefix + file, 0)[0] if state.regular else b""
        except OSError:
            digest = b""
        last = self._last.get(file)
        told = last is not None and last.error == digest
        if told or State.of(self._prefix + file) != state:
            return None
        none = np.empty((0, *self._detector.shape))
        chunk = Chunk(none, [], None, [log_name(file)], [reason], [error.code])  # type: ignore[arg-type]
        scores = self._detector.score_pixels(none)  # type: ignore[arg-type]
        return Piece(chunk, scores, np.ones(1, bool), [state], [digest], [])

    def _moved(self, file: str, state: State, now: bytes) -> _Record | None:
        """The file of the log that has another name now; equal rows alone do not make it."""
        for record in self._by_end.get(now[-_EACH:], ()):
            held = self._last.get(record.file) is record
            there = State.of(self._prefix + record.file)
            was = (record.size, record.modified)
            if (
                record.rows == now
                and was == (state.size, state.modified)
                and not (held and there is not None and (there.size, there.modified) == was)
            ):
                if held:
                    del self._last[record.file]
                record.file = file
                self._last[file] = record
                return record
        return None


def _running(source: VectorSource) -> bytes:
    """Of each row a digest of all rows up to it, one behind the other."""
    taken, found = new_digest(), bytearray()
    for _, rows in source.parts()[0](4096):
        for row in np.ascontiguousarray(rows):
            taken.update(row.data)
            found += taken.digest()
    return bytes(found)


def _first_new(before: bytes, now: bytes) -> int:
    """The number of the first row that is not as it was."""
    count = min(len(before), len(now)) // _EACH
    both = [
        np.frombuffer(each[: count * _EACH], np.uint8).reshape(count, _EACH)
        for each in (before, now)
    ]
    differ = np.flatnonzero((both[0] != both[1]).any(axis=1))
    return int(differ[0]) if len(differ) else count
