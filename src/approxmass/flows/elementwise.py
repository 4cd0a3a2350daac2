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


def soft_clamp(x: Tensor, bound: float) -> Tensor:
    """`x / (1 + |x| / bound)`: as x near 0, and within `bound` everywhere.

    Example:
        >>> soft_clamp(torch.tensor([0.0, 2.0, -1e9]), bound=2.0)
        tensor([ 0.,  1., -2.])
    """
    if plain():
        return x / (1 + x.abs() / bound)
    result: Tensor = _SoftClamp.apply(x, bound)  # type: ignore[no-untyped-call]
    return result


class _SoftClamp(torch.autograd.Function):
    """`y = x shrink` with `shrink = 1 / (1 + |x| / bound)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        shrink = (1 + x.abs() / bound).reciprocal()
        ctx.save_for_backward(x, shrink)
        ctx.bound = bound
        return x * shrink

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, shrink = ctx.saved_tensors
        return _SoftClampGrad.apply(grad, x, shrink, ctx.bound), None  # type: ignore[no-untyped-call]


class _SoftClampGrad(torch.autograd.Function):
    """`gx = g slope` with `slope = dy/dx = shrink^2`."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, shrink: Tensor, bound: float) -> Tensor:
        slope = shrink.square()
        ctx.save_for_backward(grad, x, shrink, slope)
        ctx.bound = bound
        return grad * slope

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_third(tangent)
        grad, x, shrink, slope = ctx.saved_tensors
        along = tangent * slope
        # The slope of the slope is -2 sign(x) / bound * shrink^3.
        return along, along * grad * shrink * x.sign() * (-2 / ctx.bound), None, None
