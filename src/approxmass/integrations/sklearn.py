"""A detector of rows of numbers in the words of scikit-learn, and beside them those of PyOD."""

__all__ = ["ApproximateMassDetector"]

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ..arrays import Floats
from ..calibration import threshold
from ..detector import Detector
from ..models.settings import check_number
from ..training.holdout import FEWEST_ROWS

_SEEDS = 2**32 - 1


# scikit-learn comes without types.
class ApproximateMassDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """A normalizing flow behind `predict`, for tables and embeddings; see `Detector`.

    Signs are those of scikit-learn: `predict` gives 1 for inliers and -1 for outliers, and
    `score_samples` and `decision_function` are larger for what is more normal. Beside them are
    p-values, and PyOD's `decision_scores_`, `labels_` and `predict_proba`, larger for outliers.

    Arguments:
        false_alarm_rate: The share of in-distribution rows that `predict` calls outliers.
        statistic: As of `Detector`; so are
        alpha:,
        preset:,
        epochs:,
        calibration: and
        holdout:.
        random_state: Fixes the split, the training and the scores.

    Attributes:
        detector_: The `Detector`, there after `fit`.
        offset_: What `score_samples` is compared with: rows below it are outliers. With too few
            rows for the rate, it is the lowest of those that calibrate.
        decision_scores_: `(n,)` of the training rows; larger = more of an outlier.
        labels_: `(n,)` of these: 1 for outliers, else 0.
        n_features_in_: Columns.

    Raises:
        ValueError: as scikit-learn does of rows that it cannot use, fewer than 10, and
            options out of range.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> estimator = ApproximateMassDetector().fit(generator.normal(size=(60, 3)))
        >>> estimator.predict([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
        array([ 1, -1])
        >>> estimator.p_values([[9.0, 9.0, 9.0]]).round(3)  # 1 / 61, the smallest of 60 rows
        array([0.016])
    """

    def __init__(
        self,
        *,
        false_alarm_rate: float = 0.05,
        statistic: str = "auto",
        alpha: float | Literal["auto"] = "auto",
        preset: str = "auto",
        epochs: int | Literal["auto"] = "auto",
        calibration: str = "auto",
        holdout: float = 0.1,
        random_state: Any = 0,
    ) -> None:
        self.false_alarm_rate = false_alarm_rate
        self.statistic = statistic
        self.alpha = alpha
        self.preset = preset
        self.epochs = epochs
        self.calibration = calibration
        self.holdout = holdout
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from in-distribution rows `(n, D)`; `y` is not looked at."""
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=FEWEST_ROWS)
        rate = check_number(
            "false_alarm_rate", self.false_alarm_rate, "between 0 and 1", 2.0**-53, 1
        )
        seed = self.random_state
        if not isinstance(seed, int):
            seed = int(check_random_state(seed).randint(_SEEDS, dtype=np.int64))
        self.detector_ = Detector(
            "vectors",
            seed=seed,
            statistic=self.statistic,
            alpha=self.alpha,
            preset=self.preset,
            epochs=self.epochs,
            calibration=self.calibration,
            holdout=self.holdout,
        ).fit(rows)
        usual = self.detector_.calibration_scores
        limit = threshold(usual, rate)
        self.offset_ = -float(limit if np.isfinite(limit) else usual.max())
        self.decision_scores_ = self.detector_.score(rows).statistic
        self.labels_ = (self.decision_scores_ > -self.offset_).astype(int)
        return self

    def score_samples(self, X: Any) -> Floats:
        """The statistic of rows `(N, D)`, with the other sign: larger = more normal, `(N,)`."""
        scores: Floats = -self._scores(X).statistic
        return scores

    def decision_function(self, X: Any) -> Floats:
        """`score_samples` less `offset_`: below 0 are outliers, `(N,)`."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """1 for inliers, -1 for outliers, `(N,)`."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> Floats:
        """Conformal p-values of rows, `(N,)`; small = outlier. See `Detector.score`."""
        found: Floats = self._scores(X).p_value
        return found

    def predict_proba(self, X: Any) -> Floats:
        """The p-value and one minus it, `(N, 2)`: how much of an outlier a row is, not a chance."""
        p = self.p_values(X)
        return np.stack([p, 1 - p], axis=1)

    def _scores(self, rows: Any) -> Any:
        check_is_fitted(self)
        return self.detector_.score(validate_data(self, rows, dtype=np.float64, reset=False))
