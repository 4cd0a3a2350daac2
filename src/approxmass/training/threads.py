"""The threads in which a step of a training computes: how many it is worth, and who takes what."""

__all__ = ["StepThreads", "depends_on_company", "step_threads"]

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..data.pixels import unit_pixels
from ..flows import Flow

T = TypeVar("T")

# The mean product of a thread's share has to be this many operations: below, the threads wait for
# each other longer than they compute (docs/performance.md).
_FLOP_A_THREAD = 8e6


def step_threads(flow: Flow, data: Tensor, batch: int) -> int:
    """As many threads as the mean product of a step keeps busy, at least 1.

    Arguments:
        flow: What is trained.
        data: Its inputs `(N, ...)`.
        batch: Inputs a step.

    Example:
        >>> from approxmass.flows import VectorFlow
        >>> flow, data = VectorFlow("realnvp", 64), torch.zeros(1, 64)
        >>> [step_threads(flow, data, batch) for batch in (64, 1024)]
        [1, 7]
    """
    training = flow.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        flow.eval().log_prob(unit_pixels(data[:1]))
    flow.train(training)
    products = sum(weight.ndim > 1 for weight in flow.parameters())
    mean = counter.get_total_flops() / max(1, products)
    return max(1, int(batch * mean / _FLOP_A_THREAD))


class StepThreads:
    """Within it a training computes in no more threads than its steps keep busy.

    Where rows do not depend on each other, each thread takes a share of the batch: a step is some
    hundred products one after the other, and so threads wait for each other once and not a hundred
    times, which costs most where other programs keep the cores busy.

    Arguments:
        count: How many a step is worth; no more are used than torch has.
        shares: Each takes a share; else all take part in every product.

    Example:
        >>> with StepThreads(2, shares=True) as threads:
        ...     threads.map(lambda rows: float(rows.sum()), [torch.ones(2), torch.ones(1)])
        [2.0, 1.0]
    """

    def __init__(self, count: int, *, shares: bool) -> None:
        self.before = torch.get_num_threads()
        self.count = min(count, self.before)
        self.shares = shares and self.count > 1
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        alone = functools.partial(torch.set_num_threads, 1)
        if self.shares:
            self._pool = ThreadPoolExecutor(self.count - 1, "share", initializer=alone)
        torch.set_num_threads(1 if self.shares else self.count)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.before)

    def map(self, function: Callable[[Tensor], T], parts: Sequence[Tensor]) -> list[T]:
        """What a function makes of each part, in their order; the first in this thread."""
        if self._pool is None:
            return [function(part) for part in parts]
        others = [self._pool.submit(function, part) for part in parts[1:]]
        return [function(parts[0]), *(other.result() for other in others)]


def depends_on_company(flow: nn.Module) -> bool:
    """Whether what a flow makes of a row depends on the batch, as with BatchNorm.

    Example:
        >>> depends_on_company(nn.Sequential(nn.BatchNorm2d(3))), depends_on_company(nn.ReLU())
        (True, False)
    """
    return any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in flow.modules())
