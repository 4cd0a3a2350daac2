"""A density from elsewhere: closed forms, promises, what is refused, and what comes back."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zuko
from scipy.stats import binom
from torch import Tensor, nn

from approxmass import Detector
from approxmass.evaluation.assess import assess
from approxmass.models.base import Model
from approxmass.models.registry import make_model
from approxmass.report.page import write_report
from conftest import mistake

SCALES = torch.tensor([0.5, 1.0, 2.0])
NORMAL = torch.distributions.MultivariateNormal(torch.zeros(3), torch.diag(SCALES**2))


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) * SCALES


def test_its_statistics_are_those_of_the_closed_form() -> None:
    detector = Detector.from_log_prob(NORMAL.log_prob, rows(400, 0))
    new = rows(50, 1)
    scores = detector.score(new)
    x = new.double()
    nll = (x / SCALES).square().sum(1) / 2 + SCALES.double().log().sum()
    nll = nll + 1.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(-scores.log_prob, nll, rtol=1e-5)
    np.testing.assert_allclose(scores.mass, (x / SCALES**2).norm(dim=1), rtol=1e-5)
    # Of 400, 300 are held out and a quarter of these are for the ranges, so 225 calibrate.
    assert len(detector.calibration_scores) == 225
    known = np.sort(detector.calibration_scores)
    above = len(known) - np.searchsorted(known, scores.statistic)
    # Ties within the tolerance count: to the safe side, and by a rank.
    ranks = scores.p_value * 226 - (1 + above)
    assert ranks.min() > -1e-9
    assert ranks.max() < 1.001


@pytest.mark.parametrize("statistic", ["nll", "mass", "typicality", "fused"])
def test_it_calls_usual_rows_as_seldom_as_promised(statistic: str) -> None:
    called = 0
    for seed in range(20):
        detector = Detector.from_log_prob(NORMAL.log_prob, rows(400, seed), statistic=statistic)
        called += int(detector.predict(rows(200, 1000 + seed)).sum())
    # The rate of one detector varies by its Beta law, with a deviation of about .0145.
    spread = math.sqrt(20) * 200 * 0.0145
    low, high = binom.ppf([0.0005, 0.9995], 4000, 0.05)
    assert low - 3.3 * spread < called < high + 3.3 * spread


def test_fewer_than_a_hundred_calibrate_by_folds() -> None:
    detector = Detector.from_log_prob(NORMAL.log_prob, rows(40, 0))
    assert len(detector.calibration_scores) == 40
    far = detector.score([[5.0, 5.0, 5.0]])
    assert far.p_value == pytest.approx(1 / 41)


def squares(x: Tensor) -> Tensor:
    """Of pixels in [0, 1]: normal around grey, up to a constant as an energy is."""
    return -8 * (x - 0.5).square().flatten(1).sum(1)


def test_of_images_it_sees_pixels_from_0_to_1_and_comes_back_with_its_density(
    tmp_path: Path,
) -> None:
    generator = np.random.default_rng(0)
    usual = generator.normal(0.5, 0.25, (300, 3, 6, 5)).clip(0, 1)
    detector = Detector.from_log_prob(squares, usual, statistic="nll")
    black = detector.score(np.zeros((1, 3, 6, 5), np.uint8))
    assert black.log_prob == pytest.approx(-8 * 0.25 * 90)
    assert black.mass == pytest.approx(16 * 0.5 * math.sqrt(90))
    assert black.is_outlier.all()

    detector.save(tmp_path / "d")
    again = Detector.load(tmp_path / "d", log_prob=squares)
    np.testing.assert_array_equal(again.score(usual).p_value, detector.score(usual).p_value)
    again.calibrate(generator.normal(0.5, 0.2, (100, 3, 6, 5)).clip(0, 1))
    assert again.fitted.in_use.count == 100
    with mistake("wrong-encoder", "log_prob"):
        Detector.load(tmp_path / "d")
    with mistake("other-scores"):
        Detector.load(tmp_path / "d", log_prob=lambda x: 1.1 * squares(x))
    with mistake("no-explanation"):
        detector.explain(usual[:1])


def test_a_flow_of_zuko_tells_other_rows() -> None:
    generator = torch.Generator().manual_seed(0)

    def ring(count: int) -> Tensor:
        angle = 2 * math.pi * torch.rand(count, generator=generator)
        found = torch.stack([angle.cos(), angle.sin()], 1)
        return found + 0.05 * torch.randn(count, 2, generator=generator)

    torch.manual_seed(0)
    flow = zuko.flows.NSF(2, transforms=3, hidden_features=(32, 32))
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        (-flow().log_prob(ring(256)).mean()).backward()
        optimizer.step()
    flow.requires_grad_(False)
    detector = Detector.from_log_prob(lambda x: flow().log_prob(x), ring(600))
    assert detector.predict(torch.zeros(1, 2)).all()  # the middle, where PCA would see nothing
    assert detector.predict(ring(500)).mean() < 0.1


class Mixes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = -self.norm(x).square().sum(1)
        return found


def drawn(x: Tensor) -> Tensor:
    return -(x + torch.randn_like(x)).square().sum(1)


@pytest.mark.parametrize("log_prob", [Mixes(), drawn], ids=["batch norm", "noise"])
def test_a_density_that_gives_a_row_several_values_is_refused(
    log_prob: Callable[[Tensor], Tensor],
) -> None:
    with mistake("no-density", "eval()"):
        Detector.from_log_prob(log_prob, rows(200, 0))
    if isinstance(log_prob, nn.Module):
        Detector.from_log_prob(log_prob.eval(), rows(200, 0))


@pytest.mark.parametrize("statistic", ["nll", "mass", "typicality", "fused"])
def test_where_there_is_no_density_is_as_far_out_as_can_be(statistic: str) -> None:
    """Also by the mass, though the gradient of what is infinite there is 0."""

    def within(x: Tensor) -> Tensor:
        return NORMAL.log_prob(x).where(x.abs().amax(1) < 9, -torch.inf)

    detector = Detector.from_log_prob(within, rows(300, 0), statistic=statistic)
    far = torch.cat([rows(5, 1), torch.full((1, 3), 10.0)])
    scores = detector.score(far)
    assert scores.statistic[5] >= 1e29
    assert scores.p_value[5] == 1 / (len(detector.calibration_scores) + 1)


def test_what_is_no_density_is_refused() -> None:
    usual = rows(200, 0)
    with mistake("no-density", "function"):
        Detector.from_log_prob("a flow", usual)  # type: ignore[arg-type]
    with mistake("no-density", "it returned"):
        Detector.from_log_prob(lambda x: x, usual)
    with mistake("no-density", "gradient"):
        Detector.from_log_prob(lambda x: -x.detach().square().sum(1), usual)
    with mistake("no-density", "log_prob is not finite at"):
        Detector.from_log_prob(lambda x: -x.square().sum(1) * 1e38 * 1e38, usual)
    with mistake("no-density", "log_prob is not finite at"):
        Detector.from_log_prob(lambda x: x.sum(1) * torch.nan, usual)
    with mistake("no-density", "log_prob has no finite gradient at"):
        Detector.from_log_prob(lambda x: NORMAL.log_prob(x) + (0 * x).sum(1).abs().sqrt(), usual)
    with mistake("bad-option", "statistic"):
        Detector.from_log_prob(NORMAL.log_prob, usual, statistic="latent_fit")
    with mistake("too-few"):
        Detector.from_log_prob(NORMAL.log_prob, usual[:9])
    with mistake("bad-option", "not both"):
        Detector.load("anywhere", encoder=torch.nn.Identity(), log_prob=NORMAL.log_prob)


def test_its_report_shows_rows_without_what_it_cannot_tell(tmp_path: Path) -> None:
    detector = Detector.from_log_prob(NORMAL.log_prob, rows(200, 0))
    write_report(assess(detector, rows(60, 1), [rows(60, 2) + 3]), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "Of each its p-value" in page
    assert "columns that say most" not in page


def test_it_is_a_model_and_the_command_says_where_it_is_for(tmp_path: Path) -> None:
    assert isinstance(make_model("density", 0, {"log_prob": squares}), Model)
    np.save(tmp_path / "x.npy", rows(100, 0).numpy())
    done = subprocess.run(
        [sys.executable, "-m", "approxmass", "fit", str(tmp_path / "x.npy"), "-o",
         str(tmp_path / "d"), "--method", "density"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "from_log_prob" in done.stderr
