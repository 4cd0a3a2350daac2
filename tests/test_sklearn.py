"""The estimator of scikit-learn: its contract, and ours beside."""

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from approxmass.integrations.sklearn import ApproximateMassDetector

# The Gaussian start alone, for what does not depend on what is learnt.
QUICK = {"preset": "gaussian"}


def rows(count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, 4))


@parametrize_with_checks([ApproximateMassDetector(preset="gaussian")])
def test_the_contract_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_signs_and_pyods_words_agree() -> None:
    estimator = ApproximateMassDetector(**QUICK).fit(rows(200))
    new = np.concatenate([rows(50, 1), rows(50, 2) + 4])
    decided, p = estimator.decision_function(new), estimator.p_values(new)
    np.testing.assert_allclose(decided, estimator.score_samples(new) - estimator.offset_)
    np.testing.assert_array_equal(estimator.predict(new) == -1, decided < 0)
    assert roc_auc_score(np.repeat([0, 1], 50), -decided) > 0.98
    np.testing.assert_allclose(estimator.predict_proba(new), np.stack([p, 1 - p], 1))
    np.testing.assert_allclose(-estimator.score_samples(rows(200)), estimator.decision_scores_)
    np.testing.assert_array_equal(estimator.labels_, (estimator.predict(rows(200)) == -1) * 1)
    assert np.corrcoef(decided, p)[0, 1] > 0.5


@pytest.mark.parametrize("rate", [0.02, 0.2])
def test_the_share_that_is_called_follows_the_rate(rate: float) -> None:
    estimator = ApproximateMassDetector(false_alarm_rate=rate, **QUICK).fit(rows(1000))
    assert abs((estimator.predict(rows(4000, 5)) == -1).mean() - rate) < 0.4 * rate


@pytest.mark.parametrize("rate", [0, 1, 2.0, -0.1, np.nan, "0.05"])
def test_a_rate_that_is_none_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match="false_alarm_rate must be between 0 and 1"):
        ApproximateMassDetector(false_alarm_rate=rate, **QUICK).fit(rows(60))


def test_in_a_pipeline_a_search_and_a_pickle() -> None:
    pipeline = make_pipeline(StandardScaler(), ApproximateMassDetector(**QUICK))
    truth = np.repeat([1, -1], [60, 20])
    x = np.concatenate([rows(60), rows(20, 3) + 3])
    search = GridSearchCV(
        pipeline,
        {"approximatemassdetector__holdout": [0.1, 0.2]},
        scoring="roc_auc",
        cv=[(np.arange(50), np.arange(50, 80))],
    ).fit(x, truth)
    assert search.best_score_ > 0.9
    best = search.best_estimator_
    again = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(again.score_samples(x), best.score_samples(x))
    fresh = clone(best)
    assert not hasattr(fresh[-1], "detector_")


def test_with_too_few_rows_for_the_rate_nothing_usual_is_called() -> None:
    estimator = ApproximateMassDetector().fit(rows(12))
    assert np.isfinite(estimator.offset_)
    assert (estimator.predict(rows(12) + 100) == -1).all()
    with pytest.raises(ValueError, match="minimum of 10"):
        ApproximateMassDetector().fit(rows(9))
