"""Intervals of the metrics: how often they cover, and what must hold of them for any scores."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from approxmass.evaluation.intervals import interval_text
from approxmass.evaluation.metrics import ood_metrics

ROOT = Path(__file__).parents[1]
NAMES = (
    "auroc",
    "aupr_id_positive",
    "aupr_ood_positive",
    "tnr95_id_positive",
    "fpr95_ood_positive",
)


@pytest.fixture
def coverage(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import interval_coverage

    return interval_coverage


def limits_of(ids, oods, **options):
    metrics = asdict(ood_metrics(np.asarray(ids, float), np.asarray(oods, float), **options))
    return {name: (metrics[name]["low"], metrics[name]["high"]) for name in NAMES}


# Coverage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "area", "n", "m"),
    [
        ("normal", 0.9985, 62, 62),  # the percentile bootstrap: 71% of AUROC
        ("t3", 0.99, 100, 100),
        ("narrow", 0.99, 31, 1000),  # the 95% point of 31 lies beyond the last in 20%
        ("rounded", 0.6, 300, 300),
    ],
)
def test_all_metrics_cover_at_hard_points(coverage, law, area, n, m):
    draws = 600
    found = coverage.point(law, area, n, m, False, draws)["coverage"]
    for metric in coverage.METRICS:
        assert found[metric] * draws >= binom.ppf(0.001, draws, 0.93), metric


def test_intervals_of_auroc_are_not_merely_wide(coverage):
    row = coverage.point("normal", 0.9, 300, 300, False, 500)
    assert row["width"]["AUROC"] < 1.1 * row["width"]["DeLong"]
    row = coverage.point("normal", 0.75, 1000, 1000, False, 100)
    assert row["width"]["AUROC"] == pytest.approx(row["width"]["DeLong"], rel=0.02)


def test_true_values_of_the_simulation(coverage):
    law = coverage.law_of("normal", 0.9)
    far = np.sqrt(2) * norm.ppf(0.9)
    area, _, _, tnr, fpr = coverage.truth(law, 0.5)
    assert area == pytest.approx(0.9, abs=1e-8)
    assert tnr == pytest.approx(norm.cdf(far - norm.ppf(0.95)), abs=1e-8)
    assert fpr == pytest.approx(1 - tnr, abs=1e-8)
    rng = np.random.default_rng(0)
    for name in coverage.LAWS:
        law = coverage.law_of(name, 0.9)
        ids, oods = law.scores(rng, 1, 100_000, 50_000)
        metrics = asdict(ood_metrics(ids[0], oods[0], balanced=False))
        seen = [metrics[each]["value"] for each in NAMES]
        # The 95% point of rounded scores may be one of two.
        some = slice(0, 3) if name == "rounded" else slice(None)
        assert seen[some] == pytest.approx(coverage.truth(law, 2 / 3)[some], abs=0.02), name


def test_the_committed_simulation_holds_the_promise(coverage):
    facts = json.loads((ROOT / "results" / "interval_coverage.json").read_text())
    for row in facts["rows"]:
        assert min(row["coverage"][metric] for metric in coverage.METRICS) >= 0.93, row


@pytest.mark.parametrize(
    ("law", "area", "n", "m", "balanced"),
    [
        ("normal", 0.6, 31, 31, True),
        ("rounded", 0.75, 62, 62, True),
        ("normal", 0.9999, 62, 62, True),
        ("narrow", 0.99, 31, 1000, False),
        ("wide", 0.97, 1000, 62, False),
        ("exponential", 0.9, 1000, 62, True),
    ],
)
def test_the_committed_simulation_is_of_these_intervals(coverage, law, area, n, m, balanced):
    facts = json.loads((ROOT / "results" / "interval_coverage.json").read_text())
    key = {"law": law, "auroc": area, "n_id": n, "n_ood": m, "balanced": balanced}
    (row,) = (row for row in facts["rows"] if key.items() <= row.items())
    found = coverage.point(law, area, n, m, balanced, row["draws"])
    for part in ("width", "true"):
        assert found[part] == pytest.approx(row[part], abs=2e-6)
    assert found["coverage"] == pytest.approx(row["coverage"], abs=1.1 / row["draws"])


# Closed forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 31, 300, 10_000])
def test_scores_all_told_apart_have_the_limit_of_clopper_and_pearson(n):
    limits = limits_of(np.arange(n), n + np.arange(n))
    exact = binomtest(n, n).proportion_ci(method="exact").low
    assert limits["auroc"] == (pytest.approx(exact, rel=1e-6), 1.0)
    if n >= 31:  # a first negative takes more from AUPR than its share
        assert limits["aupr_id_positive"][0] <= exact
    assert limits["aupr_id_positive"][1] == 1.0


@pytest.mark.parametrize("wrong", [1, 3, 20])
def test_lost_scores_beyond_all_others_are_binomial(wrong):
    # Some ID scores above every OOD score: AUROC is the share of the others, n and m unequal.
    ids = np.r_[np.zeros(60 - wrong), np.full(wrong, 9.0)]
    low, high = limits_of(ids, np.full(100_000, 5.0), balanced=False)["auroc"]
    exact = binomtest(60 - wrong, 60).proportion_ci(method="exact")
    assert low == pytest.approx(exact.low, abs=0.004)
    assert high == pytest.approx(exact.high, abs=0.004)


def test_the_share_at_a_sure_threshold_is_binomial():
    ids = np.arange(200_000) / 200_000  # the 95% point is known
    oods = np.r_[np.zeros(10), np.ones(30)]
    low, high = limits_of(ids, oods, balanced=False)["tnr95_id_positive"]
    exact = binomtest(30, 40).proportion_ci(method="wilsoncc")
    assert (low, high) == (pytest.approx(exact.low, abs=1e-3), pytest.approx(exact.high, abs=1e-3))


# For any scores --------------------------------------------------------------------------------

COARSE = st.lists(st.integers(-6, 6), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(COARSE, COARSE)
def test_no_interval_is_empty_and_order_is_all_that_counts(ids, oods):
    limits = limits_of(ids, oods, balanced=False)
    for low, high in limits.values():
        assert 0 <= low < high <= 1
    assert limits_of(np.exp(ids), np.exp(oods), balanced=False) == limits


@settings(max_examples=60, deadline=None)
@given(COARSE, COARSE)
def test_the_other_way_round(ids, oods):
    there = limits_of(ids, oods, balanced=False)
    back = limits_of(-np.array(oods), -np.array(ids), balanced=False)
    assert back["auroc"] == pytest.approx(there["auroc"], abs=1e-9)
    assert back["aupr_id_positive"] == pytest.approx(there["aupr_ood_positive"], abs=1e-9)
    low, high = there["tnr95_id_positive"]
    assert back["fpr95_ood_positive"] == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize("n", [31, 300])
def test_limits_rise_as_the_classes_part(n):
    rng = np.random.default_rng(0)
    ids, oods = rng.normal(size=n), rng.normal(size=n)
    found = [limits_of(ids, oods + far)["auroc"] for far in np.linspace(0, 8, 30)]
    low, high = np.transpose(found)
    assert np.all(np.diff(high) >= 0)
    # Towards none lost less is known of how much one loses, and the lower limit falls a little.
    best = low.argmax()
    assert best > 6
    assert np.all(np.diff(low[: best + 1]) >= 0)
    assert low[best] - low[-1] < 1.2 / n


def test_more_scores_make_intervals_narrower():
    rng = np.random.default_rng(1)
    ids, oods = rng.normal(size=3200), rng.normal(2, 1, 3200)
    widths = [
        [high - low for low, high in limits_of(ids[:n], oods[:n]).values()]
        for n in (50, 200, 800, 3200)
    ]
    assert np.all(np.diff(widths, axis=0) < 0)


def test_texts_of_limits_differ_where_limits_do():
    assert interval_text(0.5, 0.75) == "0.500-0.750"
    assert interval_text(0.99951, 1.0) == "0.9995-1.0000"
    assert interval_text(0.0, 0.0000012) == "0.000000-0.000001"
    assert interval_text(1.0, 1.0, ", ") == "1.000, 1.000"
