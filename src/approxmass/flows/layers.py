"""Convolutions that are fast to differentiate twice.

The gradient of a penalty on the gradient takes three sorts of derivatives of each layer. Torch has
them all, but gets those of a convolution's weight from a convolution by the whole image, and those
of BatchNorm from many elementwise passes. Here, in `batchnorm.py` and in `elementwise.py`, each is
one call, or a few, of the kernels that the first derivative uses.
"""

__all__ = ["conv2d"]

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .double_backward import input_gradient_only, plain, refuse_a_third

_aten = torch.ops.aten


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Convolution of stride 1 that keeps the size; of `relu(x)` if asked.

    Casts as autocast says, as torch's own does. Can be differentiated twice, once of these with
    respect to `x`; a third derivative raises.

    Arguments:
        x: `(N, C, H, W)`.
        weight: `(outputs, C, k, k)`, k odd.
        bias: `(outputs,)` or None.
        relu: Rectify `x` first.

    Example:
        >>> conv2d(torch.tensor([[[[-1.0, 2.0]]]]), torch.ones(1, 1, 1, 1), relu=True)
        tensor([[[[0., 2.]]]])
    """
    if plain():
        return F.conv2d(_rectified(x, relu), weight, bias, padding="same")
    result: Tensor = _Convolution.apply(x, weight, bias, relu)  # type: ignore[no-untyped-call]
    return result


def _rectified(x: Tensor, relu: bool) -> Tensor:
    return F.relu(x) if relu else x


def _where_positive(grad: Tensor, u: Tensor, relu: bool) -> Tensor:
    """Gradient of relu, given what it returned, or of nothing."""
    result: Tensor = _aten.threshold_backward(grad, u, 0) if relu else grad
    return result


_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> _Gradients:
    """Gradients of input, weight and bias, as far as they are wanted."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    pad = weight.shape[2] // 2
    result: _Gradients = _aten.convolution_backward(
        grad, x, weight, [len(weight)], [1, 1], [pad, pad], [1, 1], False, [0, 0], 1, wanted
    )
    return result


class _Convolution(torch.autograd.Function):
    """The casts of autocast are made within, where they need no derivatives of their own: the
    engine casts what a backward pass returns.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        cast = weight.to(dtype, memory_format=torch.channels_last)
        u = _rectified(x.to(dtype), relu).contiguous(memory_format=torch.channels_last)
        # The weight leads a second derivative back to where it came from.
        ctx.save_for_backward(weight, cast, u)
        ctx.relu = relu
        return F.conv2d(u, cast, None if bias is None else bias.to(dtype), padding="same")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, cast, u = ctx.saved_tensors
        if input_gradient_only(ctx):
            gx = _InputGradient.apply(grad, weight, cast, u, ctx.relu)  # type: ignore[no-untyped-call]
            return gx, None, None, None
        gx, gw, gb = _gradients(grad, u, cast, list(ctx.needs_input_grad[:3]))
        return None if gx is None else _where_positive(gx, u, ctx.relu), gw, gb, None


class _InputGradient(torch.autograd.Function):
    """The gradient of the input, from that of the output.

    It is linear in that gradient: its own derivative goes forward through the layer, with the same
    rectified places. The gradient of the weight pairs what comes forward with what went back.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, weight: Tensor, cast: Tensor, u: Tensor, relu: bool
    ) -> Tensor:
        ctx.save_for_backward(cast, u, grad)
        ctx.relu = relu
        gx = _gradients(grad, u, cast, [True, False, False])[0]
        assert gx is not None
        return _where_positive(gx, u, relu)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_third(tangent)
        cast, u, grad = ctx.saved_tensors
        tangent = _where_positive(tangent, u, ctx.relu)
        tangent = tangent.contiguous(memory_format=torch.channels_last)
        gw = _gradients(grad, tangent, cast, [False, True, False])[1]
        # None for the cast weight and the input: the weight itself comes first.
        return F.conv2d(tangent, cast, padding="same"), gw, None, None, None
