import math

import pytest
import torch

from approxmass.arrays import Shape
from approxmass.flows import RealNVP
from approxmass.flows.couplings import squeeze, unsqueeze
from approxmass.flows.pixels import PIXEL_MAX, Logit, bits_per_dim, dequantise
from approxmass.mass import approximate_mass, log_prob_and_mass, penalized_nll
from conftest import mistake

SMALL = [((1, 4, 4), 2), ((3, 4, 4), 2), ((2, 4, 6), 1), ((1, 8, 4), 3)]


def small(shape: Shape, scales: int, norm: str = "batch") -> RealNVP:
    flow = RealNVP(shape, scales=scales, blocks=1, mid_channels=4, norm=norm)  # type: ignore[arg-type]
    for parameter in flow.parameters():  # away from zero heads and unit gains
        torch.nn.init.normal_(parameter, std=0.5)
    if norm == "batch":
        flow.train()
        for _ in range(20):  # running statistics that are not 0 and 1
            flow(torch.rand(32, *shape))
    return flow.eval()


def test_weights_of_the_paper() -> None:
    grey = RealNVP((1, 28, 28), scales=2, blocks=4, mid_channels=64)
    colour = RealNVP((3, 32, 32), scales=3, blocks=6, mid_channels=64)
    assert sum(p.numel() for p in grey.parameters()) == 9_862_664
    assert sum(p.numel() for p in colour.parameters()) == 66_174_472
    assert sum(p.numel() for p in RealNVP.preset("paper", (3, 32, 32)).parameters()) == 66_174_472
    couplings = [len(s.checkerboard) + len(s.channel) for s in colour.scales]
    assert couplings == [6, 6, 4]


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(("shape", "scales"), SMALL)
def test_logdet_is_that_of_the_jacobian(shape: Shape, scales: int, norm: str) -> None:
    flow = small(shape, scales, norm).double()
    x = torch.rand(1, *shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v)[0].flatten(), x)
    size = math.prod(shape)
    sign, expected = torch.linalg.slogdet(jacobian.reshape(size, size))
    torch.testing.assert_close(flow(x)[1][0], expected, rtol=1e-10, atol=1e-8)
    assert sign != 0


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(("shape", "scales"), SMALL)
def test_inverse_both_ways(shape: Shape, scales: int, norm: str) -> None:
    flow = small(shape, scales, norm).double()
    x = torch.rand(5, *shape, dtype=torch.float64)
    torch.testing.assert_close(flow.inverse(flow(x)[0]), x, rtol=0, atol=1e-9)
    # towards images only as far as float64 tells them from the margins of the logit
    z = 0.1 * torch.randn(5, math.prod(shape), dtype=torch.float64)
    torch.testing.assert_close(flow(flow.inverse(z))[0], z, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "flow",
    [
        RealNVP((1, 28, 28), scales=2, blocks=4, mid_channels=64),
        RealNVP.preset("compact", (3, 32, 32)),
    ],
)
def test_round_trip_in_float32(flow: RealNVP) -> None:
    flow.eval()
    x = dequantise(torch.randint(256, (4, *flow.shape)) / 255, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (flow.inverse(flow(x)[0]) - x).abs().max() < 1e-4


def test_the_density_integrates_to_one() -> None:
    flow = small((1, 1, 2), 1).double()
    # Over all of the plane that the logit maps to the real line, on a fine grid in y.
    y = torch.linspace(-12, 12, 401, dtype=torch.float64)
    grid = Logit().inverse(torch.cartesian_prod(y, y)).view(-1, 1, 1, 2)
    with torch.no_grad():
        _, logdet = Logit()(grid)
        density_in_y = (flow.log_prob(grid) - logdet).exp()
    assert density_in_y.sum().item() * (24 / 400) ** 2 == pytest.approx(1, abs=1e-3)


def test_log_prob_agrees_with_a_histogram_of_samples() -> None:
    flow = small((1, 1, 2), 1)
    with torch.no_grad():
        z = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(1))
        x = flow.inverse(z).flatten(1)
    low, side = torch.tensor([0.4, 0.4]), 0.2
    inside = ((x >= low) & (x < low + side)).all(1).double().mean()
    ticks = torch.linspace(0.4, 0.6, 61)
    middle = (ticks[1:] + ticks[:-1]) / 2
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(middle, middle).view(-1, 1, 1, 2)).exp()
    expected = density.double().mean() * side**2
    error = (inside * (1 - inside) / len(x)).sqrt()
    assert abs(inside - expected) < 4 * error + 0.01 * expected


def test_a_constant_density_has_eight_bits_and_the_released_offset_is_gone() -> None:
    d = 784
    log_p = torch.tensor(-d * math.log(PIXEL_MAX))
    assert bits_per_dim(log_p, d).item() == pytest.approx(8)


def test_identity_at_the_start_without_norm() -> None:
    flow = RealNVP((1, 4, 4), scales=2, blocks=1, mid_channels=4, norm="none")
    x = torch.rand(3, 1, 4, 4)
    y, logdet = Logit()(x)
    z, total = flow(x)
    torch.testing.assert_close(z.sort(1).values, y.flatten(1).sort(1).values)
    torch.testing.assert_close(total, logdet)
    penalized_nll(flow.log_prob, x, 0.1).backward()
    heads = [p for n, p in flow.named_parameters() if "head" in n and n.endswith("original0")]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in heads)


def test_images_of_a_batch_do_not_mix_in_eval_and_without_norm_neither_in_training() -> None:
    x = torch.rand(6, 1, 4, 4)
    for flow in (small((1, 4, 4), 2), small((1, 4, 4), 2, "none").train()):
        log_p, mass = log_prob_and_mass(flow.log_prob, x)
        alone_p, alone = log_prob_and_mass(flow.log_prob, x[2:3])
        torch.testing.assert_close(
            (log_p[2], mass[2]), (alone_p[0], alone[0]), rtol=1e-4, atol=1e-4
        )
    tied = small((1, 4, 4), 2).train()  # BatchNorm does mix them in training
    assert (tied.log_prob(x)[2] - tied.log_prob(x[1:4])[1]).abs() > 1e-3


def test_nothing_is_kept_on_the_module() -> None:
    flow = small((1, 4, 4), 2)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    attributes = {id(m): set(vars(m)) for m in flow.modules()}
    approximate_mass(flow.log_prob, torch.rand(3, 1, 4, 4))
    assert all(torch.equal(v, before[k]) for k, v in flow.state_dict().items())
    assert {id(m): set(vars(m)) for m in flow.modules()} == attributes


def test_mass_by_central_differences_through_the_whole_flow() -> None:
    flow = small((1, 4, 4), 2).double()
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    gradient = torch.zeros(2, 16, dtype=torch.float64)
    for i in range(16):
        change = torch.zeros(16, dtype=torch.float64)
        change[i] = 1e-6
        up, down = x + change.view(1, 1, 4, 4), x - change.view(1, 1, 4, 4)
        gradient[:, i] = (flow.log_prob(up) - flow.log_prob(down)).detach() / 2e-6
    torch.testing.assert_close(
        approximate_mass(flow.log_prob, x), gradient.norm(dim=1), rtol=1e-5, atol=1e-5
    )


def test_latent_maps_cut_the_latent_where_it_was_joined() -> None:
    flow = RealNVP((3, 8, 8), scales=3, blocks=1, mid_channels=4)
    assert flow.latent_shapes == [(6, 4, 4), (12, 2, 2), (12, 2, 2)]
    z = torch.randn(2, 192)
    maps = flow.latent_maps(z)
    torch.testing.assert_close(torch.cat([m.flatten(1) for m in maps], 1), z)


def test_samples_are_images_and_repeat_under_a_seed() -> None:
    flow = small((1, 4, 4), 2)
    first = flow.sample(5, torch.Generator().manual_seed(3))
    assert first.shape == (5, 1, 4, 4)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, flow.sample(5, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, flow.sample(5, torch.Generator().manual_seed(4)))


def test_dequantised_pixels_stay_within_their_grey_level() -> None:
    grey = torch.arange(256).repeat(200) / 255
    noisy = dequantise(grey, torch.Generator().manual_seed(0))
    level = noisy * 255 - torch.arange(256).repeat(200)
    assert level.min() > -1e-4
    assert level.max() < 1 + 1e-4
    assert level.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(level)))


def test_squeeze_has_an_inverse_and_keeps_colours_together() -> None:
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(unsqueeze(squeeze(x)), x)
    board = (torch.arange(4)[:, None] + torch.arange(6)) % 2
    first, second = squeeze(board.float().expand(1, 3, 4, 6)).chunk(2, 1)
    assert first.unique().tolist() == [0]
    assert second.unique().tolist() == [1]


@pytest.mark.parametrize(("shape", "scales"), [((1, 27, 28), 2), ((3, 32, 30), 3), ((1, 5, 5), 3)])
def test_odd_sizes_are_rejected_with_the_cure(shape: Shape, scales: int) -> None:
    with mistake("wrong-shape", f"divisible by {2 ** (scales - 1)}") as info:
        RealNVP(shape, scales=scales)
    assert "resize" in str(info.value)


@pytest.mark.parametrize(("norm", "expected"), [(None, False), ("none", False), ("batch", True)])
def test_the_norm_of_the_compact_preset_is_a_choice(norm: str | None, expected: bool) -> None:
    flow = RealNVP.preset("compact", (3, 8, 8), norm=norm)  # type: ignore[arg-type]
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in flow.modules()) is expected


def test_other_mistakes_are_named() -> None:
    with mistake("bad-option", "unknown preset 'huge'"):
        RealNVP.preset("huge", (1, 28, 28))
    with mistake("bad-option", "norm"):
        RealNVP((1, 4, 4), norm="layer")  # type: ignore[arg-type]
    with mistake("wrong-shape", "(1, 4, 4), not (3, 4, 4)"):
        RealNVP((1, 4, 4))(torch.rand(1, 3, 4, 4))


def test_autocast_keeps_the_logdet_in_float32() -> None:
    flow = small((1, 8, 8), 2)
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        z, logdet = flow(x)
    assert z.dtype == logdet.dtype == torch.float32
    with torch.no_grad():
        assert (flow(x)[1] - logdet).abs().max() < 0.03 * logdet.abs().max()


def test_the_masks_are_float32_whatever_the_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        flow = RealNVP((1, 4, 4), scales=2, blocks=1, mid_channels=4)
    finally:
        torch.set_default_dtype(torch.float32)
    masks = [m for name, m in flow.named_buffers() if name.endswith(("mask", "change"))]
    assert masks
    assert {m.dtype for m in masks} == {torch.float32}


def test_printed_it_fits_on_a_screen() -> None:
    lines = repr(RealNVP.preset("paper", (3, 32, 32))).splitlines()
    assert len(lines) <= 15
    for words in (
        "RealNVP(shape=(3, 32, 32)",
        "dimension=3072",
        "weights=66,174,472",
        "scales=3",
        "blocks=6",
        "mid_channels=64",
        "norm=batch",
    ):
        assert words in "\n".join(lines)
    scale = RealNVP((1, 8, 8), scales=2, blocks=1, mid_channels=4, norm="none").scales[0]
    assert "(1, 8, 8): 3 checkerboard couplings of width 4, 3 channel" in repr(scale)
    assert "shape=(1, 8, 8), reverse=True" in repr(scale.checkerboard[1])
    assert "channels=4, reverse=True" in repr(scale.channel[1])
    assert "inputs=2, outputs=4, mid_channels=8, blocks=1, norm=none" in repr(scale.channel[0].net)
    assert "channels=8, norm=none" in repr(scale.channel[0].net.blocks[0])
