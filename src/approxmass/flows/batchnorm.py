"""BatchNorm that is fast to differentiate twice."""

__all__ = ["BatchNorm2d"]

from typing import Any

import torch
from torch import Tensor, nn

from .double_backward import input_gradient_only, plain, refuse_a_third


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over N, H and W; what torch's own computes, with its parameters.

    In training mode it can be differentiated twice, once of these with respect to the input.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to the same shape."""
        if plain() or not self.training or len(x) * x.shape[2] * x.shape[3] == 1:
            return super().forward(x)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        result: Tensor = _Norm.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )
        return result


class _Norm(torch.autograd.Function):
    """`y = weight xhat + bias` with `xhat = (x - mean) rstd`, by channel."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, rstd = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        rest = (None,) * 4  # the running means, the momentum and eps
        if input_gradient_only(ctx):
            gx = _NormInputGrad.apply(grad, weight, x, mean, rstd, ctx.eps)  # type: ignore[no-untyped-call]
            return gx, None, None, *rest
        return *_norm_backward(grad, x, weight, mean, rstd, ctx.eps), *rest


class _NormInputGrad(torch.autograd.Function):
    """The gradient of the input, and its own derivatives.

    By channel, with g the gradient of the output, `<>` the mean over N, H and W, and n how many
    values that is over:

        gx = weight rstd (g - <g> - xhat <g xhat>)

    The second backward pass is given t, the gradient of gx, and differentiates the sum

        S = sum(t gx) = n weight rstd K    with K = <t g> - <t> <g> - <t xhat> <g xhat>

    K, below `covariance`, is that of t and g, less what both share with xhat. The map from g to
    gx is its own adjoint, and S is linear in the weight:

        dS/dg      = weight rstd (t - <t> - xhat <t xhat>)    below `back`
        dS/dweight = n rstd K

    x enters by rstd, where d rstd / dx = -rstd^2 xhat / n, and by xhat, where

        dS/dxhat   = -weight rstd (t <g xhat> + g <t xhat>)

    goes back to x as any gradient u of xhat does, by rstd (u - <u> - xhat <u xhat>), which makes
    `back` of t, and gx of g:

        dS/dx      = -weight rstd^2 K xhat - rstd <t xhat> gx - rstd <g xhat> back
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, weight: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, eps: float
    ) -> Tensor:
        gx, sum_grad_xhat, sum_grad = _norm_backward(grad, x, weight, mean, rstd, eps)
        ctx.save_for_backward(grad, weight, x, mean, rstd, gx, sum_grad_xhat, sum_grad)
        ctx.eps = eps
        return gx

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_third(tangent)
        grad, weight, x, mean, rstd, gx, sum_grad_xhat, sum_grad = ctx.saved_tensors
        count = x.numel() // len(weight)
        back, sum_tangent_xhat, sum_tangent = _norm_backward(
            tangent, x, weight, mean, rstd, ctx.eps
        )
        mean_grad, mean_grad_xhat = sum_grad / count, sum_grad_xhat / count
        mean_tangent, mean_tangent_xhat = sum_tangent / count, sum_tangent_xhat / count
        mean_tangent_grad = (tangent * grad).mean((0, 2, 3), dtype=rstd.dtype)
        covariance = (
            mean_tangent_grad - mean_grad * mean_tangent - mean_grad_xhat * mean_tangent_xhat
        )
        scale = -weight * rstd.square() * covariance * rstd
        dx = _affine(x, scale, -scale * mean)  # xhat is rstd (x - mean)
        zero = torch.zeros_like(scale)
        dx = dx + _affine(gx, -rstd * mean_tangent_xhat, zero)
        dx = dx + _affine(back, -rstd * mean_grad_xhat, zero)
        return back, count * rstd * covariance, dx, None, None, None


def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias; the last two are sums of grad * xhat and of grad."""
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else None
    grad = grad.contiguous() if layout is None else grad.contiguous(memory_format=layout)
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        grad, x, weight, None, None, mean, rstd, True, eps, [True, True, True]
    )
    return result


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale * x + shift` by channel: BatchNorm's kernel is the fast one for it."""
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    return torch.native_batch_norm(x, scale, shift, zero, one, False, 0.0, 0.0)[0]
