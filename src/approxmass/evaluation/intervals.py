"""95% confidence intervals of the metrics that keep their promise near 1 and for few scores.

All of them by formulas, none by resampling; `tools/interval_coverage.py` measures how often they
cover.
"""

__all__ = ["Interval", "interval_text", "limits"]

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from ..arrays import Floats

Ints = NDArray[np.int64]

# Chosen by that simulation. How much of a lost score is added to AUROC, in scores, before the data
# say how much one usually loses; how much of the worst score to AUPR.
_PRIOR = 0.5
_WORST = 0.6
# How steep the ROC may be, in log odds, beyond the last score; 1 for logistic scores.
_STEEP = 2.0
_TAIL = 0.025
# Possible places of the threshold, alike in probability, and halvings of a limit's range.
_PLACES = 100
_HALVINGS = 20


@dataclass(frozen=True)
class Interval:
    """A value with its 95% confidence interval, `low <= value <= high`."""

    value: float
    low: float
    high: float


def interval_text(low: float, high: float, between: str = "-") -> str:
    """Limits with three digits, or as many as it takes to tell them apart.

    Example:
        >>> interval_text(0.9, 0.95), interval_text(0.99962, 1.0, ", ")
        ('0.900-0.950', '0.9996, 1.0000')
    """
    for digits in range(3, 16):
        texts = f"{low:.{digits}f}", f"{high:.{digits}f}"
        if texts[0] != texts[1]:
            return between.join(texts)
    return between.join((f"{low:.3f}", f"{high:.3f}"))


def limits(ids: Ints, oods: Ints, share: float) -> tuple[Floats, Floats]:
    """Lower and upper limits `(rows, 5)`, ordered as in `Metrics`.

    Arguments:
        ids: `(rows, thresholds)`, ID scores at each threshold, the lowest first; rows have equal
            sums.
        oods: The same of OOD scores.
        share: That of ID among the inputs that AUPR is for, above 0 and below 1.

    Example:
        >>> low, high = limits(np.array([[31, 0]]), np.array([[0, 31]]), 0.5)  # all told apart
        >>> round(1 - 0.025 ** (1 / 31), 3)  # Clopper & Pearson of 0 in 31
        0.112
        >>> round(1 - low[0, 0].item(), 3), high[0, 0].item()
        (0.112, 1.0)
    """
    turned = oods[:, ::-1], ids[:, ::-1]
    fpr_low, fpr_high = (1 - each for each in _share_limits(*turned))
    found = (
        _area_limits(ids, oods),
        _precision_limits(ids, oods, share),
        _precision_limits(*turned, 1 - share),
        _share_limits(ids, oods),
        (fpr_high, fpr_low),
    )
    low, high = (np.stack(each, axis=1) for each in zip(*found, strict=True))
    return low, high


def _lower(value: Floats, variance: Floats, weight: Floats) -> Floats:
    """Lower limit: a beta of this mean and variance, and one observation of 0 of this weight.

    For a share of n, and a weight of 1/n, it is that of Clopper & Pearson (1934); for a sum of
    few unequal weights it is as the gamma interval of Fay & Feuer (1997).
    """
    mean = value / (1 + weight)
    spread = (variance + weight**2 * value) / ((1 + weight) ** 2 * (1 + 2 * weight))
    count = np.maximum(mean * (1 - mean) / np.maximum(spread, 1e-30) - 1, 1e-3)
    found = special.betaincinv(mean * count, (1 - mean) * count, _TAIL)
    # A mean of 0 has no beta; its limit is 0.
    limit: Floats = np.where(value <= 0, 0.0, found)
    return limit


def _weight(lost: Floats, variance: Floats, most: float) -> Floats:
    """Weight of one more lost score: what the lost ones have on average, `most` where none is."""
    return (_PRIOR * most**2 + variance + lost**2 * most) / (_PRIOR * most + lost)


def _spread(inputs: Ints, influence: Floats) -> Floats:
    """Variance of the mean of `inputs` influences, whose mean is 0."""
    count = inputs[0].sum()
    found: Floats = (inputs * influence**2).sum(axis=1) / (count * max(count - 1, 1))
    return found


def _area_limits(ids: Ints, oods: Ints) -> tuple[Floats, Floats]:
    """Variance by DeLong et al. (1988)."""
    n, m = int(ids[0].sum()), int(oods[0].sum())
    of_id = 1 - (oods.cumsum(axis=1) - oods / 2) / m
    of_ood = (ids.cumsum(axis=1) - ids / 2) / n
    area = (ids * of_id).sum(axis=1) / n
    variance = _spread(ids, of_id - area[:, None]) + _spread(oods, of_ood - area[:, None])
    most = 1 / min(n, m)
    low = _lower(area, variance, _weight(1 - area, variance, most))
    return low, 1 - _lower(1 - area, variance, _weight(area, variance, most))


def _precision_limits(positive: Ints, negative: Ints, share: float) -> tuple[Floats, Floats]:
    """Variance by influence, as for a mean; the lower limit is that of the value less its bias."""
    n, m = int(positive[0].sum()), int(negative[0].sum())
    taken, wrong = positive.cumsum(axis=1) / n, negative.cumsum(axis=1) / m
    right, false = share * taken, (1 - share) * wrong
    all_taken = right + false
    all_taken = np.where(all_taken == 0, 1.0, all_taken)  # nothing taken yet
    precision, at = right / all_taken, positive / n
    value = (at * precision).sum(axis=1)
    by_taken = at * share * false / all_taken**2
    by_wrong = at * (1 - share) * right / all_taken**2

    def later(slope: Floats, curve: Floats) -> Floats:
        whole = slope.sum(axis=1, keepdims=True)
        mean = (slope * curve).sum(axis=1, keepdims=True)
        found: Floats = whole - slope.cumsum(axis=1) + slope - mean
        return found

    variance = _spread(positive, precision - value[:, None] + later(by_taken, taken))
    variance += _spread(negative, later(by_wrong, wrong))
    # A positive counts itself, and precision is curved in both shares (a Taylor series to order 2).
    bias = by_taken * (1 - taken) * (1 - precision) / n
    bias += by_wrong * (1 - share) * wrong * (1 - wrong) / all_taken / m
    # What one negative takes away that comes before all others.
    first = (at * (precision - right / (all_taken + (1 - share) / m))).sum(axis=1)
    worst = _WORST * np.maximum(1 / n, first)
    low = _lower(value - bias.sum(axis=1), variance, worst)
    return low, 1 - _lower(1 - value, variance, _weight(value, variance, 1 / n))


@lru_cache(maxsize=256)
def _places(count: int) -> tuple[Ints, Floats]:
    """How many of `count` scores may lie below the 95% point, and the odds left beyond the last.

    The number is binomial. Where all do, the last lies at the 95% point or below it; the odds of
    the rest there, against those at the point, say how far the curve still falls.
    """
    chance = (np.arange(_PLACES) + 0.5) / _PLACES
    below = stats.binom.ppf(chance, count, 0.95).astype(int)
    all_below = 0.95**count
    deep = np.clip((chance - (1 - all_below)) / max(all_below, 1e-12), 0, 1)
    level = 0.95 * (1 - deep) ** (1 / count)
    odds = (0.05 / 0.95) / ((1 - level) / level)
    return below, np.where(below == count, np.minimum(odds, 1) ** _STEEP, 1.0)


def _share_limits(ids: Ints, oods: Ints) -> tuple[Floats, Floats]:
    """Share of OOD above the 95% point of ID: binomial scores at each of its possible places."""
    rows, width = ids.shape
    n, m = int(ids[0].sum()), int(oods[0].sum())
    cells = np.repeat(np.arange(rows * width), ids.ravel()).reshape(rows, n)
    above = (m - oods.cumsum(axis=1).ravel()[cells]) / m
    above = np.concatenate([np.ones((rows, 1)), above, above[:, -1:]], axis=1)
    below, odds = _places(n)
    share = above[:, below + 1]
    low = _mixed(share * odds / (share * odds + 1 - share), m)
    return low, 1 - _mixed(1 - above[:, below], m)


def _mixed(shares: Floats, count: int) -> Floats:
    """Lower limit `(rows,)` where one of `shares` of `count` `(rows, places)` was seen.

    Wilson's score with a correction for continuity, averaged over the places.
    """
    low, high = np.zeros(len(shares)), np.ones(len(shares))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        scale = np.sqrt(middle * (1 - middle) / count)[:, None]
        apart = (shares - 0.5 / count - middle[:, None]) / scale
        fits = special.ndtr(apart).mean(axis=1) > 1 - _TAIL
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return low
