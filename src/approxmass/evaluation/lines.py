"""Plain lines on the features behind a detector: what its flow has to beat in the same codes."""

__all__ = ["LINES", "plain_lines"]

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from ..arrays import Floats
from ..runtime.machine import one_blas_thread

Rows = NDArray[np.float64]
Score = Callable[[Rows], Floats]

# They learn from at most so many images, the first of an order that was drawn.
_MOST = 10_000
_COMPONENTS = 64


def _standardised(training: Rows) -> Score:
    center, spread = training.mean(0), training.std(0).clip(1e-9)
    return lambda x: (x - center) / spread


def _whitened(training: Rows) -> Score:
    standard = _standardised(training)
    fitted = LedoitWolf(assume_centered=True).fit(standard(training))
    variance, axes = np.linalg.eigh(fitted.covariance_)
    whitening = axes / np.sqrt(variance)
    return lambda x: standard(x) @ whitening


def _mahalanobis(training: Rows) -> Score:
    code = _whitened(training)
    return lambda x: np.linalg.norm(code(x), axis=1)


def _residual(training: Rows) -> Score:
    standard = _standardised(training)
    kept = max(1, min(_COMPONENTS, len(training) // 3, training.shape[1] - 1))
    axes = PCA(kept, random_state=0).fit(standard(training)).components_

    def score(x: Rows) -> Floats:
        rows = standard(x)
        length: Floats = np.linalg.norm(rows - rows @ axes.T @ axes, axis=1)
        return length

    return score


def _nearest(training: Rows) -> Score:
    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(training)
    return lambda x: index.kneighbors(x)[0][:, 0]


def _nearest_whitened(training: Rows) -> Score:
    code = _whitened(training)
    nearest = _nearest(code(training))
    return lambda x: nearest(code(x))


# By what they are called: on the first kind of features those that need a covariance, on every
# other the nearest neighbour (on features of length 1, that by cosine).
LINES: dict[str, Callable[[Rows], Score]] = {
    "Mahalanobis": _mahalanobis,
    "PCA residual": _residual,
    "whitened nearest neighbour": _nearest_whitened,
}


def plain_lines(
    training: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Floats]]:
    """Scores of plain lines; larger = more out-of-distribution.

    Arguments:
        training: Features `(N, D)` of the training images, by kind; see `Encoder.features`.
        others: The same of other sets, by name.

    Returns:
        Scores `(N,)` by name of the line and of the set.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 3))
        >>> found = plain_lines({"pixels": rows}, {"far": {"pixels": rows + 9}})
        >>> list(found)
        ['Mahalanobis', 'PCA residual', 'whitened nearest neighbour', 'nearest neighbour, pixels']
        >>> bool(found["Mahalanobis"]["far"].min() > 5)
        True
    """
    first, *rest = training
    made = {name: (first, make) for name, make in LINES.items()}
    made |= {f"nearest neighbour, {kind}": (kind, _nearest) for kind in rest or [first]}
    found: dict[str, dict[str, Floats]] = {}
    with one_blas_thread():
        for name, (kind, make) in made.items():
            score = make(np.asarray(training[kind], np.float64)[:_MOST])
            found[name] = {
                of: score(np.asarray(rows[kind], np.float64)) for of, rows in others.items()
            }
    return found
