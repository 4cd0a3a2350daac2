"""One p-value for a group of images: do they, taken together, score like the calibration set?"""

__all__ = ["group_p_value", "rank_sum_p_values"]

import numpy as np
from scipy import stats

from .arrays import Floats
from .calibration import p_values, with_tolerance
from .errors import ApproxMassError

# The exact law of a rank sum is used where one of two samples is no larger than this. Beyond, at
# p-values of some 5 to 50%, it is above the normal one by up to so many times 1/m + 1/n, as its
# kurtosis is negative (Fix & Hodges, 1955).
_EXACT, _LIGHT = 8, 0.17


def group_p_value(calibration: Floats, scores: Floats) -> float:
    """One p-value for a group of inputs: do they, taken together, score like the calibration set?

    One-sided Mann-Whitney test of the group against the calibration scores: both are exchangeable
    when nothing has changed. Ties, with the tolerance of `with_tolerance`, count against an alarm.
    For one input it is the conformal p-value of `p_values`.

    Arguments:
        calibration: Scores `(n,)` of held-out in-distribution inputs.
        scores: Scores `(m,)` of the group.

    Returns:
        A p-value; small = the group has shifted towards out-of-distribution.

    Raises:
        ApproxMassError: an empty group, or as `p_values`.

    Example:
        >>> group_p_value(np.arange(100.0), np.array([90.0, 80.0, 95.0])) < 0.02
        True
    """
    if len(scores) == 0:
        raise ApproxMassError("a group needs at least one image", code="too-few")
    if len(scores) == 1:
        return float(p_values(calibration, scores)[0])
    p_values(calibration, scores)  # for its checks
    values = np.concatenate([with_tolerance(calibration), scores])
    in_group = np.arange(len(values)) >= len(calibration)
    # Ranks without ties: of equal scores, those of the group come first, as the smaller ones.
    ranks = np.empty(len(values))
    ranks[np.lexsort((~in_group, values))] = np.arange(len(values))
    return float(rank_sum_p_values(ranks[~in_group], ranks[in_group]))


def rank_sum_p_values(calibration: Floats, scores: Floats) -> Floats:
    """One-sided p-values of the Mann-Whitney test for scores without ties; `P(p <= e) <= e`.

    The null distribution is exact where one of the two has at most 8 scores. Beyond it is the
    normal one, and raised by as much as that may be too small, 2% of the p-value or less.

    Arguments:
        calibration: Scores `(..., n)`.
        scores: Scores `(..., m)` of groups.

    Returns:
        p-values `(...)`; small = a group has larger scores than those that calibrate.

    Example:
        >>> float(rank_sum_p_values(np.arange(3.0), np.array([5.0, 6.0])))  # one choice of ten
        0.1
    """
    n, m = calibration.shape[-1], scores.shape[-1]
    few = min(n, m) <= _EXACT
    test = stats.mannwhitneyu(
        scores,
        calibration,
        axis=-1,
        alternative="greater",
        method="exact" if few else "asymptotic",
    )
    p: Floats = np.minimum(1, test.pvalue * (1 if few else 1 + _LIGHT * (1 / m + 1 / n)))
    return p
