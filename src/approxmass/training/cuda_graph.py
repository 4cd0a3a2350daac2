"""A training step's forward and backward pass as one CUDA graph.

A flow of hundreds of small layers keeps a GPU waiting for its host; a graph is launched at once.
"""

__all__ = ["GraphedObjective"]

from collections.abc import Callable

import torch
from torch import Tensor, nn

Terms = tuple[Tensor, Tensor, Tensor]


class GraphedObjective:
    """Calls an objective and its backward pass, recorded once for each weight of the penalty.

    The gradients it leaves on the parameters, and what it returns, are overwritten by the next
    call with the same `alpha`. All calls need the same shape of `x`, on the GPU.

    Arguments:
        objective: A module from `(x, alpha)` to scalars, the first of them the loss.
    """

    def __init__(self, objective: nn.Module) -> None:
        self.objective = objective
        self.recorded: dict[float, Callable[[Tensor], Terms]] = {}

    def __call__(self, x: Tensor, alpha: float) -> Terms:
        """The scalars at `x`; the gradients of the first are on the parameters."""
        with torch.cuda.device(x.device):  # streams and graphs are of the current one
            if alpha not in self.recorded:
                self.recorded[alpha] = self._record(x, alpha)
            return self.recorded[alpha](x)

    def _record(self, x: Tensor, alpha: float) -> Callable[[Tensor], Terms]:
        parameters = list(self.objective.parameters())
        place = x.clone()

        def work() -> Terms:
            for parameter in parameters:
                parameter.grad = None
            terms: Terms = self.objective(place, alpha)
            terms[0].backward()  # type: ignore[no-untyped-call]
            return terms

        # Libraries set themselves up in the first calls, which must not count: BatchNorm keeps
        # running means.
        before = [(buffer, buffer.clone()) for buffer in self.objective.buffers()]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        for buffer, value in before:
            buffer.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            terms = work()
        gradients = [parameter.grad for parameter in parameters]

        def replay(x: Tensor) -> Terms:
            place.copy_(x)
            graph.replay()
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            return terms

        return replay
