"""From scores to p-values: split-conformal, one image at a time; `rank_sum.py` has groups.

Two scores of one image may differ in their last digits, by the machine and its libraries. Where
usual images repeat, many calibration scores are one number, and a comparison of exact numbers would
move a p-value by all of them at once. So a calibration score counts as reached with a tolerance;
see `with_tolerance`. Nothing is rounded to a grid, which would only move the jump to its edges.
"""

__all__ = [
    "FALSE_ALARM_RATE",
    "Control",
    "RealisedRate",
    "benjamini_hochberg",
    "called",
    "called_ranks",
    "check_control",
    "check_rate",
    "discoveries_need",
    "fold_bound",
    "fold_p_values",
    "p_values",
    "realised_rate",
    "smallest_p_value",
    "threshold",
    "tied",
    "with_tolerance",
]

import math
import warnings
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .arrays import Bools, Floats
from .errors import ApproxMassError

# What a false-alarm rate bounds: the chance for one image, or the share of those that are called.
Control = Literal["image", "discoveries"]
# Behind every verdict for which nobody has asked for another.
FALSE_ALARM_RATE = 0.05
# Of the tolerance: shares of the spread of the calibration scores, and of each itself.
_OF_SPREAD, _OF_SCORE = 1e-3, 1e-5
# Scores so near, as a share of one plus their size, are of one image; if most are, the spread is at
# least so many times as much.
_SAME, _UNIT = 1e-6, 20.0


def with_tolerance(calibration: Floats) -> Floats:
    """The largest score that each calibration score still counts as reaching, sorted, `(n,)`.

    Above a calibration score c that is by 0.1% of the spread of all of them, from the 10th
    to the 90th percentile, and `1e-5 |c|`. That is far above rounding, some 1e-6 to 1e-4 of the
    spread, and far below what tells images apart. Where more than half of the scores are equal to
    another, images come again and again and may all be much alike: then the spread is at least 20
    times one plus the size of their median. The tolerance can make a p-value larger and never
    smaller, so that these stay valid.

    Arguments:
        calibration: Scores `(n,)`, in any order.

    Example:
        >>> with_tolerance(np.arange(101.0))[:2].round(3)  # 0.1% of 80, and 0.00001 of 1
        array([0.08, 1.08])
        >>> with_tolerance(np.array([7.0, 7.0, 7.0, 8.0]))[0].round(2)
        np.float64(7.16)
    """
    ordered = np.sort(calibration)
    if len(ordered) == 0:
        return ordered
    low, middle, high = np.quantile(ordered, (0.1, 0.5, 0.9))
    spread = high - low
    if 2 * np.count_nonzero(_same(ordered)) >= len(ordered):
        spread = max(spread, _UNIT * (1 + abs(middle)))
    reached: Floats = ordered + _OF_SPREAD * spread + _OF_SCORE * np.abs(ordered)
    return reached


def tied(calibration: Floats) -> tuple[Floats, Floats]:
    """Scores that several calibration images have, `(k,)`, growing, and the tolerance of each.

    Another score within that of one of them is of an image that has come again.

    Example:
        >>> scores, tolerance = tied(np.array([1.0, 3.0, 3.0, 5.0, 9.0]))
        >>> scores, tolerance.round(3)
        (array([3.]), array([0.006]))
    """
    ordered = np.sort(calibration)
    same = _same(ordered)
    first = np.flatnonzero(same & ~np.concatenate([[False], same[:-1]]))
    return ordered[first], (with_tolerance(ordered) - ordered)[first]


def _same(ordered: Floats) -> Bools:
    """Which of growing scores are equal to the next, up to rounding, `(n - 1,)`."""
    same: Bools = np.diff(ordered) <= _SAME * (1 + np.abs(ordered[1:]))
    return same


def p_values(calibration: Floats, scores: Floats) -> Floats:
    """Split-conformal p-values: how far out each score is among in-distribution ones.

    `p = (1 + #{calibration >= score}) / (n + 1)`, where a calibration score that is less than the
    score by no more than the tolerance of `with_tolerance` counts, too. For a new in-distribution
    input, exchangeable with the `n` calibration inputs, `P(p <= e) <= e` for every `e`, whatever
    the score (Vovk et al., 2005).

    Arguments:
        calibration: Scores `(n,)` of held-out in-distribution inputs; larger = more OOD.
        scores: Scores `(N,)` of the inputs in question.

    Returns:
        p-values `(N,)` in `[1 / (n + 1), 1]`; small = out-of-distribution.

    Raises:
        ApproxMassError: no calibration scores, or NaN among the scores.

    Example:
        >>> p_values(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.5, 9.0]))
        array([1.  , 0.5 , 0.25])
    """
    if len(calibration) == 0:
        raise ApproxMassError(
            "there are no calibration scores: fit the detector first", code="not-fitted"
        )
    if np.isnan(scores).any() or np.isnan(calibration).any():
        raise ApproxMassError("a score is NaN: check the pixels of the images", code="bad-scores")
    below = np.searchsorted(with_tolerance(calibration), scores, side="left")
    p: Floats = (1 + len(calibration) - below) / (1 + len(calibration))
    return p


def fold_p_values(calibration: Floats, fold: NDArray[np.int64], scores: Floats) -> Floats:
    """p-values where images calibrate by folds, each scored by a model learnt without its fold.

    `p = (1 + sum over folds k of #{calibration_i >= score_k : i in fold k}) / (n + 1)`
    (cross-conformal: Vovk, 2015; the CV+ of Barber et al., 2021). For a new in-distribution input
    `P(p <= e) <= 2 e + 2 (K - 1) / (n + K)` at most, for K folds of one size, and near e where
    their models are much alike. With K = 1 it is `p_values`, and `P(p <= e) <= e`.

    Arguments:
        calibration: Scores `(n,)` of in-distribution inputs; larger = more OOD.
        fold: `(n,)` of 0 to K-1, that of each of these.
        scores: Scores `(K, N)` of the inputs in question, by the model of each fold.

    Returns:
        p-values `(N,)` in `[1 / (n + 1), 1]`; small = out-of-distribution.

    Raises:
        ApproxMassError: as `p_values`, or a fold without calibration scores.

    Example:
        >>> calibration, fold = np.array([1.0, 7.0, 2.0, 8.0]), np.array([0, 1, 0, 1])
        >>> fold_p_values(calibration, fold, np.array([[3.0, 0.0], [7.5, 0.0]]))
        array([0.4, 1. ])
    """
    reached = [
        np.rint(p_values(own, each) * (1 + len(own))) - 1
        for own, each in ((calibration[fold == k], scores[k]) for k in range(len(scores)))
    ]
    p: Floats = (1 + np.sum(reached, axis=0)) / (1 + len(calibration))
    return p


def fold_bound(rate: float, count: int, folds: int) -> float:
    """The most that a false-alarm rate can be, of calibration by folds; see `fold_p_values`.

    Example:
        >>> fold_bound(0.05, 300, 1), round(fold_bound(0.05, 300, 4), 3)
        (0.05, 0.12)
    """
    return rate if folds == 1 else min(1.0, 2 * rate + 2 * (folds - 1) / (count + folds))


def smallest_p_value(calibration: Floats) -> float:
    """The smallest p-value that this many calibration scores can give, `1 / (n + 1)`.

    Example:
        >>> smallest_p_value(np.zeros(99))
        0.01
    """
    return 1 / (1 + len(calibration))


def called_ranks(count: int, false_alarm_rate: float) -> int:
    """How many of the largest of so many calibration scores would themselves be called outliers.

    A new score is called if fewer than that many reach it: a chance of k in `count + 1`.

    Example:
        >>> called_ranks(99, 0.05)
        5
    """
    return int(np.sum(np.arange(1, count + 1) / (count + 1) <= false_alarm_rate))


def check_rate(false_alarm_rate: float, count: int) -> None:
    """Refuse a false-alarm rate that so many calibration scores cannot resolve.

    Raises:
        ApproxMassError: outside (0, 1), or below `1 / (count + 1)`.
    """
    if not (isinstance(false_alarm_rate, Real) and 0 < false_alarm_rate < 1):
        raise ApproxMassError(
            f"false_alarm_rate must be in (0, 1), not {false_alarm_rate!r}", code="rate"
        )
    if false_alarm_rate < 1 / (count + 1):
        raise ApproxMassError(
            f"a false-alarm rate of {false_alarm_rate:g} needs at least "
            f"{math.ceil(1 / max(false_alarm_rate, 1e-12)) - 1} calibration images: fit on more "
            f"images or ask for at least {1 / (count + 1):.2g}",
            code="rate",
        )


@dataclass(frozen=True)
class RealisedRate:
    """The rate of false alarms of one detector, which depends on its calibration images.

    Attributes:
        asked: The rate asked for; on average over fits there are no more false alarms.
        average: On average over fits, for scores without ties.
        low: In 2.5% of fits the rate is lower,
        high: and in 2.5% of fits higher.
    """

    asked: float
    average: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.average:.1%} on average over fits; of this detector {self.low:.1%} to "
            f"{self.high:.1%}, with 95% probability"
        )


def realised_rate(count: int, false_alarm_rate: float = FALSE_ALARM_RATE) -> RealisedRate:
    """How far the false-alarm rate of one detector may lie off what was asked for.

    The promise of split-conformal p-values is an average over fits. Given its `n` calibration
    scores, a detector has one threshold, and its rate of false alarms is the mass beyond that:
    of scores without ties, a draw from `Beta(k, n + 1 - k)`, where k is `called_ranks` (Vovk,
    Conditional validity of inductive conformal predictors, 2012). Ties make it lower.

    Arguments:
        count: Calibration scores, `n`.
        false_alarm_rate: Asked for, in (0, 1).

    Raises:
        ApproxMassError: as `check_rate`.

    Example:
        >>> rate = realised_rate(750, 0.05)
        >>> round(rate.low, 3), round(rate.average, 3), round(rate.high, 3)
        (0.035, 0.049, 0.066)
    """
    check_rate(false_alarm_rate, count)
    ranks = called_ranks(count, false_alarm_rate)
    low, high = stats.beta(ranks, count + 1 - ranks).ppf([0.025, 0.975])
    return RealisedRate(false_alarm_rate, ranks / (count + 1), float(low), float(high))


def threshold(calibration: Floats, false_alarm_rate: float) -> float:
    """The largest score that is not called an outlier; infinite where none can be called.

    Example:
        >>> round(threshold(np.arange(99.0), 0.05))  # that of rank 5 from above is the last to pass
        94
    """
    n = len(calibration)
    ranks = called_ranks(n, false_alarm_rate)
    return float(with_tolerance(calibration)[n - ranks]) if ranks else float("inf")


def benjamini_hochberg(p: Floats, false_discovery_rate: float) -> Bools:
    """Which of many p-values to call outliers, so that few of those called are false.

    Among the inputs called, the expected share of in-distribution ones is at most
    `false_discovery_rate` (Benjamini & Hochberg, 1995; valid for conformal p-values by Bates et
    al., 2023).

    Arguments:
        p: p-values `(N,)`.
        false_discovery_rate: Between 0 and 1.

    Example:
        >>> benjamini_hochberg(np.array([0.001, 0.02, 0.04, 0.5]), 0.05)
        array([ True,  True, False, False])
    """
    if len(p) == 0:
        return np.zeros(0, dtype=bool)
    called: Bools = stats.false_discovery_control(p, method="bh") <= false_discovery_rate
    return called


def check_control(control: str) -> None:
    """Refuse what is not a `Control`.

    Raises:
        ApproxMassError: there is no such control.
    """
    if control not in get_args(Control):
        raise ApproxMassError(
            f"control must be 'image' or 'discoveries', not {control!r}", code="bad-option"
        )


def discoveries_need(outliers: int, among: int, rate: float) -> int:
    """How many calibration scores it takes to call so many outliers among so many inputs.

    Those beyond all n calibration scores have the smallest p-value there is, 1 / (n + 1), and
    Benjamini-Hochberg calls k of m at `p <= rate k / m`: so n + 1 must be m / (rate k) or more.

    Arguments:
        outliers: k, inputs whose scores are beyond all calibration scores; at least 1.
        among: m, all inputs that are judged together.
        rate: The false-discovery rate, in (0, 1).

    Example:
        >>> discoveries_need(200, among=1000, rate=0.05)
        99
    """
    n = max(1, math.floor(among / (rate * outliers)) - 2)
    while among / (n + 1) / outliers > rate:
        n += 1
    return n


def called(p: Floats, rate: float, control: Control, count: int) -> Bools:
    """Which of the inputs with p-values `(N,)` to call outliers; see `Detector.predict`.

    Warns where "discoveries" calls none although some are beyond all calibration scores: too few
    of these, by `discoveries_need`.

    Arguments:
        p: From `p_values`.
        rate: Between 0 and 1.
        control: What it bounds.
        count: Number of the calibration scores behind them.

    Example:
        >>> p = np.array([0.01, 0.04, 0.5])
        >>> called(p, 0.05, "image", 99), called(p, 0.05, "discoveries", 99)
        (array([ True,  True, False]), array([ True, False, False]))
    """
    check_control(control)
    if control == "image":
        return p <= rate
    found = benjamini_hochberg(p, rate)
    beyond = int(np.sum(p <= 1 / (count + 1)))
    if beyond and not found.any():
        warnings.warn(
            f"control='discoveries' calls none of {len(p):,} images: {beyond:,} are further out "
            f"than all {count:,} calibration images, and to call so few at a rate of {rate:g} "
            f"takes {discoveries_need(beyond, len(p), rate):,} calibration images: fit on more "
            "images, or decide with control='image'",
            stacklevel=3,  # where Detector.predict was called
        )
    return found
