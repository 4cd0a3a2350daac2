"""The layers against torch's own, in float64, first and second derivatives."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approxmass.flows import Flow, RealNVP, VectorFlow, double_backward, resnet
from approxmass.flows.batchnorm import BatchNorm2d
from approxmass.flows.elementwise import soft_clamp, take_rows
from approxmass.flows.layers import conv2d
from approxmass.mass import approximate_mass, penalized_nll


def rand(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def derivatives(f: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value, the gradients of a weighted sum of it, and those of the norm of the gradient."""
    x = inputs[0]
    value = f(*inputs)
    weights = rand(*value.shape, seed=9).detach()
    total = (value * weights).sum() + (value.square() * weights).sum()
    first = torch.autograd.grad(total, inputs, retain_graph=True)
    (gx,) = torch.autograd.grad(total, x, create_graph=True)
    penalty = total + gx.flatten(1).norm(dim=1).sum() + gx.pow(3).sum()
    second = torch.autograd.grad(penalty, inputs)
    return [value, *first, *second]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolution(kernel: int, relu: bool) -> None:
    inputs = rand(4, 3, 6, 5), rand(2, 3, kernel, kernel, seed=1), rand(2, seed=2)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(F.relu(x) if relu else x, weight, bias, padding=kernel // 2)

    ours = derivatives(lambda x, w, b: conv2d(x, w, b, relu=relu), *inputs)
    torch.testing.assert_close(ours, derivatives(plain, *inputs))
    without = derivatives(lambda x, w: conv2d(x, w, relu=relu), *inputs[:2])
    zero = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(without, derivatives(lambda x, w: plain(x, w, zero), *inputs[:2]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_norm(layout: torch.memory_format) -> None:
    ours, plain = BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    x = (3 * rand(4, 3, 6, 5).detach() + 2).contiguous(memory_format=layout).requires_grad_()
    parameters = rand(3, seed=1), rand(3, seed=2)

    def of(norm: nn.Module) -> Callable[..., Tensor]:
        def f(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            values: Tensor = torch.func.functional_call(norm, {"weight": weight, "bias": bias}, x)
            return values

        return f

    torch.testing.assert_close(
        derivatives(of(ours), x, *parameters), derivatives(of(plain), x, *parameters)
    )
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())  # the running means
    assert int(ours.num_batches_tracked) == 1
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


def test_soft_clamp_and_rows() -> None:
    x = 5 * rand(4, 3)
    x.data[0, 0] = 0.0
    x = x.detach().requires_grad_()
    torch.testing.assert_close(
        derivatives(lambda x: soft_clamp(x, 2.0)[0], x),
        derivatives(lambda x: x / (1 + (x / 2).abs()), x),
    )
    value, slope = soft_clamp(x, 2.0)
    (by_hand,) = torch.autograd.grad((value + slope.square()).sum(), x)
    plain = x / (1 + (x / 2).abs())
    (derivative,) = torch.autograd.grad(plain.sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad((plain + derivative.square()).sum(), x)
    torch.testing.assert_close(slope, derivative)
    torch.testing.assert_close(by_hand, expected)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        derivatives(lambda x: take_rows(x, order, order.argsort()), x),
        derivatives(lambda x: x[order], x),
    )


def test_what_cannot_be_had_is_refused() -> None:
    x, weight = rand(2, 3, 4, 4), rand(3, 3, 1, 1, seed=1)
    with pytest.raises(NotImplementedError, match="weights"):
        torch.autograd.grad(conv2d(x, weight).square().sum(), weight, create_graph=True)
    norm = BatchNorm2d(3).double()
    with pytest.raises(NotImplementedError, match="weights"):
        torch.autograd.grad(norm(x).square().sum(), norm.weight, create_graph=True)
    (gx,) = torch.autograd.grad(conv2d(x, weight).pow(3).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        torch.autograd.grad(gx.pow(2).sum(), x, create_graph=True)
    torch.autograd.grad(gx.pow(2).sum(), x)


def gradient(flow: RealNVP, dtype: torch.dtype, seed: int, *, bf16: bool = False) -> Tensor:
    flow = flow.to(dtype)
    flow.zero_grad()
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(8, *flow.shape, generator=generator, dtype=torch.float64).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = penalized_nll(flow.log_prob, x, 2 / 32)
    loss.backward()
    found = [p.grad.flatten().double() for p in flow.parameters() if p.grad is not None]
    return torch.cat(found)


def started(norm: Any) -> RealNVP:
    """A flow whose couplings do something already."""
    torch.manual_seed(0)
    flow = RealNVP.preset("compact", (3, 8, 8), norm=norm).train()
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if "head" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return flow


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_penalised_gradient_of_a_flow(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flow, seeds = started(norm), range(5)

    def gradients(dtype: torch.dtype, *, bf16: bool = False) -> list[Tensor]:
        return [gradient(flow, dtype, seed, bf16=bf16) for seed in seeds]

    ours, single = gradients(torch.float64), gradients(torch.float32)
    low = gradients(torch.float32, bf16=True)

    def plain(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False
    ) -> Tensor:
        return F.conv2d(F.relu(x) if relu else x, weight, bias, padding=weight.shape[2] // 2)

    monkeypatch.setattr(resnet, "conv2d", plain)
    monkeypatch.setattr(BatchNorm2d, "forward", nn.BatchNorm2d.forward)
    reference = gradients(torch.float64)

    def error(found: list[Tensor]) -> float:
        # The median: where a rounding changes the sign of what is rectified, a gradient jumps.
        errors = [(a - b).norm() / b.norm() for a, b in zip(found, reference, strict=True)]
        return torch.stack(errors).median().item()

    assert error(ours) < 1e-12
    assert error(single) < 1e-5
    if norm == "none":  # with BatchNorm the untrained flow amplifies rounding, in torch's own too
        assert error(low) < 1e-2


@pytest.mark.parametrize("image", [True, False])
def test_torch_func_sees_the_same_density(image: bool) -> None:
    flow: Flow = started("none").double() if image else VectorFlow("realnvp", 5).double()
    x = torch.rand(3, *(flow.shape if isinstance(flow, RealNVP) else (5,)), dtype=torch.float64)
    each = torch.func.vmap(torch.func.grad(lambda row: flow.log_prob(row[None])[0]))(x)
    mass = torch.linalg.vector_norm(each.flatten(1), dim=1)
    torch.testing.assert_close(mass, approximate_mass(flow.log_prob, x))


@pytest.mark.parametrize("image", [True, False])
def test_compiled_flows_are_trained_with_the_penalty(image: bool) -> None:
    flow: Flow = VectorFlow("realnvp", 5).double()
    if image:
        flow = RealNVP((1, 4, 4), scales=1, blocks=1, mid_channels=4).double()
    shape = flow.shape if isinstance(flow, RealNVP) else (5,)
    x = torch.rand(8, *shape, dtype=torch.float64)

    def gradients(loss: Callable[[], Tensor]) -> Tensor:
        found = torch.autograd.grad(loss(), list(flow.parameters()))
        return torch.cat([each.flatten() for each in found])

    right = gradients(lambda: penalized_nll(flow.log_prob, x, 0.5))
    without = gradients(lambda: penalized_nll(flow.log_prob, x, 0.0))
    assert (right - without).norm() > 0.1 * right.norm()
    mass = approximate_mass(flow.log_prob, x)

    def compiled(function: Any) -> Any:
        torch._dynamo.reset()
        return torch.compile(function, backend="eager")

    def by_forward(forward: Any) -> Callable[[Tensor], Tensor]:
        def log_prob(v: Tensor) -> Tensor:
            z, logdet = forward(v)
            return logdet - 0.5 * (z.square().sum(1) + flow.dimension * math.log(2 * math.pi))

        return log_prob

    log_prob = flow.log_prob
    try:
        for loss in (
            lambda: penalized_nll(compiled(log_prob), x, 0.5),
            lambda: penalized_nll(by_forward(compiled(flow)), x, 0.5),
            lambda: compiled(penalized_nll)(log_prob, x, 0.5),
            lambda: compiled(lambda v: penalized_nll(log_prob, v, 0.5))(x),
        ):
            torch.testing.assert_close(gradients(loss), right)
        torch.testing.assert_close(approximate_mass(compiled(log_prob), x), mass)
    finally:
        torch._dynamo.reset()


def by_layer() -> dict[str, list[Tensor]]:
    """The derivatives of each layer, and the gradient of the penalised loss of two flows."""
    x, order = rand(4, 3, 6, 5), torch.tensor([2, 0, 3, 1])
    found = {
        "convolution": derivatives(
            lambda x, w, b: conv2d(x, w, b, relu=True), x, rand(2, 3, 3, 3, seed=1), rand(2, seed=2)
        ),
        "norm": derivatives(BatchNorm2d(3).double(), x),
        "clamp": derivatives(lambda x: soft_clamp(x, 2.0)[0], x),
        "rows": derivatives(lambda x: take_rows(x, order, order.argsort()), x),
    }
    generator = torch.Generator().manual_seed(3)
    image, vector = started("batch").double(), VectorFlow("realnvp", 5).double()
    flows: list[tuple[str, Flow, tuple[int, ...]]] = [
        ("image", image, image.shape),
        ("vector", vector, (5,)),
    ]
    for name, flow, shape in flows:
        points = torch.rand(8, *shape, generator=generator, dtype=torch.float64)
        loss = penalized_nll(flow.log_prob, points, 2 / 32)
        found[name] = [loss, *torch.autograd.grad(loss, list(flow.parameters()))]
    return found


@pytest.fixture
def supported_anew() -> Iterator[None]:
    double_backward.supported.cache_clear()
    yield
    double_backward.supported.cache_clear()


@pytest.mark.parametrize("name", ["_are_functorch_transforms_active", "_will_engine_execute_node"])
@pytest.mark.usefixtures("supported_anew")
def test_a_torch_without_the_private_members_computes_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = rand(2, 3, 4, 4), rand(3, 3, 1, 1, seed=1)
    assert "_Convolution" in type(conv2d(x, weight).grad_fn).__name__
    by_hand = by_layer()
    monkeypatch.delattr(torch._C, name)
    double_backward.supported.cache_clear()
    with pytest.warns(RuntimeWarning, match=name):
        conv2d(x, weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert "_Convolution" not in type(conv2d(x, weight).grad_fn).__name__
        plain = by_layer()
    torch.testing.assert_close(by_hand, plain)
