"""The fast affine coupling against zuko's own, and layouts other than the one known."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zuko
from torch import nn

from approxmass.flows import VectorFlow, vector
from approxmass.flows.fast_coupling import coupling_masks, layout_known, row_orders
from approxmass.mass import approximate_mass, penalized_nll

AFFINE = ["realnvp", "nice"]


@pytest.mark.parametrize("dimension", [2, 7])
@pytest.mark.parametrize("name", AFFINE)
def test_both_ways_give_the_same(
    name: str, dimension: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = VectorFlow(name, dimension, seed=1)
    with torch.no_grad():  # scales away from 1, so that their bound shows
        for parameter in fast.parameters():
            parameter.mul_(3)
    monkeypatch.setattr(vector, "layout_known", lambda flow, dimension: False)
    with pytest.warns(RuntimeWarning, match="zuko"):
        slow = VectorFlow(name, dimension, seed=2)
    assert fast.fast
    assert not slow.fast
    slow.load_state_dict(fast.state_dict())  # what one has written the other reads
    x = torch.randn(20, dimension, dtype=torch.float64)
    torch.testing.assert_close(fast.double()(x), slow.double()(x))
    torch.testing.assert_close(
        approximate_mass(fast.log_prob, x), approximate_mass(slow.log_prob, x)
    )


@pytest.mark.parametrize("dimension", [2, 7, 64])
@pytest.mark.parametrize("name", ["realnvp", "identity", "patches"])
def test_the_gradient_by_hand_is_that_of_autograd(name: str, dimension: int) -> None:
    flow = VectorFlow(name, dimension, seed=1).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # away from the identity, and scales so that their bound shows
        for parameter in flow.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).mul(0.3))
    x = torch.randn(20, dimension, generator=generator, dtype=torch.float64)
    known = x.clone().requires_grad_()
    log_p = flow.log_prob(known)
    (gradient,) = torch.autograd.grad(log_p.sum(), known)
    found, by_hand = flow.log_prob_and_gradient(x)
    torch.testing.assert_close(found, log_p)
    torch.testing.assert_close(by_hand, gradient)
    # What training differentiates: the penalised loss by every weight, here and by autograd.
    parameters = list(flow.parameters())
    loss = by_hand.norm(dim=1).mean() - found.mean()
    expected = penalized_nll(flow.log_prob, x, 1.0)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    )
    torch.testing.assert_close(x, known.detach(), rtol=0, atol=0)  # its input is left alone


def elu(coupling: Any) -> None:
    coupling.hyper[1] = nn.ELU()


def normalised(coupling: Any) -> None:
    coupling.hyper.insert(1, nn.Identity())


def without_bias(coupling: Any) -> None:
    coupling.hyper[0].bias = None


def of_other_sizes(coupling: Any) -> None:
    coupling.hyper.out_features += 2


def without_sizes(coupling: Any) -> None:
    del coupling.hyper.in_features


def a_slope_unsaid(coupling: Any) -> None:
    coupling.univariate = lambda a, b: zuko.transforms.MonotonicAffineTransform(a, b, slope=1e-2)


def scale_before_shift(coupling: Any) -> None:
    coupling.univariate = lambda a, b: zuko.transforms.MonotonicAffineTransform(b, a)


def without_mask(coupling: Any) -> None:
    del coupling.mask


def indices_for_mask(coupling: Any) -> None:
    coupling.mask = coupling.mask.nonzero()[:, 0]


@pytest.mark.parametrize(
    "change",
    [
        elu,
        normalised,
        without_bias,
        of_other_sizes,
        without_sizes,
        a_slope_unsaid,
        scale_before_shift,
        without_mask,
        indices_for_mask,
    ],
)
def test_another_layout_is_noticed(change: Callable[[Any], None]) -> None:
    flow = vector.VECTOR_FLOWS["realnvp"](6)
    assert layout_known(flow, 6)
    change(flow.transform.transforms[2])
    assert not layout_known(flow, 6)


def test_a_flow_of_another_slope_is_computed_as_zuko_does() -> None:
    flow = vector.VECTOR_FLOWS["patches"](6)
    for parameter in flow.parameters():
        nn.init.normal_(parameter)
    assert layout_known(flow, 6)
    x = 10 * torch.randn(50, 6)
    made = VectorFlow("patches", 6)
    made.flow.load_state_dict(flow.state_dict())
    torch.testing.assert_close(made.log_prob(x), made.flow().log_prob(x), rtol=1e-4, atol=1e-4)
    # No coupling can stretch or shrink more than twice.
    _, logdet = made(x)
    assert logdet.abs().max() <= 6 * 3 * math.log(2)


def test_a_flow_of_another_layout_is_computed_by_zuko(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(dimension: int) -> Any:
        return zuko.flows.RealNVP(dimension, activation=nn.ELU)

    monkeypatch.setitem(vector.VECTOR_FLOWS, "realnvp", make)
    with pytest.warns(RuntimeWarning, match="zuko"):
        flow = VectorFlow("realnvp", 5)
    x = torch.randn(4, 5)
    torch.testing.assert_close(flow.log_prob(x), flow.flow().log_prob(x))


def test_what_has_no_couplings_is_not_known() -> None:
    for flow in (nn.Linear(6, 6), vector.VECTOR_FLOWS["nsf"](6), vector.VECTOR_FLOWS["gf"](6)):
        assert not layout_known(flow, 6)
        assert coupling_masks(flow, 6) is None


def test_the_orders_bring_what_is_kept_to_the_top_and_at_last_all_in_order() -> None:
    masks = [torch.rand(6) < 0.5 for _ in range(4)]
    orders, inverses = row_orders(masks)
    rows = torch.arange(6)
    for mask, order, inverse in zip(masks, orders, inverses, strict=False):
        assert torch.equal(rows[order][inverse], rows)
        rows = rows[order]
        assert mask[rows].tolist() == sorted(mask.tolist(), reverse=True)
    assert rows[orders[-1]].tolist() == list(range(6))
