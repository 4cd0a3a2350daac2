import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from approxmass.calibration import (
    benjamini_hochberg,
    called,
    discoveries_need,
    group_p_value,
    p_values,
    realised_rate,
    smallest_p_value,
    threshold,
    with_tolerance,
)
from conftest import mistake


def test_p_values_by_counting() -> None:
    generator = np.random.default_rng(0)
    calibration = generator.integers(0, 20, 50).astype(float)  # with ties
    scores = generator.integers(-5, 25, 200).astype(float)
    expected = [(1 + sum(c >= s for c in calibration)) / 51 for s in scores]
    np.testing.assert_allclose(p_values(calibration, scores), expected)


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_keep_their_promise_exactly(ties: bool) -> None:
    # Over every way to choose the new input among 6 exchangeable ones, P(p <= e) <= e.
    values = np.array([0.0, 1, 1, 2, 2, 2] if ties else [0.0, 1, 2, 3, 4, 5])
    p = [p_values(np.delete(values, i), values[i : i + 1])[0] for i in range(6)]
    for level in np.arange(0.01, 1, 0.01):
        assert np.mean([each <= level for each in p]) <= level + 1e-12


def test_larger_scores_have_smaller_p_values_down_to_the_smallest() -> None:
    calibration = np.random.default_rng(0).normal(size=199)
    p = p_values(calibration, np.linspace(-10, 10, 100))
    assert (np.diff(p) <= 0).all()
    assert p[0] == 1
    assert p[-1] == smallest_p_value(calibration) == 1 / 200


def test_benjamini_hochberg_bounds_the_false_discoveries() -> None:
    generator = np.random.default_rng(0)
    shares, powers = [], []
    for _ in range(300):
        calibration = generator.normal(size=1000)
        scores = np.r_[generator.normal(size=180), generator.normal(4.5, 1, 20)]
        called = benjamini_hochberg(p_values(calibration, scores), 0.1)
        shares.append(called[:180].sum() / max(1, called.sum()))
        powers.append(called[180:].mean())
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) < 0.1 + 3 * error
    assert np.mean(powers) > 0.8
    assert benjamini_hochberg(np.empty(0), 0.1).shape == (0,)


def test_a_group_of_one_has_the_conformal_p_value_and_small_groups_the_exact_one() -> None:
    generator = np.random.default_rng(0)
    calibration = generator.normal(size=40)
    for score in (-1.0, 0.3, 5.0):
        group = np.array([score])
        assert group_p_value(calibration, group) == p_values(calibration, group)[0]
    # all ways to choose 2 of 9 values: how often the rank sum is at least that of the largest two
    values = np.arange(9.0)
    ranks = [sum(pair) for pair in itertools.combinations(range(9), 2)]
    assert group_p_value(values[:7], values[7:]) == pytest.approx(1 / len(ranks))


@pytest.mark.parametrize("size", [2, 10, 50])
def test_group_p_values_are_uniform_when_nothing_has_changed(size: int) -> None:
    generator = np.random.default_rng(size)
    p = [
        group_p_value(generator.normal(size=300), generator.normal(size=size)) for _ in range(1500)
    ]
    for level in (0.01, 0.05, 0.2):
        alarms = sum(each <= level for each in p)
        assert stats.binomtest(alarms, 1500, level, alternative="greater").pvalue > 1e-3
    assert 0.45 < np.mean(p) < 0.55


@pytest.mark.parametrize(("n", "size"), [(75, 2), (75, 8), (300, 20)])
def test_group_p_values_are_valid_with_many_ties(n: int, size: int) -> None:
    generator = np.random.default_rng(size)
    for share in (0.02, 0.1, 0.5):
        p = [
            group_p_value(
                (generator.random(n) < share).astype(float),
                (generator.random(size) < share).astype(float),
            )
            for _ in range(600)
        ]
        alarms = sum(each <= 0.05 for each in p)
        assert stats.binomtest(alarms, 600, 0.05, alternative="greater").pvalue > 1e-3


def test_a_group_finds_a_shift_that_single_images_do_not() -> None:
    generator = np.random.default_rng(0)
    calibration, shifted = generator.normal(size=500), generator.normal(0.5, 1, 64)
    assert (p_values(calibration, shifted) <= 0.05).mean() < 0.3
    assert group_p_value(calibration, shifted) < 0.01


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=150),
    st.sampled_from([0.01, 0.05, 0.1, 1 / 3, 0.9]),
)
def test_beyond_the_threshold_and_only_there_is_the_p_value_small(
    values: list[int], rate: float
) -> None:
    calibration, scores = np.array(values, float), np.arange(-1, 32.0)
    called = p_values(calibration, scores) <= rate
    np.testing.assert_array_equal(scores > threshold(calibration, rate), called)


@pytest.mark.parametrize(("n", "rate"), [(30, 0.05), (75, 0.05), (750, 0.01)])
def test_the_realised_rate_is_that_of_detectors_drawn_at_random(n: int, rate: float) -> None:
    found = realised_rate(n, rate)
    generator = np.random.default_rng(n)

    def beyond_threshold() -> float:
        # Of uniform scores one minus the score behind the threshold, less its tolerance.
        scores = np.sort(generator.random(n))
        behind = np.searchsorted(with_tolerance(scores), threshold(scores, rate))
        return float(1 - scores[behind])

    beyond = np.array([beyond_threshold() for _ in range(4000)])
    for limit, share in ((found.low, 0.025), (found.high, 0.975)):
        below = int((beyond < limit).sum())
        assert stats.binomtest(below, 4000, share).pvalue > 1e-3
    assert abs(beyond.mean() - found.average) < 4 * beyond.std() / np.sqrt(4000)
    assert found.low < found.average <= found.asked < found.high


def test_the_realised_rate_of_the_fewest_images_has_a_closed_form() -> None:
    # One rank of 19: the largest of 19 uniform scores is below x with the probability x ** 19.
    found = realised_rate(19, 0.05)
    assert found.average == 0.05
    assert found.low == pytest.approx(1 - 0.975 ** (1 / 19))
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 19))
    with mistake("rate", "at least 19"):
        realised_rate(18, 0.05)


def test_mistakes_are_named() -> None:
    with mistake("not-fitted"):
        p_values(np.empty(0), np.zeros(1))
    with mistake("bad-scores"):
        p_values(np.zeros(3), np.array([np.nan]))
    with mistake("bad-scores"):
        p_values(np.array([np.nan]), np.zeros(3))
    with mistake("too-few"):
        group_p_value(np.zeros(3), np.empty(0))
    with mistake("bad-scores"):
        group_p_value(np.zeros(3), np.array([1.0, np.nan]))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize(("outliers", "among"), [(1, 10), (7, 1000), (200, 1000), (200, 200)])
def test_so_many_calibration_scores_are_needed_and_no_fewer(
    rate: float, outliers: int, among: int
) -> None:
    needed = discoveries_need(outliers, among, rate)

    def judged(count: int) -> int:
        p = p_values(np.zeros(count), np.repeat([1.0, -1.0], [outliers, among - outliers]))
        return int(called(p, rate, "discoveries", count).sum())

    assert judged(needed) == outliers
    if needed > 1:
        with pytest.warns(UserWarning, match=f"takes {needed:,} calibration images"):
            assert judged(needed - 1) == 0


def test_no_warning_where_nothing_is_beyond_all_calibration_scores_or_some_are_called() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not called(np.full(9, 0.2), 0.05, "discoveries", 99).any()
        assert not called(np.empty(0), 0.05, "discoveries", 99).any()
        assert called(np.full(9, 0.01), 0.05, "discoveries", 99).all()
        assert called(np.full(9, 0.01), 0.05, "image", 99).all()
