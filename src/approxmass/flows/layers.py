"""Convolutions and linear layers that are fast to differentiate twice.

The gradient of a penalty on the gradient takes three sorts of derivatives of each layer. Torch has
them all, but gets those of a convolution's weight from a convolution by the whole image, and those
of BatchNorm from many elementwise passes. Here, in `batchnorm.py` and in `elementwise.py`, each is
one call, or a few, of the kernels that the first derivative uses.
"""

__all__ = ["conv2d", "perceptron"]

from collections.abc import Sequence
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
    return _chain(x, _Convolution, [weight], [bias], relu=relu)


def perceptron(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Linear layers with relu between them; casts and differentiates as `conv2d` does.

    Arguments:
        x: `(inputs, N)`: a sample is a column, so that to choose some inputs is to copy rows.
        weights: Of each layer, `(outputs, inputs)`.
        biases: Of each layer, `(outputs,)`.

    Returns:
        `(outputs, N)`.

    Example:
        >>> x = torch.tensor([[-1.0], [2.0]])
        >>> perceptron(x, [torch.eye(2), torch.ones(1, 2)], [torch.zeros(2), torch.ones(1)])
        tensor([[3.]])
    """
    return _chain(x, _Dense, weights, biases, relu=False)


_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class _Convolution:
    layout = torch.channels_last

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)

    @staticmethod
    def backward(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> _Gradients:
        """Gradients of input, weight and bias, as far as they are wanted."""
        grad = grad.contiguous(memory_format=torch.channels_last)
        pad = weight.shape[2] // 2
        result: _Gradients = _aten.convolution_backward(
            grad, x, weight, [len(weight)], [1, 1], [pad, pad], [1, 1], False, [0, 0], 1, wanted
        )
        return result


class _Dense:
    layout = torch.contiguous_format

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return weight @ x if bias is None else torch.addmm(bias[:, None], weight, x)

    @staticmethod
    def backward(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> _Gradients:
        """Gradients of input, weight and bias, as far as they are wanted."""
        return (
            weight.T @ grad if wanted[0] else None,
            grad @ x.T if wanted[1] else None,
            grad.sum(1) if wanted[2] else None,
        )


_Kernel = type[_Convolution] | type[_Dense]


def _chain(
    x: Tensor,
    kernel: _Kernel,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    relu: bool,
) -> Tensor:
    """Layers of one kind with relu between them, and before the first if `relu`."""
    if plain():
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = kernel.forward(F.relu(x) if i or relu else x, weight, bias)
        return x
    result: Tensor = _Chain.apply(x, kernel, relu, len(weights), *weights, *biases)  # type: ignore[no-untyped-call]
    return result


def _where_positive(grad: Tensor, u: Tensor) -> Tensor:
    """Gradient of relu, given what it returned."""
    result: Tensor = _aten.threshold_backward(grad, u, 0)
    return result


class _Chain(torch.autograd.Function):
    """Layers of one kind with relu between them, and before the first if `relu`.

    The casts of autocast are made within, where they need no derivatives of their own: the engine
    casts what a backward pass returns.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: _Kernel, relu: bool, count: int, *parameters: Tensor
    ) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        weights = [w.to(dtype, memory_format=kernel.layout) for w in parameters[:count]]
        biases = [None if b is None else b.to(dtype) for b in parameters[count:]]
        y, inputs = x.to(dtype), []
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if i > 0:
                y = y.relu_()
            elif relu:
                y = F.relu(y)
            y = y.contiguous(memory_format=kernel.layout)
            inputs.append(y)
            y = kernel.forward(y, weight, bias)
        # The parameters lead a second derivative back to where they came from.
        ctx.save_for_backward(*parameters[:count], *weights, *inputs)
        ctx.kernel, ctx.relu, ctx.count = kernel, relu, count
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved, count = ctx.saved_tensors, ctx.count
        if input_gradient_only(ctx):
            gx = _ChainInputGrad.apply(grad, ctx.kernel, ctx.relu, count, *saved)  # type: ignore[no-untyped-call]
            return gx, None, None, None, *[None] * (2 * count)
        weights, inputs = saved[count : 2 * count], saved[2 * count :]
        wanted = ctx.needs_input_grad
        found: list[Tensor | None] = [None] * (2 * count)
        step: Tensor | None = grad
        for i in reversed(range(count)):
            assert step is not None
            asked = [i > 0 or wanted[0], wanted[4 + i], wanted[4 + count + i]]
            gx, found[i], found[count + i] = ctx.kernel.backward(step, inputs[i], weights[i], asked)
            step = _where_positive(gx, inputs[i]) if gx is not None and (i or ctx.relu) else gx
        return step, None, None, None, *found


class _ChainInputGrad(torch.autograd.Function):
    """The gradient of the input of a chain, from that of its output.

    It is linear in that gradient: its own derivative goes forward through the layers, with the
    same rectified places. The gradient of a weight pairs what comes forward with what went back.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, kernel: _Kernel, relu: bool, count: int, *saved: Tensor
    ) -> Tensor:
        weights, inputs = saved[count : 2 * count], saved[2 * count :]
        grads = [grad]
        for i in reversed(range(count)):
            gx = kernel.backward(grads[-1], inputs[i], weights[i], [True, False, False])[0]
            assert gx is not None
            grads.append(_where_positive(gx, inputs[i]) if i or relu else gx)
        ctx.save_for_backward(*weights, *inputs, *grads[count - 1 :: -1])
        ctx.kernel, ctx.relu, ctx.count = kernel, relu, count
        return grads[-1]

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_third(tangent)
        saved, count = ctx.saved_tensors, ctx.count
        weights, inputs, grads = saved[:count], saved[count : 2 * count], saved[2 * count :]
        found = []
        for i, (weight, x, grad) in enumerate(zip(weights, inputs, grads, strict=True)):
            if i or ctx.relu:
                tangent = _where_positive(tangent, x)
            tangent = tangent.contiguous(memory_format=ctx.kernel.layout)
            found.append(ctx.kernel.backward(grad, tangent, weight, [False, True, False])[1])
            tangent = ctx.kernel.forward(tangent, weight, None)
        # None for the casts of the weights and for the inputs: the weights themselves come first.
        return tangent, None, None, None, *found, *[None] * (2 * count)
