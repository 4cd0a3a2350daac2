"""The images of a watched folder: which of their files are in the log, and what is to be scored."""

__all__ = ["Images"]

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import Chunk, ImageSource
from ..data.readers.folder import image_files
from ..detector import Detector
from ..scores import Scores
from .arrivals import Found
from .identity import State, digests
from .names import file_name, log_name
from .piece import Piece, Row

# A further page of a file is called by its number; no file that is looked at ends like this.
_PAGE = re.compile(r"#(\d+)\Z")
_NONE: frozenset[int] = frozenset()
# Files that are looked into, and then scored, at a time: so many, and about so many bytes.
_FILES, _BYTES = 2048, 1 << 30


@dataclass(slots=True)
class _Record:
    """An image of the log: its file, which may have moved since, and the pages in error."""

    file: str
    size: int
    modified: int
    digest: bytes
    pages: int
    bad: frozenset[int]


@dataclass(slots=True)
class _New:
    """A file to be scored; what the log has of these bytes already is `told`."""

    file: str
    state: State
    digest: bytes
    told: _Record | None


class Images:
    """The image files of a folder, and which of them are in the log.

    A file is what its bytes are. One that was written again is a new image, unless its bytes are
    the same or were only added to. One with the bytes of another, whose name has gone, or has been
    given to other bytes since, was renamed. What could not be read is tried again when it changes,
    and by every run; it is told again only if it is other bytes.

    Arguments:
        detector: Of images.
        folder: Where they are.

    Attributes:
        unreadable: Images whose last row is an error.
    """

    def __init__(self, detector: Detector, folder: Path) -> None:
        self.unreadable = 0
        self._detector, self._folder = detector, folder
        self._prefix = os.path.join(folder, "")
        self._last: dict[str, _Record] = {}
        self._by_digest: dict[bytes, list[_Record]] = {}
        self._cut = ""  # the last file of the log, of which pages may be missing

    def found(self) -> list[str]:
        """The files that count, as paths from the folder, in the order of their names."""
        return image_files(str(self._folder), self._folder)

    def lacks_its_end(self, file: str) -> bool:
        """Never known."""
        return False

    def stands(self, file: str, state: State) -> bool:
        """Whether the log has all of a file, by its size and time."""
        last = self._last.get(file)
        return (
            last is not None
            and not last.bad
            and file != self._cut
            and (last.size, last.modified) == (state.size, state.modified)
        )

    def take(self, rows: Iterable[Row]) -> None:
        """Take in rows of the log, in its order.

        Raises:
            ValueError: no file can be called so.
        """
        for row in rows:
            further = _PAGE.search(row.name)
            page = 1 if further is None else int(further[1])
            file = file_name(row.name if further is None else row.name[: further.start()])
            record = self._last.get(file)
            if record is None or not _continues(record, row):
                record = self._begun(file, row)
            record.pages = max(record.pages, page)
            if row.bad and page not in record.bad:
                record.bad |= {page}
                self.unreadable += 1
            elif not row.bad and page in record.bad:
                record.bad -= {page}
                self.unreadable -= 1
            if self._detector.settings.pages:
                self._cut = file

    def _begun(self, file: str, row: Row) -> _Record:
        """A new image; errors of the file before, or of its bytes under another name, are past."""
        self._settle(self._last.get(file))
        same = self._by_digest.setdefault(row.digest, []) if row.digest else []
        if not row.bad:
            self._settle(next((each for each in same if each.bad), None))
        record = _Record(file, row.size, row.modified, row.digest, 0, _NONE)
        self._last[file] = record
        same.append(record)
        return record

    def _settle(self, record: _Record | None) -> None:
        """Nothing is in error any more."""
        if record is not None:
            self.unreadable -= len(record.bad)
            record.bad = _NONE

    def pieces(self, files: Sequence[Found], done: Callable[[str, State], None]) -> Iterator[Piece]:
        """Score what is new in files, some at a time; `done` is told of those in the log."""
        for some in _portions(files):
            news = []
            for file, state in some:
                new = self._new(file, state)
                if new is not None:
                    news.append(new)
                elif State.of(self._prefix + file) == state:
                    done(file, state)
            if news:
                yield from self._scored(news)
                self._cut = ""  # all that was scored is in the log
                last = news[-1]
                if State.of(self._prefix + last.file) == last.state:
                    done(last.file, last.state)

    def _scored(self, news: list[_New]) -> Iterator[Piece]:
        names = [log_name(new.file) for new in news]
        paths = [self._folder / new.file for new in news]

        def batches(n: int, start: int = 0) -> Iterator[tuple[list[str], Sequence[Path]]]:
            for i in range(start, len(names), n):
                yield names[i : i + n], paths[i : i + n]

        source = ImageSource(str(self._folder), len(names), batches, onward=batches)
        place = -1
        for chunk, scores in self._detector.score_chunks(source):
            pages, whose = [], []
            for name in chunk.names:
                further = _PAGE.search(name)
                place += further is None
                pages.append(1 if further is None else int(further[1]))
                whose.append(news[place])
            yield self._piece(chunk, scores, pages, whose)

    def _piece(self, chunk: Chunk, scores: Scores, pages: list[int], whose: list[_New]) -> Piece:
        unchanged: dict[str, bool] = {}
        for new in whose:
            if new.file not in unchanged:  # what was read is what the digest is of
                unchanged[new.file] = State.of(self._prefix + new.file) == new.state
        kept = [
            unchanged[new.file] and (new.told is None or _untold(new.told, page, error))
            for new, page, error in zip(whose, pages, chunk.errors, strict=True)
        ]
        done = {new.file: new.state for new in whose if unchanged[new.file]}
        if self._detector.settings.pages:
            done.pop(whose[-1].file, None)  # the next chunk may have more of it
        return Piece(
            chunk,
            scores,
            np.array(kept),
            [new.state for new in whose],
            [new.digest for new in whose],
            list(done.items()),
        )

    def _new(self, file: str, state: State) -> _New | None:
        """What there is to score of a file that is new or changed; None where that is nothing."""
        last = self._last.get(file)
        first = 0 if last is None or last.bad or last.size >= state.size else last.size
        try:
            whole, start = digests(self._prefix + file, first) if state.regular else (b"", b"")
        except OSError:
            whole, start = b"", b""
        if not whole:
            same = last is not None and (last.size, last.modified) == (state.size, state.modified)
            return None if same else _New(file, state, b"", None)
        if first and last is not None and start == last.digest:
            return None  # more bytes, behind those of an image
        told = last if last is not None and last.digest == whole else None
        if told is None:
            told = self._moved(file, state, whole)
        if told is not None and not told.bad and file != self._cut:
            return None
        return _New(file, state, whole, told)

    def _moved(self, file: str, state: State, digest: bytes) -> _Record | None:
        """The image of the log that a file now holds, under this name or at this time anew."""
        for record in self._by_digest.get(digest, ()):
            held = self._last.get(record.file) is record
            on_time = record.modified == state.modified
            now = State.of(self._prefix + record.file)
            if now is None:
                free = held or on_time
            elif record.file == file:
                free = on_time
            else:
                there = (now.size, now.modified) == (record.size, record.modified)
                free = on_time and not (held and there)
            if free and (held or not record.bad):
                if held:
                    del self._last[record.file]
                self._settle(self._last.get(file))
                record.file = file
                self._last[file] = record
                return record
        return None


def _continues(record: _Record, row: Row) -> bool:
    """Whether a row is of the same image: of another page, or one that could not be read."""
    same = (record.size, record.modified) == (row.size, row.modified)
    return record.digest == row.digest and (same or bool(record.bad and row.digest))


def _untold(told: _Record, page: int, error: str | None) -> bool:
    return page > told.pages or (page in told.bad and error is None)


def _portions(files: Sequence[Found]) -> Iterator[list[Found]]:
    some: list[Found] = []
    size = 0
    for each in files:
        some.append(each)
        size += each[1].size
        if len(some) >= _FILES or size >= _BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some
