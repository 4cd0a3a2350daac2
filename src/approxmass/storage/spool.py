"""Rows of numbers that wait on disk for their turn."""

__all__ = ["Spool"]

import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import torch
from torch import Tensor


class Spool:
    """Rows of one shape and type, written in any order to a file without a name, read in theirs.

    What many rows would take of memory, they take of the folder for temporary files; whatever
    happens, nothing of it is left behind.

    Example:
        >>> with Spool() as spool:
        ...     spool.put([1, 0], torch.tensor([[3.0, 4.0], [1.0, 2.0]]))
        ...     [rows.tolist() for rows in spool.chunks(5)]
        [[[1.0, 2.0], [3.0, 4.0]]]
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving
        self._like = torch.empty(0)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def put(self, places: Sequence[int], rows: Tensor) -> None:
        """Write rows `(n, ...)` on the CPU to their places."""
        for place, row in zip(places, rows, strict=True):
            data = row.contiguous().numpy().tobytes()
            self._file.seek(place * len(data))
            self._file.write(data)
            self._count = max(self._count, place + 1)
        self._like = rows[:0].clone()

    def chunks(self, n: int) -> Iterator[Tensor]:
        """All rows up to the last one written, `n` at a time."""
        self._file.seek(0)
        for start in range(0, self._count, n):
            rows = self._like.new_empty((min(n, self._count - start), *self._like.shape[1:]))
            self._file.readinto(rows.numpy().reshape(-1).view("u1").data)
            yield rows
