"""The audit against closed forms, scores drawn at random and an independent search."""

import math
from typing import Any

import numpy as np
import pytest

from approxmass.evaluation.metrics import (
    aupr_id_positive,
    aupr_ood_positive,
    auroc,
    tnr95_id_positive,
)
from approxmass.paper.audit import GRID_ERROR, audit, aupr_range, auroc_range, judge
from approxmass.paper.published import TABLE2, Row


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return audit()


@pytest.mark.parametrize("area", [0.3, 0.5, 0.647, 0.9, 0.968, 0.994])
def test_without_a_point_the_largest_area_has_a_closed_form(area: float) -> None:
    found = aupr_range(area)
    assert found is not None
    assert found[1] == pytest.approx(1 - math.log(2 / (1 + area)), abs=1e-9)
    kappa = 0.2  # one negative to five positives
    skewed = aupr_range(area, kappa=kappa)
    assert skewed is not None
    closed = 1 - kappa * math.log((1 + kappa) / (area + kappa))
    assert skewed[1] == pytest.approx(closed, abs=1e-9)


def test_the_least_area_is_attained_and_not_undercut() -> None:
    # x(t) = (sqrt(t / m) - t) where it grows, then flat, solves the programme without a point.
    found = aupr_range(0.8)
    assert found is not None
    t = (np.arange(200_000) + 0.5) / 200_000
    best = math.inf
    for m in np.geomspace(0.05, 20, 4000):
        x = np.maximum.accumulate(np.clip(np.sqrt(t / m) - t, 0, 1))[::50]
        if abs(x.mean() - 0.2) < 2e-4:
            best = min(best, float((t[::50] / (t[::50] + x)).mean()))
    assert found[0] == pytest.approx(best, abs=2e-3)


def test_no_scores_ever_leave_the_ranges() -> None:
    """Random score lists of every shape lie inside what the audit allows them."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = 4000
        inside = rng.normal(0, 1, n)
        away = rng.uniform(0, 4)
        outside = rng.normal(away, rng.uniform(0.2, 3), n)
        odd = rng.random(n) < rng.choice([0.0, 0.1, 0.5])
        outside[odd] = rng.normal(rng.uniform(-3, 6), 0.1, odd.sum())
        area, tnr = auroc(inside, outside), tnr95_id_positive(inside, outside)
        low, high = auroc_range(tnr)
        assert low - 1e-3 <= area <= high + 1e-3
        for value, at, through in (
            (aupr_id_positive(inside, outside), 0.95, 1 - tnr),
            (aupr_ood_positive(inside, outside), tnr, 0.05),
        ):
            allowed = aupr_range(area, at, through)
            assert allowed is not None
            slack = 2e-3 + GRID_ERROR  # of 4,000 scores against a curve
            assert allowed[0] - slack <= value <= allowed[1] + slack


def test_an_area_and_a_point_that_cannot_be_together() -> None:
    assert aupr_range(0.647, 0.95, 1 - 0.872) is None
    assert auroc_range(0.872)[0] > 0.647
    assert judge(Row("m", "a", "b", 0.647, 0.9, 0.872)).verdict.startswith("impossible: TNR")


# AUPR ranges worked out independently before this code was written, by another search.
EARLIER = {
    ("approximate mass", "SVHN"): ((0.889, 0.985), (0.977, 0.985), (0.890, 0.957)),
    ("approximate mass", "DTD"): ((0.914, 0.989), (0.981, 0.989), (0.913, 0.974)),
    ("approximate mass", "iNaturalist"): ((0.887, 0.984), (0.950, 0.984), (0.888, 0.964)),
    ("approximate mass", "iNaturalist (plants)"): ((0.887, 0.984), (0.940, 0.984), (0.888, 0.968)),
    ("approximate mass", "MNIST"): ((0.967, 0.997), (0.991, 0.997), (0.967, 0.995)),
    ("approximate mass", "Places365"): ((0.887, 0.984), (0.906, 0.984), (0.888, 0.979)),
    ("Energy", "iNaturalist (plants)"): ((0.486, 0.769), (0.491, 0.756), (0.500, 0.703)),
    ("Energy", "DTD"): ((0.582, 0.858), (0.588, 0.824), (0.650, 0.833)),
    ("Energy", "Places365"): ((0.597, 0.869), (0.610, 0.854), (0.629, 0.820)),
    ("Energy", "GTSRB"): ((0.744, 0.944), (0.758, 0.928), (0.790, 0.931)),
    ("Energy", "EMNIST"): ((0.952, 0.995), (0.957, 0.994), (0.957, 0.994)),
    ("Energy", "KMNIST"): ((0.922, 0.991), (0.930, 0.989), (0.929, 0.989)),
}


@pytest.mark.slow
def test_the_ranges_are_those_of_an_independent_search(facts: dict[str, Any]) -> None:
    rows = {(each["row"]["method"], each["row"]["ood"]): each for each in facts["rows"]}
    for key, expected in EARLIER.items():
        for name, values in zip(("any", "same", "opposite"), expected, strict=True):
            assert rows[key][name] == pytest.approx(values, abs=2e-3), (key, name)


def test_which_rows_cannot_be(facts: dict[str, Any]) -> None:
    impossible = {
        (each["row"]["method"], each["row"]["ood"])
        for each in facts["rows"]
        if each["verdict"].startswith("impossible")
    }
    assert impossible == {
        *(("approximate mass", ood) for ood in ("SVHN", "GTSRB", "DTD", "EMNIST")),
        ("approximate mass", "iNaturalist (plants)"),
        *(("Energy", ood) for ood in ("iNaturalist", "iNaturalist (plants)", "DTD", "Places365")),
        *(("Energy", ood) for ood in ("GTSRB", "EMNIST", "KMNIST")),
    }
    only = {
        each["row"]["ood"]: each["possible"]
        for each in facts["rows"]
        if each["verdict"].startswith("only")
    }
    assert only == {"iNaturalist": ["opposite"], "MNIST": ["opposite"]}
    assert len(facts["rows"]) == len(TABLE2) == 36


def test_which_rows_another_balance_explains(facts: dict[str, Any]) -> None:
    at = {
        method: {
            share: {r["row"]["ood"] for r in facts["rows"] if r["row"]["method"] == method}
            - {
                r["row"]["ood"]
                for r in facts["rows"]
                if r["row"]["method"] == method and r["possible_at"][share]
            }
            for share in ("5/6", "0.12")
        }
        for method in ("approximate mass", "Energy")
    }
    # Outliers for which the row stays impossible.
    assert at["approximate mass"]["0.12"] == set()
    assert at["Energy"]["5/6"] == {"iNaturalist"}


def test_which_averages_do_not_recompute(facts: dict[str, Any]) -> None:
    found = {(each["method"], each["claim"]): each["verdict"] for each in facts["averages"]}
    wrong = {key for key, verdict in found.items() if verdict == "does not recompute"}
    assert wrong == {("Energy", 84.0), ("Energy", 79.44)}
    edge = {key for key, verdict in found.items() if verdict.startswith("only if")}
    assert edge == {("Mahalanobis", 83.8), ("OCGAN", 65.7)}
    truncated = {key for key, verdict in found.items() if verdict.startswith("truncated")}
    assert truncated == {("approximate mass", 98.7), ("approximate mass", 75.2)}
    gain = facts["improvement"]
    assert gain["relative_percent"] == pytest.approx(15.9, abs=0.05)
    assert gain["points"] == pytest.approx(13.4, abs=0.05)
