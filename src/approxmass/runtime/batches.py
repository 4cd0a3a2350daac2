"""Batches of fixed sizes, so that the arithmetic of a row does not depend on its company."""

__all__ = ["all_at_once", "fixed_batches", "map_batches", "padded"]

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

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


def map_batches(
    function: Callable[[Tensor], T], rows: Tensor, size: int, largest: int = 0
) -> list[tuple[T, int]]:
    """What `function` makes of batches of all rows, in their order, and how many are real.

    On the CPU as many batches at a time as torch has threads, each of them in one: libraries that
    share every small step among threads wait for the slowest at each, above all where others keep
    the cores busy, and let the last digits depend on the number of threads. A few batches, which
    would not pay for starting threads, are shared so.

    Many rows come in larger batches, as there is less to do besides the arithmetic: of several
    times `size`, by which a product of matrices goes through them anyhow.

    Arguments:
        function: What it makes of a row may depend on that row alone; called in several threads.
        rows: `(N, ...)`.
        size: Rows of a batch, or of its parts.
        largest: Rows of a batch where there are many; no more than `size` if that is more.

    Example:
        >>> map_batches(lambda batch: float(batch.sum()), torch.arange(5), 2)
        [(1.0, 2), (5.0, 2), (8.0, 1)]
    """
    threads = torch.get_num_threads()
    few = len(rows) < 2 * threads * size
    if few or rows.device.type != "cpu" or _at_once.get():
        return [(function(batch), count) for batch, count in fixed_batches(rows, size)]
    at_once = max(1, min(largest, len(rows) // threads) // size) * size
    batches = (
        (padded(some, -(-len(some) // size) * size), len(some))
        for some in torch.split(rows, at_once)
    )
    if threads < 2:
        return [(function(batch), count) for batch, count in batches]

    def one(task: tuple[Tensor, int]) -> tuple[T, int]:
        with torch.set_grad_enabled(gradients):
            return function(task[0]), task[1]

    gradients = torch.is_grad_enabled()
    alone = functools.partial(torch.set_num_threads, 1)
    pool = ThreadPoolExecutor(threads, "batches", initializer=alone)
    try:
        return list(pool.map(one, batches))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what the others set is in part the process's
