"""Permuting rows and bounding values, fast to differentiate twice."""

__all__ = ["soft_clamp", "take_rows"]

from typing import Any

import torch
from torch import Tensor

from .double_backward import plain, refuse_a_third


def take_rows(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """`x[order]` for a permutation and its inverse; its derivative is one such call too.

    Arguments:
        x: `(D, ...)`.
        order: `(D,)`, a permutation of `0..D-1`.
        inverse: `(D,)`, `order.argsort()`.

    Example:
        >>> order, inverse = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
        >>> take_rows(torch.tensor([5, 6, 7]), order, inverse)
        tensor([7, 5, 6])
    """
    if plain():
        return x[order]
    result: Tensor = _Rows.apply(x, order, inverse)  # type: ignore[no-untyped-call]
    return result


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        order, inverse = ctx.saved_tensors
        return take_rows(grad, inverse, order), None, None


def soft_clamp(x: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """`x / (1 + |x| / bound)`, as x near 0 and within `bound` everywhere, and its derivative.

    Example:
        >>> soft_clamp(torch.tensor([0.0, 2.0, -1e9]), bound=2.0)
        (tensor([ 0.,  1., -2.]), tensor([1.0000e+00, 2.5000e-01, 4.0000e-18]))
    """
    if plain():
        shrink = 1 / (1 + x.abs() / bound)
        return x * shrink, shrink.square()
    found: tuple[Tensor, Tensor] = _SoftClamp.apply(x, bound)  # type: ignore[no-untyped-call]
    return found


class _SoftClamp(torch.autograd.Function):
    """`y = x shrink` with `shrink = 1 / (1 + |x| / bound)`, and `dy/dx = shrink^2`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        shrink = (x.abs() / bound).add_(1).reciprocal_()
        slope = shrink.square()
        ctx.save_for_backward(x, shrink, slope)
        ctx.bound = bound
        return x * shrink, slope

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, of_slope: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, shrink, slope = ctx.saved_tensors
        found = None if grad is None else grad * slope
        if of_slope is not None:
            refuse_a_third(of_slope)
            # The slope of the slope is -2 sign(x) / bound * shrink^3.
            bend = of_slope * (shrink * slope * x.sign() * (-2 / ctx.bound))
            found = bend if found is None else found + bend
        return found, None
