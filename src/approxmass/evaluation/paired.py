"""Intervals of a difference between two scores of the same images."""

__all__ = ["paired_difference"]

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats
from .intervals import Interval
from .metrics import auroc

Pair = tuple[Floats, Floats]
Places = NDArray[np.int64] | slice


def paired_difference(
    ones: Sequence[Pair], others: Sequence[Pair], *, bootstrap: int = 1000, seed: int = 0
) -> Interval:
    """AUROC of one score less that of another, with a 95% interval by a paired bootstrap.

    Arguments:
        ones: ID scores `(n,)` and OOD scores `(m,)`, a pair for each repetition (a seed of the
            fit); all of the same images, whose draw the interval is for.
        others: The same of the other score.
        bootstrap: Draws.
        seed: Of the draws.

    Example:
        >>> inside, outside = np.arange(50.0), np.arange(50.0) + 20
        >>> found = paired_difference([(inside, outside)], [(inside, outside)])
        >>> found.value, found.low, found.high
        (0.0, 0.0, 0.0)
    """

    def difference(i: Places, j: Places) -> float:
        return float(
            np.mean(
                [
                    auroc(a[0][i], a[1][j]) - auroc(b[0][i], b[1][j])
                    for a, b in zip(ones, others, strict=True)
                ]
            )
        )

    rng = np.random.default_rng(seed)
    n, m = (len(of) for of in ones[0])
    draws = [difference(rng.integers(n, size=n), rng.integers(m, size=m)) for _ in range(bootstrap)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(difference(slice(None), slice(None)), float(low), float(high))
