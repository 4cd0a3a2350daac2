"""What a network made of images, kept for the next fit: one small database a network."""

__all__ = ["ViewCache"]

import sqlite3
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .cache import cache_folder

# Bytes of rows that are kept; the oldest give way.
_MOST = 1 << 30
# Before the numbers of a row: a checksum of its key and of them.
_SUM = struct.Struct("<I")


class ViewCache:
    """Rows of numbers by the digest of what they were made of; shared by processes.

    Where the cache folder cannot be used, it holds nothing and says nothing: a fit needs it not.

    Arguments:
        name: Of the database: a digest of all that the rows depend on besides their keys.
        most: Bytes of rows to keep.

    Example:
        >>> import os, tempfile
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, APPROXMASS_CACHE=tempfile.mkdtemp()):
        ...     cache = ViewCache("doctest")
        >>> with cache:
        ...     cache.put([b"key"], np.ones((1, 2), np.float32))
        ...     cache.get([b"key", b"other"])
        [array([1., 1.], dtype=float32), None]
    """

    def __init__(self, name: str, *, most: int = _MOST) -> None:
        self._most = most
        self._database: sqlite3.Connection | None = None
        with suppress(OSError, sqlite3.Error):
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"views-{name[:24]}.sqlite"
            try:
                self._database = _opened(path)
            except sqlite3.OperationalError:  # not ours to write, or in use
                raise
            except sqlite3.DatabaseError:  # damaged
                path.unlink()
                self._database = _opened(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()

    def get(self, keys: Sequence[bytes]) -> list[NDArray[np.float32] | None]:
        """The row of each key, or None."""
        return [self._get(key) for key in keys]

    def _get(self, key: bytes) -> NDArray[np.float32] | None:
        if self._database is None:
            return None
        with suppress(sqlite3.Error):
            row = self._database.execute("SELECT view FROM views WHERE key = ?", (key,)).fetchone()
            if row is not None and _SUM.size <= len(row[0]) and len(row[0]) % 4 == 0:
                (checksum,), data = _SUM.unpack_from(row[0]), row[0][_SUM.size :]
                if zlib.crc32(key + data) == checksum:
                    return np.frombuffer(data, "<f4").astype(np.float32)
        return None

    def put(self, keys: Sequence[bytes], rows: NDArray[np.float32]) -> None:
        """Keep the rows of some keys; all of them or, where there is no room, none."""
        if self._database is None or not len(rows):
            return
        with suppress(sqlite3.Error):
            pairs = [(key, _packed(key, row)) for key, row in zip(keys, rows, strict=True)]
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT OR REPLACE INTO views (key, view) VALUES (?, ?)", pairs
            )
            most = max(1, self._most // max(1, rows[0].nbytes))
            self._database.execute(
                "DELETE FROM views WHERE id <= (SELECT MAX(id) FROM views) - ?", (most,)
            )
            self._database.execute("COMMIT")


def _packed(key: bytes, row: NDArray[np.float32]) -> bytes:
    data: bytes = row.astype("<f4").tobytes()
    return _SUM.pack(zlib.crc32(key + data)) + data


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=OFF")  # a lost cache is made again
        database.execute(
            "CREATE TABLE IF NOT EXISTS views "
            "(id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, view BLOB NOT NULL)"
        )
    except sqlite3.Error:
        database.close()
        raise
    return database
