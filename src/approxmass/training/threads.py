"""The threads in which a step of a training computes: how many it is worth, and who takes what."""

__all__ = ["StepThreads", "step_shares", "step_threads"]

import functools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from ..flows import Flow

T = TypeVar("T")

# By trial on two cores. A thread takes part in the products of a step where each of them,
# as they are counted here, is so many operations a thread: below, threads wait for each other
# longer than they compute.
_FLOP_A_THREAD = 18e6
# A thread takes a share of the batch where that has so many rows, or places of images: below, what
# each does once a step, whatever the rows, outweighs.
_ROWS_OF_A_SHARE = 512


def step_threads(flow: Flow, data: Tensor, batch: int) -> int:
    """As many threads as the mean product of a step keeps busy together, at least 1.

    Arguments:
        flow: What is trained.
        data: Its inputs `(N, ...)`.
        batch: Inputs a step.

    Example:
        >>> from approxmass.flows import VectorFlow
        >>> flow, data = VectorFlow("realnvp", 64), torch.zeros(1, 64)
        >>> [step_threads(flow, data, batch) for batch in (64, 1024)]
        [1, 3]
    """
    weights = [weight.numel() for weight in flow.parameters() if weight.ndim > 1]
    mean = sum(weights) / max(1, len(weights))
    return max(1, int(2 * batch * _places(data) * mean / _FLOP_A_THREAD))


def step_shares(flow: Flow, data: Tensor, batch: int) -> int:
    """As many threads as a share of the batch each keeps busy; 1 where it is not to be shared.

    With BatchNorm what becomes of a row depends on the others.

    Example:
        >>> from approxmass.flows import RealNVP, VectorFlow
        >>> [step_shares(VectorFlow("realnvp", 4), torch.zeros(1, 4), n) for n in (512, 1024)]
        [1, 2]
        >>> flows = [RealNVP.preset(of, (1, 28, 28)) for of in ("compact", "paper")]
        >>> [step_shares(flow, torch.zeros(1, 1, 28, 28), 16) for flow in flows]
        [6, 1]
    """
    if any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in flow.modules()):
        return 1
    return max(1, min(batch, batch * _places(data) // _ROWS_OF_A_SHARE))


def _places(data: Tensor) -> int:
    """Of an input, at which a weight is applied: flows of images work at half their resolution."""
    return max(1, math.prod(data.shape[2:]) // 4)


class StepThreads:
    """Within it a training computes in no more threads than its steps keep busy.

    Best each thread takes a share of the batch: a step is some hundred products one after the
    other, and so threads wait for each other once and not a hundred times, which costs most where
    other programs keep the cores busy. A batch too small for that is computed by all threads
    together, or by one.

    Arguments:
        together: Threads that a product of the whole batch is worth.
        shares: Threads that have a share each; 1 for no shares. No more are used than torch has.

    Attributes:
        shares: As many as there are.

    Example:
        >>> with StepThreads(1, shares=2) as threads:
        ...     threads.map(lambda rows: float(rows.sum()), [torch.ones(2), torch.ones(1)])
        [2.0, 1.0]
    """

    def __init__(self, together: int, shares: int) -> None:
        most = _Before.threads or torch.get_num_threads()
        self.shares = min(shares, most)
        self._together = 1 if self.shares > 1 else min(together, most)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.shares > 1:
            alone = functools.partial(torch.set_num_threads, 1)
            self._pool = ThreadPoolExecutor(self.shares - 1, "share", initializer=alone)
        with _Before.lock:
            if not _Before.inside:
                _Before.threads = torch.get_num_threads()
            _Before.inside += 1
        torch.set_num_threads(self._together)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        with _Before.lock:
            torch.set_num_threads(_Before.threads)
            _Before.inside -= 1
            if not _Before.inside:
                _Before.threads = 0

    def map(self, function: Callable[[Tensor], T], parts: Sequence[Tensor]) -> list[T]:
        """What a function makes of each part, in their order; the first in this thread."""
        if self._pool is None:
            return [function(part) for part in parts]
        others = [self._pool.submit(function, part) for part in parts[1:]]
        return [function(parts[0]), *(other.result() for other in others)]


class _Before:
    """Threads that torch had before the first of the trainings under way: some of what one sets
    is the whole process's, and another may begin in the midst of it."""

    lock = threading.Lock()
    inside = 0
    threads = 0
