"""What ours is compared with: PyTorch as one writes it without a thought for speed.

And how a gradient is compared with that of the plain one.
"""

__all__ = [
    "functional_loss",
    "nchw",
    "penalised_gradient",
    "plain_layers",
    "plain_step",
    "relative_errors",
]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approxmass.flows import RealNVP, batchnorm, resnet
from approxmass.mass import penalized_loss, penalized_nll


@contextmanager
def plain_layers() -> Iterator[None]:
    """Within it a RealNVP computes the same with torch's own convolution, relu and BatchNorm."""

    def conv2d(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False
    ) -> Tensor:
        x = F.relu(x) if relu else x
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)

    before = resnet.conv2d, batchnorm.BatchNorm2d.forward
    resnet.conv2d = conv2d  # type: ignore[attr-defined]
    batchnorm.BatchNorm2d.forward = nn.BatchNorm2d.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        resnet.conv2d, batchnorm.BatchNorm2d.forward = before  # type: ignore[attr-defined,method-assign]


def nchw(flow: RealNVP) -> RealNVP:
    """The flow with its weights in torch's default layout."""
    for parameter in flow.parameters():
        parameter.data = parameter.data.contiguous()
    return flow


def plain_step(log_prob: Callable[[Tensor], Tensor], x: Tensor, alpha: float) -> Tensor:
    """Double backpropagation: the gradients of `mean(-log p + alpha ||d log p / dx||)`."""
    x = x.detach().requires_grad_()
    log_p = log_prob(x)
    loss = -log_p.mean()
    if alpha:
        (gradient,) = torch.autograd.grad(log_p.sum(), x, create_graph=True)
        loss = loss + alpha * gradient.flatten(1).norm(dim=1).mean()
    loss.backward()
    return loss.detach()


def functional_loss(flow: RealNVP, alpha: float) -> Callable[[Tensor], Tensor]:
    """The penalised loss in bfloat16 by torch.func.grad: torch.compile takes no other gradient."""

    def loss(x: Tensor) -> Tensor:
        def total(x: Tensor) -> tuple[Tensor, Tensor]:
            log_p = flow.log_prob(x)
            return log_p.sum(), log_p

        with torch.autocast(x.device.type, torch.bfloat16):
            gradient, log_p = torch.func.grad(total, has_aux=True)(x)
        return penalized_loss(log_p, gradient.flatten(1).norm(dim=1), alpha)

    return loss


def penalised_gradient(
    flow: nn.Module, log_prob: Callable[[Tensor], Tensor], x: Tensor, alpha: float, bf16: bool
) -> Tensor:
    """The gradient of the penalised loss by all weights of a flow, one vector in float64."""
    flow.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = penalized_nll(log_prob, x, alpha)
    loss.backward()
    return torch.cat([p.grad.flatten().double() for p in flow.parameters() if p.grad is not None])


def relative_errors(found: Mapping[str, Tensor], reference: Tensor) -> dict[str, float]:
    """`||g - reference|| / ||reference||` of each."""
    return {name: ((g - reference).norm() / reference.norm()).item() for name, g in found.items()}
