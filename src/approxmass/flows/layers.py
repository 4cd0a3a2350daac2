"""Layers that are fast to differentiate twice.

The gradient of a penalty on the gradient takes three sorts of derivatives of each layer. Torch has
them all, but gets those of a convolution's weight from a convolution by the whole image, and those
of BatchNorm from many elementwise passes. Here each is one call, or a few, of the kernels
that the first derivative uses.
"""

__all__ = ["BatchNorm2d", "conv2d", "perceptron", "soft_clamp", "take_rows"]

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    return _chain(x, _Convolution, relu, [weight], [bias])


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
    return _chain(x, _Dense, False, weights, biases)


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


def _plain() -> bool:
    """Whether torch.func is at work, which differentiates plain operations alone."""
    return torch._C._are_functorch_transforms_active()


def _chain(
    x: Tensor,
    kernel: _Kernel,
    relu: bool,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> Tensor:
    if _plain():
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = kernel.forward(F.relu(x) if i or relu else x, weight, bias)
        return x
    result: Tensor = _Chain.apply(x, kernel, relu, len(weights), *weights, *biases)  # type: ignore[no-untyped-call]
    return result


def _where_positive(grad: Tensor, u: Tensor) -> Tensor:
    """Gradient of relu, given what it returned."""
    result: Tensor = _aten.threshold_backward(grad, u, 0)
    return result


def _input_gradient_only(ctx: Any) -> bool:
    """Whether the backward pass under way is to be differentiated again and wants no more than x.

    `ctx.needs_input_grad` does not tell: it says what could be asked for.

    Raises:
        NotImplementedError: it is to be differentiated again and wants more.
    """
    if not torch.is_grad_enabled():
        return False
    others = [node for node, _ in ctx.next_functions[1:] if node is not None]
    try:
        more = any(torch._C._will_engine_execute_node(node) for node in others)
    except RuntimeError:  # its answer for a leaf whose gradient is wanted
        more = True
    if more:
        raise NotImplementedError(
            "a gradient of the weights cannot be differentiated again: ask for that of x alone"
        )
    return True


def _refuse_a_third(tangent: Tensor) -> None:
    # Torch's once_differentiable would only cut the graph here, which can go unseen.
    if torch.is_grad_enabled() and tangent.requires_grad:
        raise NotImplementedError("the second derivative of a layer cannot be differentiated again")


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
        if _input_gradient_only(ctx):
            gx = _ChainInputGrad.apply(grad, ctx.kernel, ctx.relu, count, *saved)  # type: ignore[no-untyped-call]
            return gx, *[None] * (3 + 2 * count)
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
        _refuse_a_third(tangent)
        saved, count = ctx.saved_tensors, ctx.count
        weights, inputs, grads = saved[:count], saved[count : 2 * count], saved[2 * count :]
        found = []
        for i, (weight, x, grad) in enumerate(zip(weights, inputs, grads, strict=True)):
            if i or ctx.relu:
                tangent = _where_positive(tangent, x)
            tangent = tangent.contiguous(memory_format=ctx.kernel.layout)
            found.append(ctx.kernel.backward(grad, tangent, weight, [False, True, False])[1])
            tangent = ctx.kernel.forward(tangent, weight, None)
        return tangent, None, None, None, *found, *[None] * (2 * count)


def take_rows(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """`x[order]` for a permutation and its inverse; its derivative is one such call too.

    Example:
        >>> order, inverse = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
        >>> take_rows(torch.tensor([5, 6, 7]), order, inverse)
        tensor([7, 5, 6])
    """
    if _plain():
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
    if _plain():
        return x / (1 + x.abs() / bound)
    result: Tensor = _SoftClamp.apply(x, bound)  # type: ignore[no-untyped-call]
    return result


class _SoftClamp(torch.autograd.Function):
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
    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, shrink: Tensor, bound: float) -> Tensor:
        slope = shrink.square()
        ctx.save_for_backward(grad, x, shrink, slope)
        ctx.bound = bound
        return grad * slope

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_a_third(tangent)
        grad, x, shrink, slope = ctx.saved_tensors
        along = tangent * slope
        # The slope of the slope is -2 sign(x) / bound * shrink^3.
        return along, along * grad * shrink * x.sign() * (-2 / ctx.bound), None, None


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over N, H and W; what torch's own computes, with its parameters.

    In training mode it can be differentiated twice, once of these with respect to the input.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to the same shape."""
        if _plain() or not self.training or len(x) * x.shape[2] * x.shape[3] == 1:
            return super().forward(x)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        result: Tensor = _Norm.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )
        return result


class _Norm(torch.autograd.Function):
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
        rest = (None,) * 4
        if _input_gradient_only(ctx):
            gx = _NormInputGrad.apply(grad, weight, x, mean, rstd, ctx.eps)  # type: ignore[no-untyped-call]
            return gx, None, None, *rest
        return *_norm_backward(grad, x, weight, mean, rstd, ctx.eps), *rest


def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias; the last two are sums of grad * xhat and of grad."""
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else None
    grad = grad.contiguous() if layout is None else grad.contiguous(memory_format=layout)
    result: tuple[Tensor, Tensor, Tensor] = _aten.native_batch_norm_backward(
        grad, x, weight, None, None, mean, rstd, True, eps, [True, True, True]
    )
    return result


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale * x + shift` by channel: BatchNorm's kernel is the fast one for it."""
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    return torch.native_batch_norm(x, scale, shift, zero, one, False, 0.0, 0.0)[0]


class _NormInputGrad(torch.autograd.Function):
    """`gx = weight * rstd * (g - <g> - xhat <g xhat>)`, with `<>` the mean over N, H and W.

    With t the gradient that comes back, the sum over t * gx has the derivatives below; the map
    from g to gx is its own adjoint.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, weight: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, eps: float
    ) -> Tensor:
        gx, along_x, total = _norm_backward(grad, x, weight, mean, rstd, eps)
        ctx.save_for_backward(grad, weight, x, mean, rstd, gx, along_x, total)
        ctx.eps = eps
        return gx

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_a_third(tangent)
        grad, weight, x, mean, rstd, gx, g_along, g_total = ctx.saved_tensors
        count = x.numel() // len(weight)
        back, t_along, t_total = _norm_backward(tangent, x, weight, mean, rstd, ctx.eps)
        b, a = g_along / count, g_total / count
        d, c = t_along / count, t_total / count
        e = (tangent * grad).mean((0, 2, 3), dtype=rstd.dtype)
        rest = e - a * c - b * d
        scale = -weight * rstd.square() * rest * rstd
        dx = _affine(x, scale, -scale * mean)
        zero = torch.zeros_like(scale)
        dx = dx + _affine(gx, -rstd * d, zero) + _affine(back, -rstd * b, zero)
        return back, count * rstd * rest, dx, None, None, None
