"""How many images are called outliers where the promise of p-values holds: the exact law."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from approxmass.calibration import called_ranks, p_values

# Of all such lots, so many are within the bounds.
SURE = 0.99


def share_called(
    lots: Sequence[tuple[int, int]], rate: float, sure: float = SURE
) -> tuple[float, float, float]:
    """The expected share of usual images that are called, and between what it is in 99% of cases.

    Of m images that are exchangeable with n that calibrate, beta-binomial many are called, for
    scores without ties: as many as are beyond the k-th largest of the n. Sums of independent such
    numbers have the convolution of these laws. Where one pool of scores is parted into n and m at
    random, again and again, each time is such a lot, and independent of the others.

    Arguments:
        lots: n and m of each independent lot.
        rate: Asked for.
        sure: Instead of 99%.

    Example:
        >>> [round(share, 3) for share in share_called([(99, 500)] * 100, 0.05)]
        [0.05, 0.044, 0.056]
    """
    total = sum(m for _, m in lots)
    spectrum = np.ones((total + 1) // 2 + 1, complex)
    for (n, m), times in Counter(lots).items():
        k = called_ranks(n, rate)
        law = stats.betabinom(m, k, n + 1 - k).pmf(np.arange(m + 1)) if k else np.eye(1, m + 1)[0]
        spectrum *= np.fft.rfft(law, total + 1) ** times
    below = np.cumsum(np.fft.irfft(spectrum, total + 1))
    low, high = np.searchsorted(below, [(1 - sure) / 2, (1 + sure) / 2])
    expected = sum(m * called_ranks(n, rate) / (n + 1) for n, m in lots)
    return expected / total, float(low / total), float(high / total)


def parted_anew(
    pool: NDArray[np.float64], calibrating: int, splits: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """p-values of the scores that do not calibrate, where so many, drawn at random, do.

    Arguments:
        pool: Scores `(n + m,)`.
        calibrating: n.
        splits: How often they are drawn.
        generator: Draws them.

    Returns:
        p-values `(splits, m)`.
    """
    orders = [generator.permutation(pool) for _ in range(splits)]
    return np.stack([p_values(order[:calibrating], order[calibrating:]) for order in orders])
