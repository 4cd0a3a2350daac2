"""The sequential test: what its p-values are, what it promises, and how soon it sees a drift."""

import itertools
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, stats

from approxmass.drift import DriftMonitor, log_pay, online_p_values
from conftest import mistake

Floats = NDArray[np.float64]


def fixed_p_values(bag: Floats, scores: Floats, theta: Floats) -> Floats:
    """What a naive monitor would use: each score against the calibration scores alone."""
    up_to = np.searchsorted(bag, scores, side="right")
    equal = 1 + up_to - np.searchsorted(bag, scores, side="left")
    return (len(bag) - up_to + theta * equal) / (len(bag) + 1)


def first_alarms(p: Floats, every: int) -> NDArray[np.int64]:
    """How many p-values it takes to an alarm, for each row `(k, T)`; T where there is none.

    Written anew, without logarithms and for many streams at once.
    """
    held = np.zeros((len(p), 5))
    alarms = np.full(len(p), p.shape[1])
    for t in range(p.shape[1]):
        exponents = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
        held = (held + 1) * exponents * p[:, t : t + 1] ** (exponents - 1)
        alarms = np.where(held.mean(1) >= every, np.minimum(alarms, t + 1), alarms)
    return alarms


def quiet_streams(k: int, calibration: int, length: int, seed: int, fixed: bool = False) -> Floats:
    """p-values `(k, length)` of k streams in which nothing changes."""
    generator = np.random.default_rng(seed)
    p = fixed_p_values if fixed else online_p_values
    return np.stack(
        [
            p(
                np.sort(generator.normal(size=calibration)),
                generator.normal(size=length),
                1 - generator.random(length),
            )
            for _ in range(k)
        ]
    )


def test_online_p_values_by_counting() -> None:
    generator = np.random.default_rng(0)
    bag = np.sort(generator.integers(0, 9, 30)).astype(float)  # with ties
    scores = generator.integers(-2, 11, 80).astype(float)
    theta = 1 - generator.random(80)
    for t, p in enumerate(online_p_values(bag, scores, theta)):
        seen = [*bag, *scores[: t + 1]]
        larger, equal = sum(s > scores[t] for s in seen), sum(s == scores[t] for s in seen)
        assert p == pytest.approx((larger + theta[t] * equal) / len(seen))


def test_online_p_values_are_independent_over_all_orders() -> None:
    # Of four exchangeable scores two are calibration: the places of the two that follow, among 3
    # and among 4 scores, must be any pair of places equally often.
    pairs: Counter[tuple[int, ...]] = Counter()
    for order in itertools.permutations([0.0, 1.0, 2.0, 3.0]):
        bag, scores = np.sort(order[:2]), np.array(order[2:])
        p = online_p_values(bag, scores, np.full(2, 0.5))
        pairs[tuple(np.floor(p * [3, 4]).astype(int))] += 1
    assert pairs == dict.fromkeys(itertools.product(range(3), range(4)), 2)


@pytest.mark.parametrize("ties", [False, True])
def test_online_p_values_are_uniform_and_those_of_a_fixed_set_are_not(ties: bool) -> None:
    generator = np.random.default_rng(1)
    online, fixed = [], []
    for _ in range(300):
        scores = generator.normal(size=60)
        scores = scores.round() if ties else scores
        theta = 1 - generator.random(40)
        online.append(online_p_values(np.sort(scores[:20]), scores[20:], theta))
        fixed.append(fixed_p_values(np.sort(scores[:20]), scores[20:], theta))
    p = np.stack(online)
    assert stats.kstest(p.ravel(), "uniform").pvalue > 0.01
    table = np.histogram2d(p[:, ::2].ravel(), p[:, 1::2].ravel(), bins=4, range=[(0, 1)] * 2)[0]
    assert stats.chisquare(table.ravel()).pvalue > 0.01  # of each and the next

    def spread(p: Floats) -> float:  # of the mean of a stream, against that of independent ones
        return float(p.mean(1).var() * 12 * p.shape[1])

    assert spread(p) == pytest.approx(1, abs=0.25)  # 3 standard errors
    assert spread(np.stack(fixed)) > 2


def test_the_pay_of_each_bet_has_mean_one() -> None:
    for k in range(5):  # p = u ** 10, since the pay has no bound near 0
        mean = integrate.quad(lambda u, k=k: np.exp(log_pay(u**10)[k]) * 10 * u**9, 1e-9, 1)[0]
        assert mean == pytest.approx(1, abs=1e-6)


def test_the_evidence_by_hand() -> None:
    theta = 1 - np.random.default_rng(7).random(2)
    steps = DriftMonitor(np.array([1.0, 3.0, 2.0]), 50, seed=7).update(np.array([5.0, 4.0]))
    p = [theta[0] / 4, (1 + theta[1]) / 5]  # above all; below one of five
    np.testing.assert_allclose(steps.p_value, p)
    exponents = [0.1, 0.3, 0.5, 0.7, 0.9]
    first = [e * p[0] ** (e - 1) for e in exponents]
    second = [(1 + held) * e * p[1] ** (e - 1) for held, e in zip(first, exponents, strict=True)]
    np.testing.assert_allclose(steps.drift, [sum(first) / 5 / 50, sum(second) / 5 / 50])


def test_the_monitor_does_what_the_plain_recursion_does() -> None:
    generator = np.random.default_rng(2)
    calibration, scores = generator.normal(size=60), generator.normal(1, 1, 1500)
    steps = DriftMonitor(calibration, 300, seed=3).update(scores)
    theta = 1 - np.random.default_rng(3).random(1500)
    start, alarms = 0, np.flatnonzero(steps.alarm)
    assert len(alarms) > 3
    for alarm in alarms:
        # After an alarm: the calibration scores alone, nothing held, and the draws go on.
        p = online_p_values(np.sort(calibration), scores[start:], theta[start:])
        assert first_alarms(p[None], 300)[0] == alarm + 1 - start
        np.testing.assert_array_equal(steps.p_value[start : alarm + 1], p[: alarm + 1 - start])
        start = alarm + 1


@pytest.mark.parametrize("calibration", [50, 500])
def test_in_distribution_images_raise_no_alarm_sooner_than_stated(calibration: int) -> None:
    alarms = first_alarms(quiet_streams(300, calibration, 1000, seed=4), every=200)
    # Streams without an alarm count as 1,000, which makes the mean smaller than it is.
    assert alarms.mean() - 3 * alarms.std() / np.sqrt(300) > 200


def test_alarms_after_the_first_come_no_sooner() -> None:
    generator = np.random.default_rng(5)
    second = []
    for seed in range(60):
        monitor = DriftMonitor(generator.normal(size=50), 100, seed)
        alarms = np.flatnonzero(monitor.update(generator.normal(size=1500)).alarm)
        second.append(min(500, alarms[1] - alarms[0]) if len(alarms) > 1 else 500)
        assert monitor.since_alarm == 1499 - (alarms[-1] if len(alarms) else -1)
    assert np.mean(second) - 3 * np.std(second) / np.sqrt(60) > 100


def test_p_values_of_a_fixed_set_would_break_the_promise() -> None:
    # An alarm within 2,000 images where one in 20,000 is stated: in no more than a tenth of the
    # streams, as the evidence of an online monitor is no more than 2,000 on average.
    naive = first_alarms(quiet_streams(200, 50, 2000, seed=6, fixed=True), every=20_000) < 2000
    online = first_alarms(quiet_streams(60, 50, 2000, seed=6), every=20_000) < 2000
    assert stats.binomtest(int(naive.sum()), 200, 0.1, alternative="greater").pvalue < 1e-6
    assert online.mean() <= 0.1


def test_a_strong_drift_is_found_in_a_few_dozen_images_and_again_while_it_stays() -> None:
    delays, again, early = [], [], 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        monitor = DriftMonitor(generator.normal(size=750), seed=seed)
        early += monitor.update(generator.normal(size=5000)).alarm.sum()
        alarms = np.flatnonzero(monitor.update(generator.normal(2, 1, 200)).alarm)
        delays.append(alarms[0] + 1)
        again += np.diff(alarms).tolist()
    assert early <= 3  # of 60,000 images
    assert max(delays) < 40
    assert len(again) > 50
    assert np.mean(again) < 30  # the images behind an alarm have not joined the calibration scores


def test_images_that_are_further_inside_raise_no_alarm() -> None:
    generator = np.random.default_rng(0)
    monitor = DriftMonitor(generator.normal(size=300), 1000)
    assert monitor.update(generator.normal(-2, 1, 2000)).drift.max() < 0.1


def test_portions_make_no_difference_and_a_replay_gives_the_same_state() -> None:
    generator = np.random.default_rng(8)
    calibration = generator.normal(size=100)
    scores = np.r_[generator.normal(size=1400), generator.normal(1, 1, 300)].round(1)
    whole = DriftMonitor(calibration, 500, seed=1).update(scores)
    assert whole.alarm.any()
    portions, cuts = DriftMonitor(calibration, 500, seed=1), [1, 2, 40, 41, 700, 1500]
    steps = [portions.update(part) for part in np.split(scores, cuts)]
    for name in ("p_value", "drift", "alarm"):
        joined = np.concatenate([getattr(step, name) for step in steps])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert DriftMonitor(calibration, 500, seed=2).update(scores).p_value[0] != whole.p_value[0]


def test_extreme_scores_and_rates_stay_numbers() -> None:
    scores = np.array([np.inf, 1e308, -np.inf] * 400)
    steps = DriftMonitor(np.zeros(50), 10**400).update(scores)
    assert np.isfinite(steps.drift).all()
    assert not steps.alarm.any()
    assert DriftMonitor(np.zeros(50), 1).update(scores).drift.max() < np.inf


def test_mistakes_are_named() -> None:
    with mistake("not-fitted"):
        DriftMonitor(np.empty(0))
    with mistake("bad-scores"):
        DriftMonitor(np.array([np.nan]))
    with mistake("bad-option"):
        DriftMonitor(np.zeros(3), 0)
    monitor, untouched = DriftMonitor(np.arange(9.0)), DriftMonitor(np.arange(9.0))
    with mistake("bad-scores"):
        monitor.update(np.array([1.0, np.nan]))
    np.testing.assert_array_equal(
        monitor.update(np.ones(3)).drift, untouched.update(np.ones(3)).drift
    )
