"""Batches of one fixed size, so that the arithmetic of a row does not depend on its company."""

__all__ = ["all_at_once", "fixed_batches", "padded"]

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_at_once = ContextVar("_at_once", default=False)


def padded(rows: Tensor, size: int) -> Tensor:
    """Rows `(n, ...)` with copies of the first after them, `(size, ...)`; `n` is 1 to `size`.

    Libraries choose how to multiply by the number of rows, and so move the last digits of each.

    Example:
        >>> padded(torch.tensor([[1.0], [2.0]]), 4).flatten()
        tensor([1., 2., 1., 1.])
    """
    missing = size - len(rows)
    if missing <= 0:
        return rows
    return torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])])


@contextmanager
def all_at_once() -> Iterator[None]:
    """Within, all rows are one batch: for a graph that is to take any number of them.

    Example:
        >>> with all_at_once():
        ...     [count for _, count in fixed_batches(torch.arange(3), 2)]
        [3]
    """
    token = _at_once.set(True)
    try:
        yield
    finally:
        _at_once.reset(token)


def fixed_batches(rows: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Batches `(size, ...)` of rows in their order, the last one padded, and how many are real.

    Example:
        >>> [(batch.tolist(), count) for batch, count in fixed_batches(torch.arange(3), 2)]
        [([0, 1], 2), ([2, 2], 1)]
    """
    if _at_once.get():
        yield rows, rows.shape[0]
        return
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        yield padded(some, size), len(some)
