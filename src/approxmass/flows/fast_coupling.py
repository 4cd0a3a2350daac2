"""zuko's affine couplings with fewer operations, where its modules are built as is known here.

zuko gathers and scatters at every coupling, and interleaves scale and shift. Here a sample is a
column, so that a part of the inputs is a block of rows.
"""

__all__ = [
    "couple",
    "coupling_masks",
    "layout_known",
    "log_prob_and_gradient",
    "row_orders",
    "start_at_identity",
]

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import zuko
from torch import Tensor, nn

from .elementwise import soft_clamp, take_rows

# zuko's least scale, where a flow says no other.
_LEAST_SCALE = 1e-3


def _couplings(flow: nn.Module) -> list[Any]:
    return list(getattr(getattr(flow, "transform", None), "transforms", ()))


def coupling_masks(flow: nn.Module, dimension: int) -> list[Tensor] | None:
    """The masks `(D,)` of a flow's couplings, True for what is kept.

    Arguments:
        flow: A flow of zuko's.
        dimension: D.

    Returns:
        One a coupling; None if there are no couplings with such masks.
    """
    masks = [getattr(coupling, "mask", None) for coupling in _couplings(flow)]
    known = [
        m
        for m in masks
        if isinstance(m, Tensor) and m.dtype == torch.bool and m.shape == (dimension,)
    ]
    return known if known and len(known) == len(masks) else None


def row_orders(masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """How to put what each coupling keeps before what it changes, and at last all in order.

    Arguments:
        masks: Of each of K couplings, `(D,)`, True for what is kept.

    Returns:
        Permutations `(K + 1, D)`, each of the rows as the one before leaves them, and their
        inverses `(K + 1, D)`.

    Example:
        >>> row_orders([torch.tensor([False, True, True])])[0].tolist()
        [[1, 2, 0], [2, 0, 1]]
    """
    here = torch.arange(len(masks[0]), device=masks[0].device)
    orders = []
    for mask in [*masks, here == here]:
        wanted = torch.cat([mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]])
        orders.append(torch.argsort(here)[wanted])
        here = wanted
    stacked = torch.stack(orders)
    return stacked, stacked.argsort(1)


def layout_known(flow: nn.Module, dimension: int) -> bool:
    """Whether `couple` computes what the flow does.

    It does where the couplings have masks, and perceptrons of linear layers with relu between
    them that answer a shift and a scale for each changed input, and where both give the same for
    a trial input.

    Arguments:
        flow: A flow of zuko's, as built.
        dimension: D.
    """
    masks = coupling_masks(flow, dimension)
    if masks is None:
        return False
    for coupling, mask in zip(_couplings(flow), masks, strict=True):
        hyper, kept = getattr(coupling, "hyper", None), int(mask.sum())
        if not (isinstance(hyper, nn.Sequential) and _is_perceptron(list(hyper))):
            return False
        sizes = (getattr(hyper, "in_features", None), getattr(hyper, "out_features", None))
        if sizes != (kept, 2 * (dimension - kept)):
            return False
    return _agrees(flow, masks)


def _is_perceptron(layers: Sequence[nn.Module]) -> bool:
    linear = (nn.Linear, zuko.nn.Linear)
    return (
        len(layers) % 2 == 1
        and all(
            isinstance(m, linear) and m.weight.ndim == 2 and m.bias is not None for m in layers[::2]
        )
        and all(type(m) is nn.ReLU for m in layers[1::2])
    )


@torch.no_grad()
def _agrees(flow: nn.Module, masks: Sequence[Tensor]) -> bool:
    # What no attribute tells: the bound of the scale, and how scale and shift lie side by side.
    flow = copy.deepcopy(flow).double()
    x = torch.linspace(-2, 2, len(masks[0]), dtype=torch.float64, device=masks[0].device)[None]
    z, logdet = couple(flow, x, *row_orders(masks))
    expected, expected_logdet = flow().transform.call_and_ladj(x)
    return torch.allclose(z, expected) and torch.allclose(logdet, expected_logdet)


@torch.no_grad()
def start_at_identity(flow: nn.Module) -> None:
    """Set the last layer of each coupling's network to zero: no shift, and scales of 1."""
    for coupling in _couplings(flow):
        last = list(coupling.hyper)[-1]
        last.weight.zero_()
        last.bias.zero_()


def couple(flow: nn.Module, x: Tensor, orders: Tensor, inverses: Tensor) -> tuple[Tensor, Tensor]:
    """Map `(N, D)` to latents `(N, D)` and logdet `(N,)` in nats.

    Arguments:
        flow: A flow of K couplings whose layout is known.
        x: `(N, D)`.
        orders: `(K + 1, D)`, of `row_orders`.
        inverses: `(K + 1, D)`, of `row_orders`.
    """
    y, logdet, _ = _forward(flow, x, orders, inverses)
    return take_rows(y, orders[-1], inverses[-1]).T, logdet


def log_prob_and_gradient(
    flow: nn.Module, x: Tensor, orders: Tensor, inverses: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-density in nats `(N,)` towards a standard normal prior, and its gradient `(N, D)`.

    The gradient is written out, so that scoring needs no graph, and training differentiates once.

    Arguments:
        flow: A flow of K couplings whose layout is known.
        x: `(N, D)`.
        orders: `(K + 1, D)`, of `row_orders`; the last is not needed.
        inverses: `(K + 1, D)`, of `row_orders`.
    """
    y, logdet, steps = _forward(flow, x, orders, inverses)
    log_p = logdet - 0.5 * (y.square().sum(0) + len(y) * math.log(2 * math.pi))
    gradient = -y
    for step, order, inverse in reversed(list(zip(steps, orders, inverses, strict=False))):
        gradient = take_rows(_back(step, gradient), inverse, order)
    return log_p, gradient.T


class _Step(NamedTuple):
    """What a coupling leaves for the way back; c inputs are changed, each tensor has N columns.

    Attributes:
        weights: Of the layers of its network.
        hidden: What goes into each layer but the first.
        product: The changed inputs times their scales `(c, N)`.
        scale: `(c, N)`.
        slope: Of the log-scale by what the network answers `(c, N)`.
    """

    weights: list[Tensor]
    hidden: list[Tensor]
    product: Tensor
    scale: Tensor
    slope: Tensor


def _forward(
    flow: nn.Module, x: Tensor, orders: Tensor, inverses: Tensor
) -> tuple[Tensor, Tensor, list[_Step]]:
    """The last coupling's `(D, N)`, the logdet `(N,)`, and what the way back needs."""
    y, steps = x.T, []
    logdet = x.new_zeros(x.shape[0])
    for coupling, order, inverse in zip(_couplings(flow), orders, inverses, strict=False):
        y = take_rows(y, order, inverse)
        kept = y[: coupling.hyper.in_features]
        change = y[coupling.hyper.in_features :]
        weights, answer, hidden = _network(coupling.hyper, kept)
        shift, raw = answer.to(x.dtype).chunk(2)
        log_scale, slope = soft_clamp(raw, _bound(coupling))
        scale = log_scale.exp()
        product = change * scale
        y = torch.cat([kept, product + shift])
        logdet = logdet + log_scale.sum(0)
        steps.append(_Step(weights, hidden, product, scale, slope))
    return y, logdet, steps


def _network(hyper: Any, x: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """The weights of a network as autocast casts them, what it answers, and its hidden layers."""
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    weights, biases = ([each.to(dtype) for each in of] for of in _layers(hyper))
    answer, hidden = x.to(dtype), []
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if i:
            answer = answer.relu()
            hidden.append(answer)
        answer = torch.addmm(bias[:, None], weight, answer)
    return weights, answer, hidden


def _back(step: _Step, gradient: Tensor) -> Tensor:
    """From the gradient `(D, N)` by what a coupling gives to that by what it takes."""
    at = len(gradient) - len(step.scale)
    kept, change = gradient[:at], gradient[at:]
    # Of the shift as of what it shifts; the log-scale counts in the log-determinant, too.
    grad = torch.cat([change, (change * step.product + 1) * step.slope]).to(step.weights[0].dtype)
    for weight, hidden in zip(step.weights[:0:-1], step.hidden[::-1], strict=True):
        grad = torch.ops.aten.threshold_backward(weight.T @ grad, hidden.detach(), 0)
    return torch.cat([kept + (step.weights[0].T @ grad).to(kept.dtype), change * step.scale])


def _bound(coupling: Any) -> float:
    """Of the log-scale."""
    said = getattr(coupling.univariate, "keywords", {})
    return -math.log(said.get("slope", _LEAST_SCALE))


def _layers(hyper: Iterable[Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of the linear layers; of the last, all shifts before all scales."""
    linear = list(hyper)[::2]
    weights, biases = [m.weight for m in linear], [m.bias for m in linear]
    # Shift and scale of an input lie side by side: all shifts first, in blocks.
    for parameters in (weights, biases):
        parameters[-1] = parameters[-1].unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
    return weights, biases
