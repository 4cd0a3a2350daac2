"""The sequential test: what its p-values are, what it promises, and how soon it sees a drift."""

import copy
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, special, stats

from approxmass.calibration import tied
from approxmass.drift import DriftMonitor, drift_power, power_in_words
from approxmass.drift.evidence import EARLY, Evidence, log_pays
from approxmass.drift.monitor import BLANDER, OUTWARD, online_p_values
from approxmass.drift.power import TABLE
from conftest import mistake

ROOT = Path(__file__).parents[1]

Floats = NDArray[np.float64]


def fixed_p_values(bag: Floats, scores: Floats, theta: Floats) -> Floats:
    """What a naive monitor would use: each score against the calibration scores alone."""
    up_to = np.searchsorted(bag, scores, side="right")
    equal = 1 + up_to - np.searchsorted(bag, scores, side="left")
    return (len(bag) - up_to + theta * equal) / (len(bag) + 1)


def plain_pays(p: Floats) -> Floats:
    z = -special.ndtri(p)[..., None]
    d, e = np.array([0.25, 0.5, 1, 2]), np.array([0.02, 0.1, 0.3])
    far = np.stack([k * (p <= 1 / k) for k in (8, 32, 128, 512)]).mean(0)[..., None]
    return np.concatenate([np.exp(d * z - d**2 / 2), 1 - e + e * far], axis=-1)


def first_alarms(p: Floats, count: int, every: int) -> NDArray[np.int64]:
    """How many p-values it takes to an alarm, for each row `(k, T)`; T where there is none.

    Written anew, without logarithms and for many streams at once.
    """
    k, length = p.shape
    top, level = every / 0.98, 0.02 / 6 * 0.8
    held = np.full((k, 14), top * 0.02 / 3)
    total, up, down, alarms = np.zeros(k), np.zeros(k), np.zeros(k), np.full(k, length)
    for t in range(1, length + 1):
        new, among = p[:, t - 1], count + t
        held = (held + 1) * np.concatenate([plain_pays(new), plain_pays(1 - new)], axis=1)
        total += -count / np.sqrt(among * (among - 1)) * special.ndtri(new)
        up += new * among <= up + 1
        down += (1 - new) * among <= down + 1
        rest = np.sqrt(count - count * t / among)
        limit, q = -np.sqrt(count) * special.ndtri(level), 1 - level ** (1 / count)
        chances = special.ndtr((total - limit) / rest) + special.ndtr((-total - limit) / rest)
        for beyond in (up, down):
            chances += special.betaincc(1 + beyond, among - beyond, q)
        reached = held.mean(1) / top + chances / 0.8 >= 1
        alarms = np.where(reached, np.minimum(alarms, t), alarms)
    return alarms


def evidence_after(p: Floats, count: int = 20, every: int = 1000) -> Evidence:
    evidence = Evidence(count, every)
    evidence.take(p)
    return evidence


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
    def paid(u: float, bet: int) -> float:  # p = u ** 10, since some pays have no bound at 0
        return float(np.exp(log_pays(np.array([u**10]))[0, bet])) * 10 * u**9

    places = [1e-9, *(k**-0.1 for k in (512, 128, 32, 8)), 1.0]
    for bet in range(7):
        parts = [integrate.quad(paid, *ends, args=(bet,)) for ends in itertools.pairwise(places)]
        assert sum(part for part, _ in parts) == pytest.approx(1, abs=1e-6)
    p = np.array([0.003, 0.2, 0.999])
    np.testing.assert_allclose(np.exp(log_pays(p)), plain_pays(p))
    edges = np.array([0.0, 1e-300, 1.0])  # as far as numbers tell 1 from what is next to it
    np.testing.assert_allclose(
        log_pays(edges), log_pays(np.array([2.0**-53, 2.0**-53, 1 - 2.0**-53]))
    )
    far = np.array([2.0**-52, 1e-15])
    np.testing.assert_allclose(np.exp(log_pays(far)), plain_pays(far))
    # At each step of f, which pays there and not beyond: small p-values in 8, 32, 128 and 512.
    for k in (8, 32, 128, 512):
        at = np.array([1 / k, np.nextafter(1 / k, 1)])
        np.testing.assert_allclose(np.exp(log_pays(at)), plain_pays(at))


def test_the_evidence_goes_on_where_it_was_left() -> None:
    p = np.random.default_rng(3).beta(0.8, 1.2, 30)
    whole, parts = Evidence(20, 1000), Evidence(20, 1000)
    assert whole.since == 0
    expected = whole.take(p)
    assert expected.shape == (30, 2)
    assert whole.since == 30
    found = [parts.take(part) for part in np.split(p, [0, 1, 2, 17, 17])]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-12)
    assert parts.since == 30
    # Both sides alike: what is small on one is large on the other.
    np.testing.assert_allclose(Evidence(20, 1000).take(1 - p), expected[:, ::-1], rtol=1e-9)


@pytest.mark.parametrize("seen", [0, 1, 9, 60])
def test_evidence_less_its_stakes_is_a_martingale(seen: int) -> None:
    # The mean of the next evidence over a uniform p-value, in z = its normal score, between all
    # places where it jumps; the promise rests on this and on where the evidence starts.
    count, every = 20, 1000
    generator = np.random.default_rng(seen)
    past = generator.beta(0.9, 1.3, seen)  # of a drift, so that all parts count
    evidence = evidence_after(past, count, every)
    now = evidence_after(past[:-1], count, every).take(past[-1:]).sum() if seen else EARLY
    k = np.arange(1, seen + 2) / (count + seen + 1)
    jumps = np.concatenate([1 / 2.0 ** np.array([3, 5, 7, 9]), k])
    jumps = stats.norm.isf(np.concatenate([jumps, 1 - jumps]))
    nodes, weights = special.roots_legendre(12)
    mean = 0.0
    for low, high in itertools.pairwise(np.unique([-12, -5, -2, 0, 2, 5, 12, *jumps])):
        z = (low + high) / 2 + (high - low) / 2 * nodes
        p = stats.norm.sf(z)
        after = [copy.deepcopy(evidence).take(p[i : i + 1]).sum() for i in range(len(p))]
        mean += (high - low) / 2 * float(weights @ (np.array(after) * stats.norm.pdf(z)))
    assert mean == pytest.approx(now + (1 - EARLY) / every, rel=1e-6)


def test_the_evidence_by_hand() -> None:
    theta = 1 - np.random.default_rng(7).random(2)
    steps = DriftMonitor(np.array([1.0, 3.0, 2.0]), 50, seed=7).update(np.array([5.0, 4.0]))
    p = [theta[0] / 4, (1 + theta[1]) / 5]  # above all; below one of five
    np.testing.assert_allclose(steps.p_value, p)
    held = np.full(14, 50 / 0.98 * 0.02 / 3)
    for each in np.array(p):
        both = [plain_pays(np.array([value]))[0] for value in (each, 1 - each)]
        held = (held + 1) * np.concatenate(both)
    level = 0.02 / 6 * 0.8
    z = stats.norm.isf(p)
    total = 3 / np.sqrt(4 * 3) * z[0] + 3 / np.sqrt(5 * 4) * z[1]
    limit, rest = np.sqrt(3) * stats.norm.isf(level), np.sqrt(9 / 5)
    up = stats.norm.sf((limit - total) / rest) + stats.beta.sf(1 - level ** (1 / 3), 3, 3)
    down = stats.norm.sf((limit + total) / rest) + stats.beta.sf(1 - level ** (1 / 3), 1, 5)
    expected = held.mean() / (50 / 0.98) + (up + down) / 0.8
    assert steps.drift[1] == pytest.approx(expected)
    assert steps.outward.tolist() == [True, True]
    assert steps.direction.tolist() == [OUTWARD, OUTWARD]
    below = DriftMonitor(np.array([1.0, 3.0, 2.0]), 50).update(np.array([-5.0, -4.0, 0.0]))
    assert below.outward.tolist() == [False] * 3
    assert below.direction.tolist() == [BLANDER] * 3


def test_what_is_not_asked_for_is_one_alarm_in_100_000_images_and_seed_zero() -> None:
    calibration, scores = np.arange(30.0), np.arange(40.0)
    found = DriftMonitor(calibration).update(scores)
    expected = DriftMonitor(calibration, 100_000, 0).update(scores)
    np.testing.assert_array_equal(found.drift, expected.drift)
    assert DriftMonitor(calibration).false_alarm_every == 100_000
    # Scores as a list, or in single precision, are the same scores.
    other = DriftMonitor(calibration.astype(np.float32)).update(scores.tolist())  # type: ignore[arg-type]
    np.testing.assert_array_equal(other.drift, expected.drift)


def test_the_monitor_does_what_the_plain_recursion_does() -> None:
    generator = np.random.default_rng(2)
    calibration, scores = generator.normal(size=60), generator.normal(0.7, 1, 1500)
    steps = DriftMonitor(calibration, 300, seed=3).update(scores)
    theta = 1 - np.random.default_rng(3).random(1500)
    start, alarms = 0, np.flatnonzero(steps.alarm)
    assert len(alarms) > 3
    for alarm in alarms:
        # After an alarm: the calibration scores alone, nothing held, and the draws go on.
        p = online_p_values(np.sort(calibration), scores[start:], theta[start:])
        p = p[: alarm + 2 - start]
        assert first_alarms(p[None], 60, 300)[0] == alarm + 1 - start
        np.testing.assert_array_equal(steps.p_value[start : alarm + 1], p[: alarm + 1 - start])
        start = alarm + 1


@pytest.mark.parametrize("calibration", [8, 50, 500])
def test_in_distribution_images_raise_no_alarm_sooner_than_stated(calibration: int) -> None:
    p = quiet_streams(250, calibration, 500, seed=4)
    alarms = first_alarms(p, calibration, every=60)
    # Streams without an alarm count as 500, which makes the mean smaller than it is.
    assert alarms.mean() - 3 * alarms.std() / np.sqrt(250) > 60


def test_the_chance_of_an_alarm_soon_is_no_more_than_stated() -> None:
    # By the theorem of the p-values: independent and uniform while nothing changes.
    p = 1 - np.random.default_rng(0).random((1500, 250))
    for count, every in ((75, 100_000), (750, 2500)):
        early = int((first_alarms(p, count, every) < 250).sum())
        bound = EARLY + 250 / every
        assert stats.binomtest(early, 1500, bound, alternative="greater").pvalue > 1e-3
    assert early > 20  # this is a test of something


def test_alarms_after_the_first_come_no_sooner() -> None:
    generator = np.random.default_rng(5)
    second = []
    for seed in range(150):
        monitor = DriftMonitor(generator.normal(size=50), 40, seed)
        alarms = np.flatnonzero(monitor.update(generator.normal(size=500)).alarm)
        second.append(min(300, alarms[1] - alarms[0]) if len(alarms) > 1 else 300)
        assert monitor.since_alarm == 499 - (alarms[-1] if len(alarms) else -1)
    assert np.mean(second) - 3 * np.std(second) / np.sqrt(150) > 40


def test_p_values_of_a_fixed_set_would_break_the_promise() -> None:
    # An alarm within 600 images where one in 20,000 is stated: in no more than 5% of streams.
    naive = first_alarms(quiet_streams(150, 50, 600, seed=6, fixed=True), 50, every=20_000) < 600
    online = first_alarms(quiet_streams(150, 50, 600, seed=6), 50, every=20_000) < 600
    assert stats.binomtest(int(naive.sum()), 150, 0.05, alternative="greater").pvalue < 1e-6
    assert stats.binomtest(int(online.sum()), 150, 0.05, alternative="greater").pvalue > 1e-3


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


@pytest.mark.parametrize("law", ["normal", "exponential"])
@pytest.mark.parametrize(
    ("move", "share", "direction"),
    [(0.5, 1.0, OUTWARD), (-0.5, 1.0, BLANDER), (6.0, 0.1, OUTWARD), (-6.0, 0.1, BLANDER)],
)
def test_small_shifts_and_rare_outliers_are_found_either_way(
    law: str, move: float, share: float, direction: str
) -> None:
    for seed in range(8):
        draw = getattr(np.random.default_rng(seed), law)
        monitor = DriftMonitor(draw(size=750), seed=seed)
        drifted = np.random.default_rng(seed + 99).random(1000) < share
        steps = monitor.update(draw(size=1000) + move * drifted)
        assert steps.alarm.any()
        assert steps.direction[steps.alarm.argmax()] == direction


@pytest.mark.parametrize("drift", [0, 1])
def test_what_is_stated_of_power_is_found(drift: int) -> None:
    stated, runs, found = drift_power(75)[drift], 60, 0
    for run in range(runs):
        generator = np.random.default_rng([drift, run])
        monitor = DriftMonitor(generator.normal(size=75), seed=run)
        scores = generator.normal(size=stated.within)
        scores += 6 * (generator.random(len(scores)) < 0.1) if drift else 0.5 * (-1) ** run
        found += monitor.update(scores).alarm.any()
    assert stats.binomtest(int(found), runs, stated.found).pvalue > 1e-3


def test_power_lies_between_that_of_the_numbers_in_the_table() -> None:
    table = json.loads(TABLE.read_text())
    for i, (name, own) in enumerate(table["drifts"].items()):
        for count, found, median in zip(
            table["calibration"], own["found"], own["median"], strict=True
        ):
            power = drift_power(count)[i]
            assert (power.drift, power.within) == (name, own["within"])
            assert power.found == pytest.approx(found)
            assert power.median == (None if median is None else pytest.approx(median))
        at = {n: drift_power(n)[i].found for n in (75, 100, 150, 7500, 10**6)}
        assert at[75] <= at[100] <= at[150]
        half = np.interp(np.log(100), np.log([75, 150]), [at[75], at[150]])
        assert at[100] == pytest.approx(half)
        assert at[10**6] == at[7500]  # no more than was simulated
        assert drift_power(2)[i].median is None
        medians = own["median"]
        known = table["calibration"].index(75)
        half = np.interp(np.log(100), np.log([75, 150]), medians[known : known + 2])
        assert drift_power(100)[i].median == pytest.approx(half)
        assert drift_power(10**6)[i].median == medians[-1]
        # More than half are found, and in what time the table cannot say.
        between = drift_power(60)[i]
        assert between.found > 0.5
        assert between.median is None
    words = power_in_words(1234)
    assert words.startswith("with 1,234 calibration scores a shift of half a standard deviation")
    assert "10% of images far out within 1,000 images in 100 of 100" not in power_in_words(30)


def test_power_in_words_is_rounded_down() -> None:
    for count, shown in ((30, "30"), (1234, "1,234")):
        shift, far = drift_power(count)
        assert power_in_words(count) == (
            f"with {shown} calibration scores a shift of half a standard deviation is found within "
            f"2,000 images in {math.floor(100 * shift.found)} of 100 cases, 10% of images far out "
            f"within 1,000 images in {math.floor(100 * far.found)} of 100, at one false alarm in "
            "100,000 images"
        )
        assert power_in_words(count, "row") == power_in_words(count).replace("image", "row")


def test_the_table_in_the_package_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import drift_power as tool

    facts = json.loads((ROOT / "results" / "drift_power.json").read_text())
    assert tool.packaged(facts) == json.loads(TABLE.read_text())
    rows = {tuple(row[name] for name in tool.KEY): row for row in facts["rows"]}
    assert list(rows) == tool.wanted()
    for drift, count in itertools.product(tool.PACKAGED, (75, 750)):
        # No better than a test could be that knows what to look for.
        row = rows[drift, "normal", count, 0, tool.EVERY]
        assert row["found"] <= tool.limit(drift, count) + 0.01
    for (drift, _, _, _, every), row in rows.items():
        if drift == "none":
            assert row["mean"] + 2 * row["standard_error"] > every
            assert row["alarmed_early"] < EARLY + 0.01 + 3 * np.sqrt(0.03 / row["runs"])


def test_a_score_within_the_tolerance_of_one_that_comes_again_is_taken_for_it() -> None:
    calibration = np.repeat([-20.0, 0.0, 0.5, 30.0, 31.0, 90.0], [3, 5, 1, 4, 4, 1])
    seen, near = tied(calibration)
    assert seen.tolist() == [-20, 0, 30, 31]
    assert (near < 0.4).all()

    def p_values_of(scores: Floats, calibration: Floats = calibration) -> list[float]:
        return DriftMonitor(calibration, 10**12, seed=5).update(scores).p_value.tolist()

    generator = np.random.default_rng(0)
    which = generator.permutation(np.repeat(np.arange(4), 8))
    exact, reach = seen[which], near[which] * (1 - 1e-9)
    for moved in (exact + reach, exact - reach, exact + reach * generator.uniform(-1, 1, 32)):
        assert p_values_of(moved) == p_values_of(exact)
    assert p_values_of(exact, generator.permutation(calibration) + 1e-9) == p_values_of(exact)
    # Farther off, or near one that comes once, a score is its own.
    theta = 1 - np.random.default_rng(5).random(32)
    beyond = near[which] * (1 + 1e-6)
    once = np.array([0.5 + 1e-5, 90 - 1e-5])
    for own in (exact + beyond, exact - beyond, once):
        expected = online_p_values(np.sort(calibration), own, theta[: len(own)])
        assert p_values_of(own) == expected.tolist()
    alone = np.arange(9.0)
    own = np.array([3.0 + 1e-12, np.inf, -np.inf])
    expected = online_p_values(alone, own, theta[:3])
    assert p_values_of(own, alone) == expected.tolist()


def test_many_equal_scores_are_no_drift_and_hide_none() -> None:
    for seed in range(6):
        draw = np.random.default_rng(seed).poisson
        monitor = DriftMonitor(draw(0.5, 300).astype(float), seed=seed)
        assert monitor.update(draw(0.5, 1000)).drift.max() < 1
        assert monitor.update(draw(1.5, 200)).alarm.any()
    assert DriftMonitor(np.zeros(75)).update(np.zeros(3000)).drift.max() < 1


def test_portions_make_no_difference_and_a_replay_gives_the_same_state() -> None:
    generator = np.random.default_rng(8)
    calibration = generator.normal(size=100)
    scores = np.r_[generator.normal(size=1400), generator.normal(1, 1, 300)].round(1)
    whole = DriftMonitor(calibration, 500, seed=1).update(scores)
    assert whole.alarm.any()
    portions, cuts = DriftMonitor(calibration, 500, seed=1), [1, 2, 40, 41, 700, 1500]
    steps = [portions.update(part) for part in np.split(scores, cuts)]
    for name in ("p_value", "drift", "alarm", "direction"):
        joined = np.concatenate([getattr(step, name) for step in steps])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert DriftMonitor(calibration, 500, seed=2).update(scores).p_value[0] != whole.p_value[0]


def test_extreme_scores_and_rates_stay_numbers() -> None:
    scores = np.array([np.inf, 1e308, -np.inf] * 400)
    for every in (1, 10**400):
        steps = DriftMonitor(np.zeros(50), every).update(scores)
        assert np.isfinite(steps.drift).all()
        assert steps.alarm.any()  # they are as far out as can be
    assert np.isfinite(DriftMonitor(np.zeros(1), 10**400).update(scores).drift).all()


def test_mistakes_are_named() -> None:
    with mistake("not-fitted", "there are no calibration scores: fit"):
        DriftMonitor(np.empty(0))
    with mistake("bad-scores", "a score is NaN"):
        DriftMonitor(np.array([np.nan]))
    with mistake("bad-option", "every 0 images"):
        DriftMonitor(np.zeros(3), 0)
    monitor, untouched = DriftMonitor(np.arange(9.0)), DriftMonitor(np.arange(9.0))
    with mistake("bad-scores"):
        monitor.update(np.array([1.0, np.nan]))
    np.testing.assert_array_equal(
        monitor.update(np.ones(3)).drift, untouched.update(np.ones(3)).drift
    )
