import pytest
import torch

from approxmass.flows import VECTOR_FLOWS, VectorFlow
from approxmass.mass import penalized_nll
from conftest import mistake

# All but the density that has nothing to learn.
LEARNING = [name for name in VECTOR_FLOWS if name != "gaussian"]


@pytest.mark.parametrize("name", VECTOR_FLOWS)
def test_every_flow_has_a_true_density(name: str) -> None:
    flow = VectorFlow(name, 4, seed=1).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    z, logdet = flow(x)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], x[i])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], logdet[i])
    # the density is that of zuko's own distribution
    torch.testing.assert_close(flow.log_prob(x), flow.flow().log_prob(x))
    # zuko's Gaussianization and autoregressive flows invert by bisection, to a tolerance
    torch.testing.assert_close(flow.inverse(z), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LEARNING)
def test_every_flow_learns_under_the_penalty(name: str) -> None:
    flow = VectorFlow(name, 4, seed=1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 4, generator=generator) @ torch.randn(4, 4, generator=generator)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    first = penalized_nll(flow.log_prob, x, 0.5).item()
    for _ in range(20):
        optimizer.zero_grad()
        penalized_nll(flow.log_prob, x, 0.5).backward()
        optimizer.step()
    assert penalized_nll(flow.log_prob, x, 0.5).item() < first


def test_the_seed_fixes_weights_and_masks_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, third = (VectorFlow("realnvp", 8, seed=s).state_dict() for s in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[k], second[k]) for k in first)
    masks = [k for k in first if k.endswith("mask")]
    assert any(not torch.equal(first[k], third[k]) for k in masks)


def test_jitter_has_the_stated_spread() -> None:
    flow = VectorFlow("realnvp", 8, jitter=0.2)
    noise = flow.perturb(torch.zeros(20_000, 8), torch.Generator().manual_seed(0))
    assert noise.std().item() == pytest.approx(0.2, rel=0.01)


def test_samples_of_a_trained_flow_look_like_the_data() -> None:
    flow = VectorFlow("realnvp", 2)
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.5])
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for step in range(200):
        optimizer.zero_grad()
        penalized_nll(flow.log_prob, x[step % 16 * 250 :][:250], 0.0).backward()
        optimizer.step()
    drawn = flow.sample(4000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn.std(0), torch.tensor([3.0, 0.5]), rtol=0.1, atol=0)


def test_mistakes_are_named() -> None:
    with mistake("bad-option", "unknown flow 'glow'") as info:
        VectorFlow("glow", 4)
    assert "realnvp" in str(info.value)
    with mistake("bad-option", "at least 2"):
        VectorFlow("realnvp", 1)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LEARNING)
def test_the_state_is_all_that_the_density_depends_on(name: str, default: torch.dtype) -> None:
    first = VectorFlow(name, 6, seed=1)
    torch.set_default_dtype(default)
    try:
        second = VectorFlow(name, 6, seed=2).float()
    finally:
        torch.set_default_dtype(torch.float32)
    x = torch.randn(20, 6)
    with torch.no_grad():
        for parameter in first.parameters():  # one of them starts as the identity
            parameter.add_(0.1 * torch.randn(parameter.shape))
    assert not torch.equal(first.log_prob(x), second.log_prob(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.log_prob(x), second.log_prob(x))
    assert torch.equal(first.inverse(x), second.inverse(x))


@pytest.mark.parametrize("name", VECTOR_FLOWS)
def test_no_tensor_of_a_flow_is_missing_from_its_state(name: str) -> None:
    flow = VectorFlow(name, 6)
    state = flow.state_dict()
    assert {n for n, _ in flow.named_parameters()} <= state.keys()
    assert {n for n, _ in flow.named_buffers()} <= state.keys()
    for module in flow.modules():  # nor hidden in an attribute
        assert not [n for n, value in vars(module).items() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", VECTOR_FLOWS)
def test_printed_it_fits_on_a_line(name: str) -> None:
    flow = VectorFlow(name, 6, jitter=0.25)
    weights = sum(p.numel() for p in flow.parameters())
    expected = f"VectorFlow({name}, dimension=6, jitter=0.25, weights={weights:,})"
    assert repr(flow) == expected
