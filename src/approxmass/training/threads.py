"""How many threads a step of a training is worth."""

__all__ = ["step_threads", "threads_of_step"]

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..data.pixels import unit_pixels
from ..flows import Flow

# What a thread takes of a product has to be this many operations: below, the threads wait for each
# other longer than they compute (docs/performance.md).
_FLOP_A_THREAD = 18e6


def step_threads(flow: Flow, data: Tensor, batch: int) -> int:
    """As many threads as the mean product of a step keeps busy, at least 1.

    A step is some hundred products one after the other, and at each all threads meet.

    Arguments:
        flow: What is trained.
        data: Its inputs `(N, ...)`.
        batch: Inputs a step.

    Example:
        >>> from approxmass.flows import VectorFlow
        >>> flow, data = VectorFlow("realnvp", 64), torch.zeros(1, 64)
        >>> [step_threads(flow, data, batch) for batch in (64, 4096)]
        [1, 13]
    """
    training = flow.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        flow.eval().log_prob(unit_pixels(data[:1]))
    flow.train(training)
    products = sum(weight.ndim > 1 for weight in flow.parameters())
    mean = counter.get_total_flops() / max(1, products)
    return max(1, int(batch * mean / _FLOP_A_THREAD))


@contextmanager
def threads_of_step(count: int) -> Iterator[None]:
    """Compute in at most `count` threads within, and in no more than before.

    Example:
        >>> with threads_of_step(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
