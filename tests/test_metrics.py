"""Metrics against scikit-learn, closed forms and the bounds that any true triple must obey."""

import itertools
import json
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from approxmass.evaluation.intervals import Interval
from approxmass.evaluation.metrics import (
    Metrics,
    aupr_id_positive,
    aupr_ood_positive,
    auroc,
    fpr95_ood_positive,
    group_means,
    ood_metrics,
    tnr95_id_positive,
)
from conftest import mistake

PLAIN = {
    "auroc": auroc,
    "aupr_id_positive": aupr_id_positive,
    "aupr_ood_positive": aupr_ood_positive,
    "tnr95_id_positive": tnr95_id_positive,
    "fpr95_ood_positive": fpr95_ood_positive,
}


def intervals(metrics: Metrics) -> dict[str, Interval]:
    return {name: getattr(metrics, name) for name in PLAIN}


def _pairs(elements, most=70):
    one = st.lists(elements, min_size=1, max_size=most).map(lambda v: np.array(v, dtype=float))
    return st.tuples(one, one)


TIED = _pairs(st.integers(-4, 4))
FREE = _pairs(st.floats(-1e6, 1e6))
PAIRS = st.one_of(TIED, FREE)


@st.composite
def gaussians(draw):
    """Larger classes than lists reach, so that the 95% points lie between two of many scores."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_id, n_ood = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    scale = draw(st.sampled_from([1.0, 10.0, 1e9]))  # rounded: coarse, fine and no ties
    shift = draw(st.floats(-3, 3))
    return (
        np.round(scale * rng.normal(size=n_id)) / scale,
        np.round(scale * rng.normal(shift, size=n_ood)) / scale,
    )


def share_taken_at_95(is_positive, score):
    """First point of the full ROC curve with a true-positive rate of at least .95."""
    wrong, right, _ = roc_curve(is_positive, score, drop_intermediate=False)
    return wrong[np.flatnonzero(right >= 0.95)[0]]


# Against scikit-learn --------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.one_of(PAIRS, gaussians()))
def test_scikit_learn_agrees(pair):
    ids, oods = pair
    score = np.concatenate(pair)
    is_ood = np.repeat([0, 1], [ids.size, oods.size])
    expected = {
        "auroc": roc_auc_score(is_ood, score),
        "aupr_id_positive": average_precision_score(1 - is_ood, -score),
        "aupr_ood_positive": average_precision_score(is_ood, score),
        "tnr95_id_positive": 1 - share_taken_at_95(1 - is_ood, -score),
        "fpr95_ood_positive": share_taken_at_95(is_ood, score),
    }
    assert {name: f(ids, oods) for name, f in PLAIN.items()} == pytest.approx(expected, abs=1e-12)


# Facts of the definitions ----------------------------------------------------------------------


def test_larger_score_is_more_ood():
    low, high = np.arange(40.0), np.arange(40.0) + 100
    assert [f(low, high) for f in PLAIN.values()] == [1, 1, 1, 1, 0]
    reversed_scores = [f(high, low) for f in (auroc, tnr95_id_positive, fpr95_ood_positive)]
    assert reversed_scores == [0, 0, 1]


def test_all_tied_scores_have_no_skill():
    got = [f(np.zeros(30), np.zeros(10)) for f in PLAIN.values()]
    assert got == [0.5, 0.75, 0.25, 0, 1]


def test_95_percent_is_reached_at_exactly_19_of_20():
    ids = np.arange(20.0)  # 18 is the 19th
    assert tnr95_id_positive(ids, np.array([18.0, 18.5])) == 0.5
    oods = np.arange(20.0)  # 1 is the 19th from above
    assert fpr95_ood_positive(np.array([0.5, 1.0]), oods) == 0.5


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_swapping_or_negating_mirrors_every_metric(pair):
    a, b = pair
    assert auroc(a, b) == pytest.approx(1 - auroc(b, a), abs=1e-15)
    assert auroc(a, b) == auroc(-b, -a)
    assert aupr_id_positive(a, b) == aupr_ood_positive(-b, -a)
    assert tnr95_id_positive(a, b) == pytest.approx(1 - fpr95_ood_positive(-b, -a), abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(_pairs(st.integers(-1000, 1000)))
def test_only_the_order_of_scores_matters(pair):
    # Exact in float64 for these integers, so that no tie is made or lost.
    mapped = [v**3 + 5 * v for v in pair]
    for f in PLAIN.values():
        assert f(*mapped) == f(*pair)


def test_scores_closer_than_float32_resolves_stay_distinct():
    assert auroc(np.array([1.0]), np.array([1.0 + 1e-15])) == 1


# Bounds between the metrics --------------------------------------------------------------------


def largest_tie(v):
    """Largest share of `v` that sits on one score."""
    return np.unique(v, return_counts=True)[1].max() / v.size


@settings(max_examples=200, deadline=None)
@given(st.one_of(PAIRS, gaussians()))
def test_auroc_bounds_from_the_95_percent_points(pair):
    # The ROC curve lies at or above .95 right of the 95% point and strictly below .95 left of it,
    # so .95 T <= AUROC <= 1 - .05 (1 - T) holds for finite curves without slack. Scores shared by
    # both classes break only the upper one: their slanted segment may overshoot .95 before the
    # point, by a triangle of at most half of (share of positives) x (share of negatives) tied.
    ids, oods = pair
    triangle = max((np.mean(ids == s) * np.mean(oods == s) for s in np.unique(ids)), default=0) / 2
    area = auroc(ids, oods)
    for t in (tnr95_id_positive(ids, oods), 1 - fpr95_ood_positive(ids, oods)):
        assert 0.95 * t - 1e-12 <= area <= 1 - 0.05 * (1 - t) + triangle + 1e-12


@settings(max_examples=200, deadline=None)
@given(st.one_of(PAIRS, gaussians()))
def test_aupr_bound_from_auroc(pair):
    # For a continuous curve the best AUPR at a given AUROC A has the top A of the positives ahead
    # of everything and the rest behind everything: an integral that gives the logarithm below.
    # Average precision is a sum of right-hand end points instead. It exceeds the integral of that
    # (convex) tail by no more than the trapezoid rule's half step: share * w / 2, with w the
    # largest share of positives on one score. Untied: 1 / (2 (n_id + n_ood)), so O(1/n).
    ids, oods = pair
    area = auroc(ids, oods)
    for aupr, positive, negative in (
        (aupr_id_positive(ids, oods), ids, oods),
        (aupr_ood_positive(ids, oods), oods, ids),
    ):
        kappa = negative.size / positive.size
        bound = 1 - kappa * np.log((1 + kappa) / (area + kappa))
        slack = largest_tie(positive) / (2 * (1 + kappa))
        assert aupr <= bound + slack + 1e-12


def test_aupr_bound_is_met_by_the_curve_that_attains_it():
    # 600 OOD above all ID, 400 below: AUROC .6, balanced bound 1 - ln(2 / 1.6).
    ids, oods = np.linspace(-1, 1, 1000), np.repeat([2.0, -2.0], [600, 400])
    oods = oods + np.linspace(0, 0.5, 1000)
    assert auroc(ids, oods) == 0.6
    bound = 1 - np.log(2 / 1.6)
    assert bound < aupr_ood_positive(ids, oods) <= bound + 1 / 4000


# Closed forms ----------------------------------------------------------------------------------


def auroc_error(area, n):
    """Largest possible standard error of AUROC (Birnbaum & Klose, 1957): sqrt(A (1 - A) / n)."""
    return np.sqrt(area * (1 - area) / n)


@pytest.mark.parametrize("d", [0.0, 0.5, 1.0, 2.5])
def test_two_gaussians(d):
    n, rng = 20_000, np.random.default_rng(1)
    ids, oods = rng.normal(0, 1, n), rng.normal(d, 1, n)
    area = norm.cdf(d / np.sqrt(2))
    assert auroc(ids, oods) == pytest.approx(area, abs=4 * auroc_error(area, n))
    # P(N(d, 1) > z) at z = the .95 quantile of N(0, 1); its error has two parts: that of the
    # quantile, times the density there, and the binomial one.
    z = norm.ppf(0.95)
    t = norm.cdf(d - z)
    ratio = norm.pdf(z - d) / norm.pdf(z)
    error = np.sqrt((0.95 * 0.05 * ratio**2 + t * (1 - t)) / n)
    assert tnr95_id_positive(ids, oods) == pytest.approx(t, abs=4 * error)
    assert fpr95_ood_positive(ids, oods) == pytest.approx(1 - t, abs=4 * error)


# Balanced and natural classes ------------------------------------------------------------------


@pytest.mark.parametrize(("n_id", "n_ood"), [(4000, 1000), (1000, 4000)])
def test_balancing_changes_aupr_and_nothing_else(n_id, n_ood):
    rng = np.random.default_rng(2)
    ids, oods = rng.normal(0, 1, n_id), rng.normal(0, 1, n_ood)
    balanced = ood_metrics(ids, oods)
    natural = ood_metrics(ids, oods, balanced=False)
    assert (balanced.n_id, balanced.n_ood, balanced.balanced) == (1000, 1000, True)
    assert (natural.n_id, natural.n_ood, natural.balanced) == (n_id, n_ood, False)
    # Without skill, AUPR is the share of its positive class.
    share = n_id / (n_id + n_ood)
    assert balanced.aupr_id_positive.value == pytest.approx(0.5, abs=0.03)
    assert balanced.aupr_ood_positive.value == pytest.approx(0.5, abs=0.03)
    assert natural.aupr_id_positive.value == pytest.approx(share, abs=0.03)
    assert natural.aupr_ood_positive.value == pytest.approx(1 - share, abs=0.03)
    for name in ("auroc", "tnr95_id_positive", "fpr95_ood_positive"):
        a, b = intervals(balanced)[name].value, intervals(natural)[name].value
        assert a == pytest.approx(b, abs=0.01), name


def test_natural_and_equal_classes_give_the_plain_values():
    rng = np.random.default_rng(3)
    ids, oods = rng.normal(0, 1, 90), rng.normal(1, 1, 40)
    natural = ood_metrics(ids, oods, balanced=False)
    equal = ood_metrics(ids[:40], oods)
    for name, f in PLAIN.items():
        assert intervals(natural)[name].value == f(ids, oods)
        assert intervals(equal)[name].value == f(ids[:40], oods)


@pytest.mark.parametrize("flip", [False, True])
def test_balanced_value_is_the_mean_over_all_subsets(flip):
    large, small = np.array([0.0, 2.0, 4.0]), np.array([1.0, 3.0])
    order = -1 if flip else 1  # the larger class first ID, then OOD
    metrics = ood_metrics(*(large, small)[::order], repeats=20_000)
    for name, f in PLAIN.items():
        subsets = [f(*(np.array(s), small)[::order]) for s in itertools.combinations(large, 2)]
        # Four standard errors, .004 for AUPR; drawn with replacement it would be off by .009
        # (worked out by hand: 19/27 against 25/36).
        assert intervals(metrics)[name].value == pytest.approx(
            np.mean(subsets), abs=4 * np.std(subsets) / np.sqrt(20_000) + 1e-12
        )


# Intervals (how often they cover: test_intervals.py) -------------------------------------------


@settings(max_examples=50, deadline=None)
@given(PAIRS, st.booleans())
def test_intervals_contain_their_value_and_stay_in_range(pair, balanced):
    metrics = ood_metrics(*pair, balanced=balanced, repeats=3)
    for name, i in intervals(metrics).items():
        assert 0 <= i.low <= i.value <= i.high <= 1, name
        assert i.low < i.high, name


def test_seed_fixes_the_subsamples_and_nothing_else():
    rng = np.random.default_rng(6)
    ids, oods = rng.normal(0, 1, 300), rng.normal(1, 1, 100)
    first, other = (ood_metrics(ids, oods, seed=seed) for seed in (1, 2))
    assert ood_metrics(ids, oods, seed=1) == first
    assert other.auroc.value != first.auroc.value
    assert (other.auroc.low, other.auroc.high) == (first.auroc.low, first.auroc.high)


def test_balancing_changes_the_interval_of_aupr_alone():
    rng = np.random.default_rng(5)
    ids, oods = rng.normal(0, 1, 4000), rng.normal(1, 1, 250)
    balanced, natural = ood_metrics(ids, oods), ood_metrics(ids, oods, balanced=False)
    for name in ("auroc", "tnr95_id_positive", "fpr95_ood_positive"):
        one, other = intervals(balanced)[name], intervals(natural)[name]
        assert (one.low, one.high) == (other.low, other.high), name
    assert natural.aupr_id_positive.low > balanced.aupr_id_positive.high
    assert natural.aupr_ood_positive.high < balanced.aupr_ood_positive.low


def test_as_dict_survives_json():
    rng = np.random.default_rng(7)
    metrics = ood_metrics(rng.normal(0, 1, 30), rng.normal(1, 1, 20))
    back = json.loads(json.dumps(metrics.as_dict()))
    rebuilt = Metrics(**{k: Interval(**v) if k in PLAIN else v for k, v in back.items()})
    assert astuple(rebuilt) == astuple(metrics)


# Groups ----------------------------------------------------------------------------------------


def test_groups_of_32_raise_auroc_to_the_closed_form():
    n, d, rng = 64_000, 0.2, np.random.default_rng(8)
    ids, oods = rng.normal(0, 1, n), rng.normal(d, 1, n)
    area = norm.cdf(d * np.sqrt(32) / np.sqrt(2))
    got = auroc(group_means(ids, 32), group_means(oods, 32))
    assert got == pytest.approx(area, abs=4 * auroc_error(area, n // 32))
    assert auroc(ids, oods) < 0.57 < 0.75 < got


def test_each_score_enters_at_most_one_group():
    # The bits of a sum of distinct powers of two say which scores are in it.
    sums = [int(4 * m) for m in group_means(2.0 ** np.arange(18), 4)]
    assert [s.bit_count() for s in sums] == [4, 4, 4, 4]
    assert sum(sums).bit_count() == 16


def test_groups_are_random_and_seeded():
    scores = np.arange(1000.0)
    assert np.array_equal(group_means(scores, 10, seed=3), group_means(scores, 10, seed=3))
    assert not np.array_equal(group_means(scores, 10, seed=3), group_means(scores, 10, seed=4))
    # Groups of neighbours would spread like the scores themselves (289); random ones do not.
    assert np.std(group_means(scores, 10)) < 150


def test_groups_of_one_are_the_scores_in_their_order():
    scores = np.array([3.0, 1.0, 2.0])
    means = group_means(scores, 1)
    assert np.array_equal(means, scores)
    means[0] = 0
    assert scores[0] == 3


# Errors ----------------------------------------------------------------------------------------

GOOD = np.array([1.0, 2.0])


@pytest.mark.parametrize("f", [*PLAIN.values(), ood_metrics], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "bad",
    [
        np.array([]),
        np.array([1.0, np.nan]),
        np.array([-np.inf, np.inf]),
        np.ones((2, 1)),
        np.array(1.0),
    ],
    ids=["empty", "nan", "infinite", "column", "scalar"],
)
def test_bad_scores_are_named(f, bad):
    for name, pair in (("id_scores", (bad, GOOD)), ("ood_scores", (GOOD, bad))):
        with mistake("bad-scores", f"{name} ") as info:
            f(*pair)
        assert str(info.value).startswith(name)


def test_no_repeats_are_refused_and_one_is_enough():
    with mistake("bad-option", "not 0"):
        ood_metrics(GOOD, GOOD, repeats=0)
    three = np.array([0.0, 1.0, 2.0])
    one = [f(three[[0, 1]], GOOD) for f in PLAIN.values()]
    seen = [ood_metrics(three, GOOD, repeats=1, seed=seed) for seed in range(20)]
    assert one in [[i.value for i in intervals(metrics).values()] for metrics in seen]


def test_what_is_not_asked_for_is_twenty_subsamples_of_seed_zero():
    rng = np.random.default_rng(9)
    ids, oods = rng.normal(0, 1, 60), rng.normal(1, 1, 30)
    assert ood_metrics(ids, oods) == ood_metrics(ids, oods, repeats=20, seed=0)
    assert ood_metrics(ids, oods) != ood_metrics(ids, oods, repeats=21, seed=0)
    assert ood_metrics(ids, oods) != ood_metrics(ids, oods, repeats=20, seed=1)
    np.testing.assert_array_equal(group_means(ids, 3), group_means(ids, 3, seed=0))
    assert not np.array_equal(group_means(ids, 3), group_means(ids, 3, seed=1))


@pytest.mark.parametrize("size", [0, 3])
def test_group_size_must_fit(size):
    with mistake("too-few", f"2, not {size}"):
        group_means(GOOD, size)


def test_a_group_may_be_of_all_and_its_mean_is_in_double_precision():
    scores = np.array([1.0, 1.0 + 2**-20, 1.0 + 2**-23], np.float32)
    means = group_means(scores, 3)
    assert means.dtype == np.float64
    assert means == pytest.approx([1 + (2**-20 + 2**-23) / 3], rel=1e-12)


def test_group_scores_must_be_finite():
    with mistake("bad-scores") as info:
        group_means(np.array([1.0, np.nan]), 1)
    assert str(info.value).startswith("scores hold 1 ")
