"""Batches of one fixed size, so that the arithmetic of a row does not depend on its company."""

__all__ = ["fixed_batches", "padded"]

from collections.abc import Iterator

import torch
from torch import Tensor


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


def fixed_batches(rows: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Batches `(size, ...)` of rows in their order, the last one padded, and how many are real.

    Example:
        >>> [(batch.tolist(), count) for batch, count in fixed_batches(torch.arange(3), 2)]
        [([0, 1], 2), ([2, 2], 1)]
    """
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        yield padded(some, size), len(some)
