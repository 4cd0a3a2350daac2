"""How well scores separate in-distribution (ID) from out-of-distribution (OOD) inputs.

Larger score = more OOD, in every function. AUPR and the 95% points change with the class that
is called positive, so every name says which; AUROC does not. Tied scores are one threshold.
"""

__all__ = [
    "Metrics",
    "aupr_id_positive",
    "aupr_ood_positive",
    "auroc",
    "fpr95_ood_positive",
    "group_means",
    "ood_metrics",
    "tnr95_id_positive",
]

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats
from ..errors import ApproxMassError
from .intervals import Interval, limits

Ints = NDArray[np.int64]

# Cells of one chunk of subsamples x thresholds: a few MB per array, so that chunks stay in cache.
_CELLS = 2**18


@dataclass(frozen=True)
class Metrics:
    """Five metrics in [0, 1], each named with its positive class, and what they refer to.

    `n_id` and `n_ood` are the scores per class behind each number: after balancing, if `balanced`.
    """

    auroc: Interval
    aupr_id_positive: Interval
    aupr_ood_positive: Interval
    tnr95_id_positive: Interval
    fpr95_ood_positive: Interval
    n_id: int
    n_ood: int
    balanced: bool

    def as_dict(self) -> dict[str, Any]:
        """The same as nested dictionaries of plain floats, integers and a boolean, for JSON."""
        return asdict(self)


def auroc(id_scores: Floats, ood_scores: Floats) -> float:
    """Probability that an OOD score exceeds an ID score, ties counting one half (midranks).

    Takes finite scores `(n_id,)` and `(n_ood,)`; returns a number in [0, 1], 1/2 for no skill.
    Raises `ApproxMassError` for empty, non-finite or not 1-D scores.

    Example:
        >>> auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))  # 3 pairs right, 1 tied
        0.875
    """
    return float(_plain(id_scores, ood_scores)[0])


def aupr_id_positive(id_scores: Floats, ood_scores: Floats) -> float:
    """Average precision (step form, no interpolation) of finding ID inputs: low scores first.

    Takes finite scores `(n_id,)` and `(n_ood,)`; returns a number in (0, 1], about the share of ID
    for no skill. Raises `ApproxMassError` for empty, non-finite or not 1-D scores.

    Example:
        >>> aupr_id_positive(np.array([1.0, 3.0]), np.array([2.0, 4.0]))  # (1/1 + 2/3) / 2
        0.8333333333333333
    """
    return float(_plain(id_scores, ood_scores)[1])


def aupr_ood_positive(id_scores: Floats, ood_scores: Floats) -> float:
    """Average precision (step form, no interpolation) of finding OOD inputs: high scores first.

    Takes finite scores `(n_id,)` and `(n_ood,)`; returns a number in (0, 1], about the share of OOD
    for no skill. Raises `ApproxMassError` for empty, non-finite or not 1-D scores.

    Example:
        >>> aupr_ood_positive(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0]))  # (1/1 + 2/4) / 2
        0.75
    """
    return float(_plain(id_scores, ood_scores)[2])


def tnr95_id_positive(id_scores: Floats, ood_scores: Floats) -> float:
    """Share of OOD rejected at the lowest threshold that accepts at least 95% of ID.

    Takes finite scores `(n_id,)` and `(n_ood,)`; a score equal to the threshold is accepted.
    Returns a number in [0, 1], larger is better, about 0.05 for no skill.
    Raises `ApproxMassError` for empty, non-finite or not 1-D scores.

    Example:
        >>> tnr95_id_positive(np.arange(20.0), np.array([17.0, 18.0, 19.0, 20.0]))  # threshold 18
        0.5
    """
    return float(_plain(id_scores, ood_scores)[3])


def fpr95_ood_positive(id_scores: Floats, ood_scores: Floats) -> float:
    """Share of ID flagged at the highest threshold that catches at least 95% of OOD.

    Takes finite scores `(n_id,)` and `(n_ood,)`; a score equal to the threshold is flagged.
    Returns a number in [0, 1], smaller is better, about 0.95 for no skill.
    Raises `ApproxMassError` for empty, non-finite or not 1-D scores.

    Example:
        >>> fpr95_ood_positive(np.array([0.0, 1.0, 2.0, 3.0]), np.arange(20.0))  # threshold 1
        0.75
    """
    return float(_plain(id_scores, ood_scores)[4])


def ood_metrics(
    id_scores: Floats,
    ood_scores: Floats,
    *,
    balanced: bool = True,
    repeats: int = 20,
    seed: int = 0,
) -> Metrics:
    """All five metrics with 95% confidence intervals, by formulas (`intervals.py`).

    An interval is for what ever more scores from the same two sources would give: thresholds at
    exactly 95%, and for AUPR classes in equal shares if `balanced`, else in those of the scores.

    Arguments:
        id_scores: Finite ID scores `(n_id,)`.
        ood_scores: Finite OOD scores `(n_ood,)`.
        balanced: With classes of unequal size, average over random subsamples (without
            replacement) of the larger, each as large as the smaller. Otherwise use all scores, and
            AUPR depends on the share of each class. The interval uses all scores in both cases.
        repeats: Number of those subsamples, at least 1.
        seed: Fixes the subsamples.

    Returns:
        The metrics, every interval widened where needed to contain its value, and never empty.

    Raises:
        ApproxMassError: Scores empty, non-finite or not 1-D; `repeats` below 1.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> metrics = ood_metrics(rng.normal(0, 1, 500), rng.normal(2, 1, 300))
        >>> metrics.n_id, metrics.n_ood
        (300, 300)
        >>> print(f"{metrics.auroc.value:.2f} [{metrics.auroc.low:.2f}, {metrics.auroc.high:.2f}]")
        0.92 [0.90, 0.94]
    """
    if repeats < 1:
        raise ApproxMassError(f"repeats must be at least 1, not {repeats}", code="bad-option")
    id_codes, ood_codes = _codes(id_scores, ood_scores)
    n_id, n_ood = id_codes.size, ood_codes.size
    width = 1 + max(id_codes.max(), ood_codes.max())
    share = 0.5 if balanced else n_id / (n_id + n_ood)
    low, high = limits(_counts(id_codes[None], width), _counts(ood_codes[None], width), share)
    # Equal classes need no subsample; averaging equal numbers could only round them.
    rows = repeats if balanced and n_id != n_ood else 1
    if balanced:
        n_id = n_ood = min(n_id, n_ood)
    rng = np.random.default_rng(seed)

    def subsample(codes: Ints, size: int, rows: int) -> Ints:
        return rng.permuted(np.tile(codes, (rows, 1)), axis=1)[:, :size]

    step = max(1, _CELLS // (id_codes.size + ood_codes.size))
    chunks = [min(step, rows - start) for start in range(0, rows, step)]
    values = np.concatenate(
        [
            _five(subsample(id_codes, n_id, some), subsample(ood_codes, n_ood, some))
            for some in chunks
        ]
    ).mean(axis=0)
    area, aupr_id, aupr_ood, tnr, fpr = (
        Interval(float(value), float(min(value, least)), float(max(value, most)))
        for value, least, most in zip(values, low[0], high[0], strict=True)
    )
    return Metrics(area, aupr_id, aupr_ood, tnr, fpr, n_id, n_ood, balanced)


def group_means(scores: Floats, size: int, *, seed: int = 0) -> Floats:
    """Means of random groups of `size` scores, each score in at most one group ("group of n").

    Takes finite scores `(n,)`; they are shuffled with `seed`, cut into groups, and the remainder is
    dropped. Returns `(n // size,)` means in the unit of the scores; for `size=1` the scores in
    their own order. Raises `ApproxMassError` for `size` below 1 or above `n`, and for empty,
    non-finite or not 1-D scores.

    Example:
        >>> group_means(np.array([1.0, 2.0, 3.0]), 3)
        array([2.])
    """
    scores = _checked(scores, "scores")
    if not 1 <= size <= scores.size:
        raise ApproxMassError(
            f"group size must be from 1 to the number of scores, {scores.size}, not {size}",
            code="too-few",
        )
    if size == 1:
        return scores.copy()
    shuffled = np.random.default_rng(seed).permutation(scores)
    means: Floats = shuffled[: scores.size // size * size].reshape(-1, size).mean(axis=1)
    return means


def _checked(scores: Floats, name: str) -> Floats:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise ApproxMassError(
            f"{name} must be 1-D, one score per input, not of shape {scores.shape}",
            code="bad-scores",
        )
    if scores.size == 0:
        raise ApproxMassError(f"{name} are empty: give at least one score", code="bad-scores")
    bad = scores.size - np.count_nonzero(np.isfinite(scores))
    if bad:
        raise ApproxMassError(
            f"{name} hold {bad} NaN or infinite of {scores.size}: mend or drop those inputs first",
            code="bad-scores",
        )
    return scores


def _codes(id_scores: Floats, ood_scores: Floats) -> tuple[Ints, Ints]:
    """Rank of each score among the distinct scores of both classes together."""
    id_scores, ood_scores = _checked(id_scores, "id_scores"), _checked(ood_scores, "ood_scores")
    _, codes = np.unique(np.concatenate([id_scores, ood_scores]), return_inverse=True)
    return codes[: id_scores.size], codes[id_scores.size :]


def _plain(id_scores: Floats, ood_scores: Floats) -> Floats:
    id_codes, ood_codes = _codes(id_scores, ood_scores)
    row: Floats = _five(id_codes[None], ood_codes[None])[0]
    return row


def _five(id_codes: Ints, ood_codes: Ints) -> Floats:
    """Codes `(rows, n_id)` and `(rows, n_ood)` to metrics `(rows, 5)`, ordered as in `Metrics`."""
    n_id, n_ood = id_codes.shape[1], ood_codes.shape[1]
    width = 1 + max(id_codes.max(), ood_codes.max())
    ids, oods = _counts(id_codes, width), _counts(ood_codes, width)
    area, aupr_id, leaked = _curve(ids, oods)
    _, aupr_ood, flagged = _curve(oods[:, ::-1], ids[:, ::-1])
    tnr, fpr = (n_ood - leaked) / n_ood, flagged / n_id
    return np.stack([area, aupr_id, aupr_ood, tnr, fpr], axis=1)


def _counts(codes: Ints, width: int) -> Ints:
    rows = len(codes)
    cells = codes + width * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=rows * width).reshape(rows, width)


def _curve(positive: Ints, negative: Ints) -> tuple[Floats, Floats, Ints]:
    """AUROC, average precision, and the number of negatives taken with 95% of the positives.

    Both `(rows, thresholds)` count the inputs at each threshold, the most positive one first.
    """
    taken, wrong = positive.cumsum(axis=1), negative.cumsum(axis=1)
    n_positive, n_negative = int(taken[0, -1]), int(wrong[0, -1])
    # Integers up to the last division: exact whatever the ties.
    pairs = np.einsum("rk,rk->r", negative, 2 * taken - positive)
    area = pairs / (2 * n_positive * n_negative)
    # A replicate may have drawn nothing yet (0/0); such a threshold has no weight.
    precision = taken / np.maximum(taken + wrong, 1)
    average_precision = np.einsum("rk,rk->r", positive, precision) / n_positive
    first = (20 * taken >= 19 * n_positive).argmax(axis=1)
    return area, average_precision, wrong[np.arange(len(wrong)), first]
