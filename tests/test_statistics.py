"""The statistics of a flow: their names and units, what overflows, and the fused score by hand."""

import math

import numpy as np
import pytest
import torch

from approxmass.models.statistics import FUSED, STATISTICS, capped, fused, range_of
from conftest import mistake


def test_each_statistic_is_found_by_its_name() -> None:
    assert all(name == each.name for name, each in STATISTICS.items())
    assert set(FUSED) <= set(STATISTICS)
    assert not {"typicality", "fused"} & set(FUSED)


def test_what_overflows_or_is_no_number_is_the_largest_score_and_a_number() -> None:
    nan, inf = torch.nan, torch.inf
    scores = torch.tensor([nan, inf, -inf, 1e35, 1e30, 1e29, 0.0, -1e35], dtype=torch.float64)
    expected = [1e30, 1e30, 1e30, 1e30, 1e30, 1e29, 0.0, -1e35]
    assert capped(scores).tolist() == expected


def test_fused_is_the_log_of_the_mean_of_exp_of_what_there_is() -> None:
    generator = np.random.default_rng(0)
    names = ["mass", "typicality", "nll", "residual"]  # the typicality is left out
    scores = {name: generator.normal(size=6) for name in names}
    moments = {name: (generator.normal(), generator.uniform(0.5, 2)) for name in names}
    z = [
        (scores[name] - moments[name][0]) / moments[name][1] for name in ("nll", "mass", "residual")
    ]
    expected = np.log(np.mean(np.exp(z), axis=0))
    found = fused(
        {name: torch.from_numpy(values) for name, values in scores.items()},
        {name: torch.tensor(pair, dtype=torch.float64) for name, pair in moments.items()},
    )
    np.testing.assert_allclose(found.numpy(), expected)


@pytest.mark.parametrize("far", [50.0, 1000.0])
def test_one_statistic_far_out_decides_and_two_that_agree_count_more(far: float) -> None:
    moments = {name: torch.tensor([0.0, 1.0], dtype=torch.float64) for name in ("nll", "mass")}

    def of(nll: float, mass: float) -> float:
        scores = {"nll": torch.tensor([nll]).double(), "mass": torch.tensor([mass]).double()}
        return float(fused(scores, moments))

    assert of(far, 0.0) == pytest.approx(far - math.log(2))
    assert of(0.0, far) == pytest.approx(far - math.log(2))
    assert of(far, far) == pytest.approx(far)


def test_the_range_is_that_of_the_values_and_no_narrower_than_rounding() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    for name in ("nll", "mass", "patch_mass", "patch_nll", "neighbour"):
        assert range_of(name, values, 9).tolist() == pytest.approx([3.0, 3.5**0.5])
    alike = torch.full((5,), -7.0, dtype=torch.float64)
    assert range_of("nll", alike, 400).tolist() == pytest.approx([-7.0, 0.008])
    # The mass of a normal density of 400 dimensions is about 20.
    for name in ("mass", "patch_mass"):
        assert range_of(name, alike, 400).tolist() == pytest.approx([-7.0, 0.2])
        assert range_of(name, alike, 4).tolist() == pytest.approx([-7.0, 0.02])
        assert range_of(name, 100 * alike, 4).tolist() == pytest.approx([-700.0, 0.701])
    for far in (1e30, 2e30):
        with mistake("diverged", "the mass of in-distribution images overflows"):
            range_of("mass", torch.tensor([1.0, far], dtype=torch.float64), 4)
