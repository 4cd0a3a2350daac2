"""A long table in blocks, made in any order: each is kept once it is whole, until all are there."""

__all__ = ["Blocks"]

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq

from ..errors import ApproxMassError
from .atomic import plain_os_errors, write_atomic, write_json
from .leftovers import beside
from .locks import alone

_IDENTITY = "run.json"


class Blocks:
    """The folder of an unfinished table, which one process at a time may work in.

    Each block is written beside its place and renamed: what has its name is whole, whenever the
    process was killed. A later process goes on with what is missing.

    Arguments:
        folder: Where; made on entering, if absent.
        identity: JSON-ready facts that a run which goes on must share.
        count: Rows of the whole table.
        size: Rows of a block; the last may have fewer.

    Raises:
        ApproxMassError: on entering: the folder holds another run or something else, another
            process is at work in it, or it cannot be written.

    Example:
        >>> import tempfile
        >>> import pyarrow as pa
        >>> folder = Path(tempfile.mkdtemp()) / "kept"
        >>> with Blocks(folder, {}, count=5, size=3) as blocks:
        ...     blocks.keep(1, pa.table({"row": [3, 4]}))
        >>> with Blocks(folder, {}, count=5, size=3) as blocks:
        ...     before = blocks.missing()
        ...     blocks.keep(0, pa.table({"row": [0, 1, 2]}))
        ...     rows = [table["row"].to_pylist() for table in blocks.tables()]
        ...     blocks.remove()
        >>> before, rows
        ([0], [[0, 1, 2], [3, 4]])
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, count: int, size: int) -> None:
        self.folder, self.size, self.rows = folder, size, count
        self.identity = {**identity, "rows": count, "rows of a block": size}

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(alone(self.folder, "scores into"))
            with plain_os_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            self._claim()
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def span(self, number: int) -> tuple[int, int]:
        """The places of the first row of a block and of the one after its last."""
        return number * self.size, min(self.rows, (number + 1) * self.size)

    def missing(self) -> list[int]:
        """Numbers of the blocks that are not there; those that a full disk has cut short are none.

        A name tells that a block was written to its end; its length is looked at all the same.
        """
        return [number for number in range(len(self)) if not self._is_whole(number)]

    def keep(self, number: int, table: Any) -> None:
        """Write a block; from now on it is there."""
        first, last = self.span(number)
        if len(table) != last - first:
            raise ValueError(f"block {number} has {len(table)} rows, not {last - first}")
        with write_atomic(self._path(number)) as path:
            pq.write_table(table, path)

    def tables(self) -> Iterator[Any]:
        """All blocks in their order, one at a time."""
        for number in range(len(self)):
            yield pq.read_table(self._path(number))

    def remove(self) -> None:
        """Away with the folder, in one step: what is left of it is no run to go on with."""
        gone = beside(self.folder)
        with plain_os_errors(self.folder):
            os.replace(self.folder, gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.parquet"

    def _is_whole(self, number: int) -> bool:
        path = self._path(number)
        if not path.exists():
            return False
        first, last = self.span(number)
        try:
            return bool(pq.read_metadata(path).num_rows == last - first)
        except Exception:  # whatever Arrow says of a file that is none
            return False

    def _claim(self) -> None:
        """Make the folder ours, or see that it is."""
        place = self.folder / _IDENTITY
        if not place.exists():
            if others := sorted(each.name for each in self.folder.iterdir()):
                raise ApproxMassError(
                    f"{self.folder} holds {others[0]!r}, which is none of ours: choose another "
                    "output",
                    code="would-overwrite",
                )
            write_json(place, self.identity)
            return
        try:
            known = json.loads(place.read_text())
        except (OSError, ValueError):
            known = {}
        if different := sorted(n for n in self.identity if known.get(n) != self.identity[n]):
            raise ApproxMassError(
                f"{self.folder} holds an unfinished run of something else (another "
                f"{different[0]}): remove it, or choose another output",
                code="other-run",
            )
