"""Whose scores new images are compared with: all together, by folds, by group; said and saved."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from approxmass.calibrated import GIVEN, ONE, Calibrated, CalibrationRun
from approxmass.calibration import fold_bound, fold_p_values, p_values, realised_rate
from conftest import mistake

DIGEST = "ab" * 32
MADE = "2026-05-31T12:34:56+00:00"


def held_out(n: int = 19, start: float = 0.0) -> Calibrated:
    scores = start + np.arange(n)
    return Calibrated(scores={"nll": scores, "fused": 2.0 * scores}, peaks=np.arange(3.0))


def folded() -> Calibrated:
    fold = np.arange(30) % 3
    return Calibrated(scores={"nll": np.arange(30.0)}, peaks=np.empty(0), fold=fold)


def run(per: str | None = None, left_out: int = 0, **groups: Calibrated) -> CalibrationRun:
    return CalibrationRun(
        made=MADE,
        source="usual",
        sha256=DIGEST,
        per=per,
        groups=groups or {ONE: held_out()},
        left_out=left_out,
    )


def two() -> CalibrationRun:
    return run("line", east=held_out(), west=held_out(25, start=100.0), left_out=4)


# One calibration -------------------------------------------------------------------------------


def test_p_values_are_by_the_named_statistic_and_by_every_fold() -> None:
    new = np.array([[3.5, 40.0, -1.0]])
    for name in ("nll", "fused"):
        expected = p_values(held_out().scores[name], new[0])
        np.testing.assert_array_equal(held_out().p_values(name, new), expected)
    assert (held_out().folds, held_out().count) == (1, 19)
    by_fold = folded()
    assert (by_fold.folds, by_fold.count) == (3, 30)
    new = np.random.default_rng(0).uniform(-5, 35, (3, 40))
    assert by_fold.fold is not None
    expected = fold_p_values(by_fold.scores["nll"], by_fold.fold, new)
    np.testing.assert_array_equal(by_fold.p_values("nll", new), expected)


def test_folds_of_three_by_counting() -> None:
    new = np.array([[4.0], [20.0], [30.0]])
    # At least 4 of 0, 3, ..., 27; at least 20 of 1, 4, ..., 28; none of 2, 5, ..., 29.
    assert folded().p_values("nll", new).tolist() == [(1 + 8 + 3 + 0) / 31]


def test_a_stream_is_compared_with_the_first_fold_alone() -> None:
    assert folded().streamed("nll").tolist() == list(range(0, 30, 3))
    assert held_out().streamed("fused").tolist() == list(range(0, 38, 2))


def test_what_is_known_of_the_rate_is_that_of_its_guarantee() -> None:
    expected = realised_rate(19, 0.1)
    facts = held_out().rate_facts(0.1)
    assert facts == {name: getattr(expected, name) for name in ("asked", "average", "low", "high")}
    assert held_out().rate_said(0.1) == str(expected)
    facts = folded().rate_facts(0.1)
    assert facts == {"asked": 0.1, "at_most_on_average": fold_bound(0.1, 30, 3)}
    # 2 * .1 + 2 * 2 / 33
    assert folded().rate_said(0.1) == (
        "near 10% by simulation; surely at most 32.1%, on average over fits"
    )
    for each in (held_out(), folded()):
        with mistake("rate", "at least 99"):
            each.rate_facts(0.01)
        with mistake("rate", "at least 99"):
            each.rate_said(0.01)


# Several, by group -----------------------------------------------------------------------------


def test_a_new_one_has_its_time_in_utc() -> None:
    groups = {ONE: held_out()}
    now = datetime.now(UTC)
    made = CalibrationRun.now("usual", DIGEST, groups)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made.made)
    assert timedelta(seconds=-1) <= datetime.fromisoformat(made.made) - now < timedelta(minutes=1)
    assert (made.source, made.sha256, made.per, made.left_out) == ("usual", DIGEST, None, 0)
    assert made.groups is groups
    other = CalibrationRun.now("usual", DIGEST, groups, "line", 7)
    assert (other.per, other.left_out) == ("line", 7)


def test_counts_of_all_and_of_the_fewest() -> None:
    assert (two().count, two().fewest) == (44, 19)
    assert (run().count, run().fewest) == (19, 19)


def test_each_group_has_its_own_and_one_for_all_has_no_groups() -> None:
    one = run()
    assert one.only is one.groups[ONE]
    groups = two()
    assert groups.of("west") is groups.groups["west"]
    alone = groups.alone("west")
    assert alone.only is groups.groups["west"]
    assert (alone.made, alone.sha256, alone.per) == (MADE, DIGEST, None)
    assert (alone.source, alone.left_out) == ("usual, line west", 0)
    with mistake("bad-group", "per line ('east', 'west')"):
        _ = groups.only
    with mistake("bad-group", "one calibration for all"):
        run().of("east")
    with mistake("bad-group", "what is given is of group 'north'"):
        groups.of("north")


def test_why_an_image_has_no_p_value() -> None:
    groups = two()
    assert groups.refusal("east") is None
    assert groups.refusal("north") == (
        "is of group 'north', for which nothing is calibrated (there is 'east', 'west'): "
        "calibrate with usual ones of it too"
    )
    none = groups.refusal(None)
    assert none == "is in no group: it has no value for line, and calibration is per line"
    folders = run("subfolder", a=held_out())
    none = folders.refusal(None)
    assert none == "is in no group: it has no subfolder, and calibration is per subfolder"
    with mistake("bad-group", "per group ('a')"):
        _ = run(GIVEN, a=held_out()).only
    many = run(GIVEN, **{f"g{i}": held_out() for i in range(5)})
    assert "(there is 'g0', 'g1', 'g2', 'g3', 'g4'):" in str(many.refusal("x"))
    for more in (1, 2):
        many = run(GIVEN, **{f"g{i}": held_out() for i in range(5 + more)})
        assert f"(there is 'g0', 'g1', 'g2', 'g3', 'g4' and {more} more):" in str(many.refusal("x"))


def test_rows_are_those_of_each_group_in_the_order_they_come() -> None:
    groups = two()
    rows = list(groups.rows(["west", "east", "west"], 3))
    assert [(name, at.tolist()) for name, _, at in rows] == [("west", [0, 2]), ("east", [1])]
    assert [found for _, found, _ in rows] == [groups.groups["west"], groups.groups["east"]]
    one = run()
    ((name, found, at),) = one.rows(None, 4)
    assert (name, found, at.tolist()) == (ONE, one.groups[ONE], [0, 1, 2, 3])
    ((name, found, at),) = groups.rows([], 0)  # no images still have all columns
    assert (name, found, at.tolist()) == ("east", groups.groups["east"], [])
    with mistake("bad-group", "2 groups for 3 scores"):
        list(groups.rows(["west", "east"], 3))
    with mistake("bad-group", "north"):
        list(groups.rows(["west", "north"], 2))
    with mistake("bad-group", "--for NAME"):
        list(groups.rows(None, 2))
    with mistake("bad-group", "leave the group out"):
        list(one.rows(["west"], 1))


def test_in_words() -> None:
    assert run().said() == "2026-05-31 12:34 UTC, 19 images of usual"
    assert two().said() == (
        "2026-05-31 12:34 UTC, 44 images of usual, per line: east 19, west 25; 4 copies left out"
    )
    assert ", per group: a 19" in run(GIVEN, a=held_out()).said()
    assert "1,200 images of usual" in run(None, **{ONE: held_out(1200)}).said()


# Saved -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made", [run(), two(), run(None, **{ONE: folded()}), run(GIVEN, a=folded())]
)
def test_what_is_saved_comes_back(made: CalibrationRun) -> None:
    back = CalibrationRun.from_saved(made.facts(), made.arrays())
    assert back.facts() == made.facts()
    for name in ("made", "source", "sha256", "per", "left_out"):
        assert getattr(back, name) == getattr(made, name)
    assert list(back.groups) == list(made.groups)
    for name, group in made.groups.items():
        found = back.groups[name]
        assert list(found.scores) == list(group.scores)
        for statistic, values in group.scores.items():
            np.testing.assert_array_equal(found.scores[statistic], values)
        np.testing.assert_array_equal(found.peaks, group.peaks)
        assert (found.fold is None) == (group.fold is None)
        if group.fold is not None:
            np.testing.assert_array_equal(found.fold, group.fold)


def test_what_is_saved_is_named_by_place_and_what_it_is() -> None:
    assert two().facts() == {
        "made": MADE,
        "source": "usual",
        "sha256": DIGEST,
        "per": "line",
        "left_out": 4,
        "groups": {"east": {"images": 19, "folds": 1}, "west": {"images": 25, "folds": 1}},
    }
    assert sorted(two().arrays()) == sorted(
        f"{place}.{name}" for place in (0, 1) for name in ("scores.nll", "scores.fused", "peaks")
    )
    assert sorted(run(None, **{ONE: folded()}).arrays()) == ["0.fold", "0.peaks", "0.scores.nll"]


def test_more_than_ten_groups_keep_their_own_scores() -> None:
    made = run("line", **{f"g{i}": held_out(19, start=100.0 * i) for i in range(12)})
    back = CalibrationRun.from_saved(made.facts(), made.arrays())
    for i in range(12):
        assert back.groups[f"g{i}"].scores["nll"][0] == 100 * i
        assert list(back.groups[f"g{i}"].scores) == ["nll", "fused"]


@pytest.mark.parametrize(
    ("facts", "arrays"),
    [
        ({"groups": {"": {"images": 18, "folds": 1}}}, {}),
        ({"groups": {"": {"images": 19, "folds": 2}}}, {}),
        ({"groups": {}}, {}),
        ({"groups": {"east": {"images": 19, "folds": 1}}}, {}),  # of groups, and not said by what
        ({"per": "line"}, {}),  # by something, and not of groups
        ({"made": 5}, {}),
        ({"made": "yesterday"}, {}),
        ({"source": None}, {}),
        ({"sha256": 1.5}, {}),
        ({"per": 7, "groups": {"east": {"images": 19, "folds": 1}}}, {}),
        ({"left_out": -1}, {}),
        ({"left_out": 1.0}, {}),
        ({}, {"0.scores.nll": np.zeros(18)}),
        ({}, {"0.fold": np.zeros(18, int)}),
        ({}, {"0.fold": np.arange(19) % 2}),
        ({}, {"0.peaks": None}),  # not there
        ({}, {"0.scores.nll": None, "0.scores.fused": None}),
    ],
)
def test_what_does_not_fit_together_is_refused(facts: Any, arrays: Any) -> None:
    whole = run()
    altered = {key: each for key, each in (whole.arrays() | arrays).items() if each is not None}
    with pytest.raises((LookupError, TypeError, ValueError)):
        CalibrationRun.from_saved(whole.facts() | facts, altered)


def test_no_copies_left_out_is_a_number_too() -> None:
    whole = run()
    assert CalibrationRun.from_saved(whole.facts(), whole.arrays()).left_out == 0
    one = whole.facts() | {"left_out": 1}
    assert CalibrationRun.from_saved(one, whole.arrays()).left_out == 1
