from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import zuko
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, StudentT, Uniform

from approxmass.errors import Code
from approxmass.flows import VectorFlow
from approxmass.mass import approximate_mass, log_prob_and_mass, penalized_loss, penalized_nll
from conftest import mistake


def gaussian(dimension: int) -> tuple[MultivariateNormal, Tensor, Tensor]:
    factor = torch.randn(dimension, dimension, dtype=torch.float64)
    covariance = factor @ factor.T + torch.eye(dimension, dtype=torch.float64)
    mean = torch.randn(dimension, dtype=torch.float64)
    return MultivariateNormal(mean, covariance), mean, covariance


class Density(nn.Module):
    """A smooth density without closed form, up to its constant: enough for derivatives."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        width = int(torch.tensor(shape).prod())
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0)
        )
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) - x.flatten(1).square().sum(1)


@pytest.mark.parametrize("dimension", [1, 3, 20])
def test_closed_form_of_a_gaussian(dimension: int) -> None:
    density, mean, covariance = gaussian(dimension)
    x = torch.randn(7, dimension, dtype=torch.float64)
    expected = torch.linalg.vector_norm(torch.linalg.solve(covariance, (x - mean).T), dim=0)
    torch.testing.assert_close(approximate_mass(density.log_prob, x), expected)


def test_a_distribution_of_torch_with_heavy_tails() -> None:
    # d/dx log t_nu(x) = -(nu + 1) x / (nu + x^2): falls again far out, unlike a Gaussian's
    x = torch.tensor([[0.5], [3.0], [100.0]], dtype=torch.float64)
    student = StudentT(torch.tensor(4.0, dtype=torch.float64))
    expected = (5 * x / (4 + x**2)).flatten()
    mass = approximate_mass(lambda v: student.log_prob(v).sum(1), x)
    torch.testing.assert_close(mass, expected)


def test_central_differences_on_images() -> None:
    density, x = Density((2, 3, 4)), torch.randn(3, 2, 3, 4, dtype=torch.float64)
    step = 1e-6
    gradient = torch.zeros(3, 24, dtype=torch.float64)
    for i in range(24):
        change = torch.zeros(24, dtype=torch.float64)
        change[i] = step
        change = change.view(1, 2, 3, 4)
        gradient[:, i] = (density(x + change) - density(x - change)).detach() / (2 * step)
    expected = torch.linalg.vector_norm(gradient, dim=1)
    torch.testing.assert_close(approximate_mass(density, x), expected, rtol=1e-8, atol=1e-8)


def test_a_score_does_not_depend_on_the_batch() -> None:
    flow = zuko.flows.NSF(5, transforms=2, hidden_features=(16,)).double()
    x = torch.randn(9, 5, dtype=torch.float64)
    log_p, mass = log_prob_and_mass(flow().log_prob, x)
    for i in range(9):
        alone_p, alone = log_prob_and_mass(flow().log_prob, x[i : i + 1])
        torch.testing.assert_close(alone[0], mass[i], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone_p[0], log_p[i], rtol=1e-12, atol=1e-12)


def test_gradcheck_of_the_loss_in_its_parameters_and_of_the_mass_in_its_input() -> None:
    density = Density((4,))
    x = torch.randn(3, 4, dtype=torch.float64)

    def loss(*parameters: Tensor) -> Tensor:
        names = [name for name, _ in density.named_parameters()]
        given = dict(zip(names, parameters, strict=True))
        return penalized_nll(lambda v: torch.func.functional_call(density, given, v), x, 0.7)

    parameters = tuple(p.detach().requires_grad_() for p in density.parameters())
    assert torch.autograd.gradcheck(loss, parameters)
    assert torch.autograd.gradcheck(
        lambda v: approximate_mass(density, v, create_graph=True), x.requires_grad_()
    )


def test_loss_of_a_zuko_flow_is_the_two_terms_and_trains_it() -> None:
    flow = zuko.flows.RealNVP(3, transforms=2, hidden_features=(16,))
    x = torch.randn(64, 3)
    log_p, mass = log_prob_and_mass(flow().log_prob, x)
    loss = penalized_nll(flow().log_prob, x, 0.5)
    torch.testing.assert_close(loss.detach(), (0.5 * mass - log_p).mean())
    before = approximate_mass(flow().log_prob, x).mean()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        penalized_nll(flow().log_prob, x, 100.0).backward()
        optimizer.step()
    assert approximate_mass(flow().log_prob, x).mean() < 0.7 * before


def test_batch_mean_is_the_gradient_of_the_batch_mean() -> None:
    density, _, _ = gaussian(4)
    x = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    mean = density.log_prob(x).mean()  # as released: differentiate the mean, norm per image
    (gradient,) = torch.autograd.grad(mean, x)
    expected = 2.0 * gradient.norm(dim=1).mean() - mean
    torch.testing.assert_close(
        penalized_nll(density.log_prob, x, 2.0, reduction="batch-mean"), expected
    )
    per_sample = penalized_nll(density.log_prob, x, 2.0 / 8)
    torch.testing.assert_close(per_sample, expected)


def test_alpha_zero_is_plain_maximum_likelihood() -> None:
    density, _, _ = gaussian(4)
    x = torch.randn(8, 4, dtype=torch.float64)
    torch.testing.assert_close(penalized_nll(density.log_prob, x, 0.0), -density.log_prob(x).mean())


def test_numbers_are_inputs_too() -> None:
    x = torch.tensor([0.5, -2.0])
    torch.testing.assert_close(approximate_mass(Normal(0.0, 1.0).log_prob, x), x.abs())


def test_a_flat_density_has_no_mass() -> None:
    flat = Independent(Uniform(torch.zeros(2), torch.ones(2)), 1)
    assert approximate_mass(flat.log_prob, torch.full((3, 2), 0.5)).tolist() == [0, 0, 0]


def test_a_flat_density_with_weights_has_no_mass() -> None:
    # Its log-density has a gradient, and none in x: no error, and not cut off.
    weight = torch.tensor(0.7, requires_grad=True)
    x = torch.rand(3, 2)
    log_p, mass = log_prob_and_mass(lambda v: weight.expand(len(v)), x)
    assert mass.tolist() == [0, 0, 0]
    assert log_p.tolist() == pytest.approx([0.7] * 3)
    penalized_nll(lambda v: weight.expand(len(v)), x, 2.0).backward()
    assert weight.grad == -1


class OnceOnly(torch.autograd.Function):
    """`-x^2 / 2`, whose second derivative nobody may take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return -x.square() / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("a graph of the derivative")
        return -ctx.saved_tensors[0] * gradient


def test_at_alpha_zero_no_derivative_in_the_input_is_taken() -> None:
    mean = torch.zeros(3, requires_grad=True)
    calls = []

    def log_prob(x: Tensor) -> Tensor:
        calls.append(x)
        return OnceOnly.apply(x - mean).sum(1)

    x = torch.tensor([[1.0, 2.0, 3.0]])
    penalized_nll(log_prob, x, 0.0).backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [-1, -2, -3]
    assert [v.requires_grad for v in calls] == [False]
    with pytest.raises(RuntimeError, match="a graph of the derivative"):
        penalized_nll(log_prob, x, 1.0).backward()


def test_results_carry_a_graph_only_when_asked_to() -> None:
    density, x = Density((4,)), torch.randn(3, 4, dtype=torch.float64)
    for each in (*log_prob_and_mass(density, x), approximate_mass(density, x)):
        assert not each.requires_grad
    log_p, mass = log_prob_and_mass(density, x, create_graph=True)
    assert log_p.requires_grad
    assert mass.requires_grad
    assert approximate_mass(density, x, create_graph=True).requires_grad


def test_one_row_of_many_and_one_side_are_enough_to_see_that_x_counts() -> None:
    def of(change: Tensor) -> None:
        """Flat at x, but for what is found a thousandth beside it, as a share of 1 + |x|."""
        x = torch.tensor([[0.0], [-3.0]], dtype=torch.float64)
        log_prob_and_mass(lambda v: torch.where((v - x - change).abs() < 1e-9, 1.0, 0.0).sum(1), x)

    for step in ([[1e-3], [9.0]], [[-1e-3], [9.0]], [[9.0], [4e-3]], [[9.0], [-4e-3]]):
        with mistake("no-density", "no_grad"):
            of(torch.tensor(step, dtype=torch.float64))
    of(torch.full((2, 1), 9.0, dtype=torch.float64))


def test_looking_beside_x_builds_no_graph() -> None:
    modes = []

    def log_prob(x: Tensor) -> Tensor:
        modes.append(torch.is_grad_enabled())
        return torch.zeros(len(x))

    log_prob_and_mass(log_prob, torch.rand(3, 2))
    assert modes == [True, False, False]


def test_an_empty_batch_has_no_masses() -> None:
    assert approximate_mass(Density((4,)), torch.empty(0, 4, dtype=torch.float64)).shape == (0,)


def test_a_flat_density_has_no_mass_near_its_edge_either() -> None:
    x = torch.tensor([[0.9999, 0.5], [0.0, 0.0001]])
    for check in (True, False):  # it refuses, or is infinite, beyond the edge
        flat = Independent(
            Uniform(torch.zeros(2), torch.ones(2), validate_args=check), 1, validate_args=check
        )
        assert approximate_mass(flat.log_prob, x).tolist() == [0, 0]
    outside = torch.tensor([[1.0001, 0.5]])  # where it is infinite, and is not just inside
    assert approximate_mass(flat.log_prob, outside).tolist() == [0]


def cut_off() -> dict[str, Callable[[Tensor], Tensor]]:
    """Log-densities whose gradient in x is lost, of the standard normal or with weights."""
    density = Density((4,))
    return {
        "decorated": torch.no_grad()(lambda x: -x.square().sum(1)),
        "inference mode": torch.inference_mode()(lambda x: -x.square().sum(1)),
        "detached": lambda x: -x.square().sum(1).detach(),
        "through NumPy": lambda x: -torch.from_numpy((x.detach().numpy() ** 2).sum(1)),
        "input detached": lambda x: -x.detach().square().sum(1),
        "decorated, with weights": torch.no_grad()(density.forward),
    }


@pytest.mark.parametrize("alpha", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("way", cut_off())
def test_a_density_cut_off_from_its_input_is_refused_at_every_alpha(way: str, alpha: float) -> None:
    log_prob, x = cut_off()[way], torch.randn(3, 4, dtype=torch.float64)
    with mistake("no-density", "no_grad"):
        approximate_mass(log_prob, x)
    with mistake("no-density", "no_grad"):
        penalized_nll(log_prob, x, alpha)


def test_weights_that_see_a_detached_input_have_no_mass() -> None:
    density = Density((4,))
    with mistake("no-density", "no_grad"):
        approximate_mass(lambda x: density(x.detach()), torch.randn(3, 4, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize(
    ("log_prob", "x", "words"),
    [
        (Normal(0.0, 1.0).log_prob, torch.ones(4, 3), "(4, 3)"),  # not summed
        (lambda v: Normal(0.0, 1.0).log_prob(v).sum(), torch.ones(4, 3), "()"),
        (lambda v: -v.square().sum(1, keepdim=True), torch.ones(4, 3), "(4, 1)"),
        (lambda v: float(v.sum()), torch.ones(4, 3), "float"),
        (zuko.flows.RealNVP(3, transforms=1), torch.ones(4, 3), "method log_prob"),
        (VectorFlow("identity", 3), torch.ones(4, 3), "method log_prob"),
        (MultivariateNormal(torch.zeros(3), torch.eye(3)), torch.ones(4, 3), "method log_prob"),
        (lambda v: -v.square().sum(1), np.ones((4, 3)), "ndarray"),
        (lambda v: -v.square().sum(1), torch.ones(4, 3, dtype=torch.int64), "int64"),
        (lambda v: -v.square(), torch.tensor(1.0), "(N, ...)"),
    ],
)
def test_what_is_no_density_or_no_tensor_is_refused_at_every_alpha(
    log_prob: Any, x: Any, words: str, alpha: float
) -> None:
    with mistake("no-density", words):
        penalized_nll(log_prob, x, alpha)
    with mistake("no-density", words):
        log_prob_and_mass(log_prob, x)


def test_what_log_prob_should_have_returned_and_did_is_said() -> None:
    with mistake("no-density", "must map (4, 3) to (4,), but it returned (4, 1)"):
        log_prob_and_mass(lambda v: -v.square().sum(1, keepdim=True), torch.ones(4, 3))
    with mistake("no-density", "must map (4, 3) to (4,), but it returned float"):
        log_prob_and_mass(lambda v: 1.0, torch.ones(4, 3))  # type: ignore[arg-type, return-value]
    with mistake("no-density", "not MultivariateNormal"):
        log_prob_and_mass(MultivariateNormal(torch.zeros(3), torch.eye(3)), torch.ones(4, 3))  # type: ignore[arg-type]
    with mistake("bad-option", "'sum'"):
        penalized_loss(torch.ones(2), torch.ones(2), 1.0, "sum")  # type: ignore[arg-type]
    with mistake("bad-option", "-0.5"):
        penalized_nll(Normal(0.0, 1.0).log_prob, torch.ones(4), -0.5)


def test_the_loss_is_per_sample_unless_asked_otherwise() -> None:
    log_p, mass = torch.tensor([-1.0, -3.0]), torch.tensor([1.0, 3.0])
    assert penalized_loss(log_p, mass, 0.5) == 0.5 * 2 + 2
    assert penalized_loss(log_p, mass, 0.5, "batch-mean") == 0.5 / 2 * 2 + 2


def test_the_loss_without_penalty_can_be_looked_at_without_gradients() -> None:
    calls = []

    def log_prob(x: Tensor) -> Tensor:
        calls.append(x)
        return -x.square().sum(1)

    with torch.no_grad():
        assert penalized_nll(log_prob, torch.ones(2, 3), 0.0).item() == 3
    assert len(calls) == 1


def test_works_where_gradients_are_off() -> None:
    density = Density((4,))
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = approximate_mass(density, x)
    with torch.no_grad():
        torch.testing.assert_close(approximate_mass(density, x), expected)
    with torch.inference_mode():
        torch.testing.assert_close(approximate_mass(density, x.clone()), expected)
    assert not x.requires_grad


def test_the_gradient_at_a_mode_is_zero_and_finite() -> None:
    mean = torch.zeros(2, requires_grad=True)
    density = MultivariateNormal(mean, torch.eye(2))
    loss = penalized_nll(density.log_prob, torch.zeros(1, 2), 1.0)
    loss.backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda f, x: approximate_mass(f, x.long()), "no-density"),
        (lambda f, x: approximate_mass(lambda v: f(v).mean(), x), "no-density"),
        (lambda f, x: approximate_mass(lambda v: v, x), "no-density"),
        (lambda f, x: penalized_nll(f, x, -1.0), "bad-option"),
        (lambda f, x: penalized_nll(f, x, float("nan")), "bad-option"),
        (lambda f, x: penalized_loss(f(x), f(x), 1.0, "sum"), "bad-option"),
    ],
)
def test_mistakes_are_named(call, code: Code) -> None:  # type: ignore[no-untyped-def]
    with mistake(code):
        call(Density((4,)), torch.randn(3, 4, dtype=torch.float64))
