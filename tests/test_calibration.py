import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from approxmass.calibration import (
    RealisedRate,
    benjamini_hochberg,
    called,
    called_ranks,
    check_control,
    check_rate,
    discoveries_need,
    fold_bound,
    fold_p_values,
    p_values,
    realised_rate,
    smallest_p_value,
    threshold,
    tied,
    with_tolerance,
)
from approxmass.rank_sum import group_p_value, rank_sum_p_values
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


@pytest.mark.parametrize(("n", "m"), [(40, 8), (9, 9), (30, 9), (113, 9), (28, 20), (113, 20)])
def test_no_group_p_value_is_below_the_exact_one(n: int, m: int) -> None:
    # The number of pairs in which the group is ahead: partitions, by the product of Mann & Whitney.
    law = np.eye(1, n * m + 1)[0]
    for i in range(1, m + 1):
        law[n + i :] -= law[: -(n + i)].copy()
        for start in range(i):
            law[start::i] = np.cumsum(law[start::i])
        law *= i / (n + i)
    assert law.sum() == pytest.approx(1)
    exact, calibration = np.cumsum(law[::-1])[::-1], np.arange(float(n))
    for ahead in np.linspace(0.4 * n * m, 0.99 * n * m, 60).astype(int):
        full, rest = divmod(int(ahead), n)
        scores = np.repeat([n - 0.5, rest - 0.5, -0.5], [full, 1, m])[:m]
        p = group_p_value(calibration, scores)
        assert p >= exact[ahead] - 1e-9
        assert p <= 1.06 * exact[ahead] or exact[ahead] < 0.05  # and it is not merely large


def test_rank_sums_of_groups_are_exact_to_eight_and_then_the_raised_normal_law() -> None:
    generator = np.random.default_rng(0)
    for n, m in ((8, 30), (30, 8), (9, 9), (40, 25)):
        calibration, scores = generator.normal(size=(3, n)), generator.normal(0.4, 1, (3, m))
        found = rank_sum_p_values(calibration, scores)
        ahead = (scores[:, :, None] > calibration[:, None]).sum((1, 2))
        if min(n, m) == 8:
            law = stats.mannwhitneyu(
                scores, calibration, axis=1, alternative="greater", method="exact"
            ).pvalue
        else:
            deviation = np.sqrt(n * m * (n + m + 1) / 12)
            law = stats.norm.sf((ahead - n * m / 2 - 0.5) / deviation)
            law *= 1 + 0.17 * (1 / n + 1 / m)
        assert found == pytest.approx(law, rel=1e-9)
    lowest = rank_sum_p_values(np.arange(100.0, 150.0), np.arange(50.0))
    assert lowest == 1.0


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
    # The tolerance takes a share of the rate: of normal scores less than can be seen here.
    limits = [threshold(generator.normal(size=n), rate) for _ in range(4000)]
    beyond = stats.norm.sf(limits)
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


# By hand, at equality and beyond ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "spread"),
    [
        (range(101), 80.0),  # from the 10th to the 90th percentile
        (range(-150, -49), 80.0),
        ((7.0, 7.0, 8.0, 7.0), 20 * 8.0),  # half of them are as the next: 20 times 1 + 7
        ((-7.0, -7.0, -8.0, -7.0), 20 * 8.0),
        ((7.0, 7.0, 8.0, 7.0, 9.0), 8.6 - 7),  # fewer than half
        ([0.0] * 6 + [1000.0] * 4, 1000.0),  # more than 20 times 1 + 0
        ((3.0,), 0.0),
    ],
)
def test_the_tolerance_by_hand(scores: list[float], spread: float) -> None:
    values = np.random.default_rng(0).permutation(np.array(scores, float))
    ordered = np.array(sorted(scores))
    expected = ordered + 0.001 * spread + 1e-5 * abs(ordered)
    np.testing.assert_allclose(with_tolerance(values), expected, rtol=1e-12)
    # A score that far above all is still reached by the largest; the next number is not.
    largest = with_tolerance(values)[-1]
    smallest = 1 / (1 + len(values))
    reached = p_values(values, np.array([largest, np.nextafter(largest, np.inf)]))
    assert reached[0] > smallest
    assert reached[1] == smallest
    assert with_tolerance(np.empty(0)).shape == (0,)


def test_scores_are_of_one_image_up_to_a_millionth() -> None:
    values = np.array([5.0, -1e-6, 3.0, 0.0, 5.0, 9.0, 5.0, -4.0, -4.0 + 3e-6])
    scores, tolerance = tied(values)
    # Of -4 and the next 3 millionths of 5 are not enough, and of 0 exactly one is.
    ordered = np.sort(values)
    np.testing.assert_array_equal(scores, [-4.0, -1e-6, 5.0])
    expected = (with_tolerance(values) - ordered)[[0, 2, 5]]
    np.testing.assert_array_equal(tolerance, expected)
    apart, _ = tied(np.array([1.0, 2.0, 2.0 + 3.1e-6, 3.0]))
    assert apart.shape == (0,)
    for few in ([], [1.0]):
        assert [len(each) for each in tied(np.array(few))] == [0, 0]


def test_infinite_scores_have_places_and_numbers_that_are_none_have_not() -> None:
    calibration = np.arange(9.0)
    assert p_values(calibration, np.array([np.inf, -np.inf])).tolist() == [0.1, 1.0]
    for bad in ((calibration, np.array([0.0, np.nan])), (np.r_[calibration, np.nan], np.zeros(2))):
        with mistake("bad-scores", "NaN"):
            p_values(*bad)
        with mistake("bad-scores", "NaN"):
            group_p_value(*bad)


def test_p_values_by_folds_by_counting() -> None:
    generator = np.random.default_rng(3)
    calibration = generator.integers(0, 12, 31).astype(float)
    fold = generator.permutation(31) % 3
    scores = generator.integers(-2, 14, (3, 50)) + generator.choice([0.0, 1e-7], (3, 50))
    for i, p in enumerate(fold_p_values(calibration, fold, scores)):
        reached = sum(
            int((with_tolerance(calibration[fold == k]) >= scores[k, i]).sum()) for k in range(3)
        )
        assert p == (1 + reached) / 32
    one = fold_p_values(calibration, np.zeros(31, int), scores[:1])
    np.testing.assert_allclose(one, p_values(calibration, scores[0]))
    with mistake("not-fitted"):
        fold_p_values(calibration, np.zeros(31, int), scores)


def test_the_bound_of_folds_by_hand() -> None:
    assert fold_bound(0.05, 300, 4) == pytest.approx(2 * 0.05 + 2 * 3 / 304)
    assert fold_bound(0.2, 30, 2) == pytest.approx(0.4 + 2 / 32)
    assert fold_bound(0.9, 30, 2) == 1.0
    assert fold_bound(0.3, 30, 1) == 0.3


def test_ranks_and_rates_at_equality() -> None:
    assert [called_ranks(n, 0.05) for n in (18, 19, 20, 38, 39, 98, 99)] == [0, 1, 1, 1, 2, 4, 5]
    for n, rate in ((19, 0.05), (99, 0.01), (1, 0.5), (3, 0.25)):
        check_rate(rate, n)
        with mistake("rate", f"at least {n} calibration images"):
            check_rate(rate, n - 1)
    with mistake("rate", "of 0.05 needs at least 19 calibration images: fit on more images or"):
        check_rate(0.05, 9)
    with mistake("rate", "ask for at least 0.1"):
        check_rate(0.05, 9)
    with mistake("rate", "at least 999999999999 "):
        check_rate(1e-300, 9)
    for none in (0, 1, 0.0, 1.0, -0.1, 1.1, float("nan"), "0.1", None, True):
        with mistake("rate", f"in (0, 1), not {none!r}"):
            check_rate(none, 10**6)  # type: ignore[arg-type]
    assert threshold(np.arange(18.0), 0.05) == np.inf
    assert smallest_p_value(np.zeros(4)) == 0.2


def test_the_realised_rate_by_its_law_and_in_words() -> None:
    found = realised_rate(99, 0.05)
    law = stats.beta(5, 95)
    assert found == RealisedRate(0.05, 0.05, *law.ppf([0.025, 0.975]).tolist())
    assert realised_rate(99) == found
    assert type(found.low) is type(found.high) is float
    words = str(RealisedRate(0.05, 0.049, 0.0163, 0.0996))
    expected = "4.9% on average over fits; of this detector 1.6% to 10.0%, with 95% probability"
    assert words == expected


def test_benjamini_and_hochberg_by_their_steps_and_at_equality() -> None:
    assert benjamini_hochberg(np.array([0.25]), 0.25).tolist() == [True]
    assert benjamini_hochberg(np.array([0.25]), 0.2499).tolist() == [False]
    # Two of four at 2/4 of the rate: the larger takes the smaller with it.
    assert benjamini_hochberg(np.array([0.125, 0.125, 1.0, 0.5]), 0.25).tolist() == [
        True,
        True,
        False,
        False,
    ]
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.integers(1, 65, 8) / 64
        ordered = np.sort(p)
        steps = np.flatnonzero(ordered <= 0.25 * np.arange(1, 9) / 8)
        limit = ordered[steps[-1]] if len(steps) else -1.0
        np.testing.assert_array_equal(benjamini_hochberg(p, 0.25), p <= limit)
    none = benjamini_hochberg(np.empty(0), 0.1)
    assert (none.shape, none.dtype) == ((0,), bool)


def test_called_at_equality_and_by_what() -> None:
    p = np.array([0.25, 0.125, 1.0, 0.5])
    assert called(p, 0.25, "image", 7).tolist() == [True, True, False, False]
    assert called(p, 0.5, "discoveries", 7).tolist() == [True, True, False, False]
    for made in (lambda: check_control("fdr"), lambda: called(p, 0.25, "fdr", 7)):  # type: ignore[arg-type]
        with mistake("bad-option", "not 'fdr'"):
            made()


def test_the_warning_counts() -> None:
    with pytest.warns(UserWarning, match="calls none") as caught:
        called(np.r_[np.full(1200, 0.5), 0.1, 0.1], 0.05, "discoveries", 9)
    assert str(caught[0].message) == (
        "control='discoveries' calls none of 1,202 images: 2 are further out than all 9 "
        "calibration images, and to call so few at a rate of 0.05 takes 12,019 calibration "
        "images: fit on more images, or decide with control='image'"
    )


def test_the_warning_names_the_line_that_decided() -> None:
    def predict() -> None:  # as the method of a detector
        called(np.array([0.1, 0.9]), 0.05, "discoveries", 9)

    with pytest.warns(UserWarning, match="calls none") as caught:
        predict()
    assert caught[0].filename == __file__
    line = caught[0].lineno
    assert line == test_the_warning_names_the_line_that_decided.__code__.co_firstlineno + 5


def test_discoveries_need_at_least_one_calibration_score() -> None:
    assert discoveries_need(1, 1, 0.9) == 1
    assert discoveries_need(1, 1, 0.5) == 1
    assert discoveries_need(1, 1, 0.25) == 3


@pytest.mark.parametrize(("n", "m"), [(4, 2), (3, 3), (6, 2), (2, 4)])
def test_small_groups_have_the_p_value_of_all_orders(n: int, m: int) -> None:
    generator = np.random.default_rng(n)
    # Pairs of a group's score beyond a calibration score, over all places of the group.
    orders = [
        sum(c < g for g in group for c in range(n + m) if c not in group)
        for group in itertools.combinations(range(n + m), m)
    ]
    for _ in range(20):
        calibration = generator.integers(0, 6, n).astype(float)
        # Ties count against an alarm, to the last bit of the tolerance.
        some = [generator.integers(0, 8, 50), with_tolerance(calibration)]
        scores = generator.choice(np.concatenate(some[generator.integers(2) :]), m)
        beyond = int((scores[:, None] > with_tolerance(calibration)).sum())
        expected = np.mean([each >= beyond for each in orders])
        found = group_p_value(calibration, scores)
        assert type(found) is float
        assert found == pytest.approx(expected)
    # Of one image the exact one, with ties.
    assert group_p_value(np.array([1.0, 2.0, 2.0]), np.array([2.0])) == 3 / 4


def test_a_group_of_none_is_refused() -> None:
    with mistake("too-few", "a group needs at least one image"):
        group_p_value(np.arange(9.0), np.empty(0))


def test_what_is_beyond_all_is_counted() -> None:
    p = np.array([0.01, 0.02, 0.3, 0.7, 0.9])
    with pytest.warns(UserWarning, match="1 are further out than all 99"):
        called(p, 0.01, "discoveries", 99)


def test_what_is_missing_and_what_would_do_is_said() -> None:
    with mistake("not-fitted", "there are no calibration scores"):
        p_values(np.empty(0), np.ones(2))
    with mistake("rate", f"ask for at least {1 / 41:.2g}"):
        check_rate(0.01, 40)
