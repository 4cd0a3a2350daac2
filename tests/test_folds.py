"""Calibration by folds: the p-values, what each model has learnt from, and the way in and out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from approxmass import Detector, fitting
from approxmass.calibration import fold_bound, fold_p_values, p_values
from approxmass.models.flow import FlowModel
from approxmass.models.folded import FOLDS, models_of
from approxmass.rank_sum import group_p_value
from approxmass.training.folds import Folds, in_folds
from approxmass.training.holdout import Units, few_left
from approxmass.watch.watch import Watch
from conftest import mistake, textures
from test_cli import refused, run
from tiny_network import TinyNetwork


@pytest.fixture(autouse=True)
def _folds_where_few_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "few_left", few_left)


@pytest.fixture(scope="module")
def folded() -> Detector:
    return Detector(epochs=2, calibration="folds").fit(textures(90))


# --- p-values


def test_p_values_by_folds_by_counting() -> None:
    generator = np.random.default_rng(0)
    calibration, fold = generator.integers(0, 9, 50).astype(float), generator.permutation(50) % 4
    scores = generator.integers(-1, 11, (4, 30)).astype(float)
    reached = [sum(calibration[i] >= scores[fold[i], j] for i in range(50)) for j in range(30)]
    found = fold_p_values(calibration, fold, scores)
    np.testing.assert_allclose(found, (1 + np.array(reached)) / 51)
    one = fold_p_values(calibration, np.zeros(50, int), scores[:1])
    np.testing.assert_allclose(one, p_values(calibration, scores[0]))


def distances(usual: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of Mahalanobis, squared."""
    centred, inverse = new - usual.mean(0), np.linalg.inv(np.cov(usual.T))
    return np.einsum("nd,de,ne->n", centred, inverse, centred)


def parted(count: int) -> Folds:
    return in_folds(Units.among(np.arange(count), None, "array"), FOLDS, 0)


@pytest.mark.parametrize("count", [30, 100])
def test_false_alarms_by_folds_are_near_the_rate_and_within_the_bound(count: int) -> None:
    # What is learnt are the mean and the covariance: with so few images it leans on each of them.
    generator = np.random.default_rng(count)
    called = {0.05: [], 0.2: []}
    for _ in range(400):
        x, new = generator.normal(size=(count, 8)), generator.normal(size=(50, 8))
        folds = parted(count)
        calibration, scores = np.empty(count), []
        for k in range(FOLDS):
            own = x[folds.fold != k]
            calibration[folds.fold == k] = distances(own, x[folds.fold == k])
            scores.append(distances(own, new))
        p = fold_p_values(calibration, folds.fold, np.stack(scores))
        for rate, shares in called.items():
            shares.append((p <= rate).mean())
    for rate, shares in called.items():
        # By few images a model is its own, and what is far by one only is not called.
        finest = np.floor(rate * (count + 1)) / (count + 1)
        assert 0.6 * finest < np.mean(shares) < 1.1 * rate
        assert np.mean(shares) < fold_bound(rate, count, FOLDS)


# --- what is learnt from what


def test_each_model_has_not_seen_its_fold_and_all_have_seen_the_others() -> None:
    images = textures(60)
    shares = parted(60)
    changed = images.copy()
    place = int(np.flatnonzero(shares.fold == 2)[5])
    changed[shares.order[place]] = 255 - changed[shares.order[place]]
    first, second = (
        models_of(Detector(epochs=1, calibration="folds").fit(each).model)
        for each in (images, changed)
    )
    for k in range(FOLDS):
        pairs = zip(first[k].state().values(), second[k].state().values(), strict=True)
        same = all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
        assert same == (k == 2)


def test_every_image_calibrates_by_the_model_that_has_not_seen_it(folded: Detector) -> None:
    images = textures(90)
    shares, calibrated = parted(90), folded.fitted.calibrated
    assert calibrated.count == folded.facts.calibration == folded.facts.images == 90
    pixels = torch.from_numpy(images[shares.order][:, None])
    for k, model in enumerate(models_of(folded.model)):
        rows = shares.fold == k
        views = model.view(pixels[torch.from_numpy(rows)])
        expected = model.statistics_of(views)["fused"]
        np.testing.assert_allclose(calibrated.scores["fused"][rows], expected, rtol=1e-4, atol=1e-4)
    assert not any(
        set(of) & set(np.flatnonzero(shares.fold == k))
        for k in range(FOLDS)
        for of in (shares.training[k], shares.reference[k])
    )


def test_scores_are_means_and_p_values_count_by_fold(folded: Detector) -> None:
    new = np.concatenate([textures(30, seed=3), textures(10, shift=1.0, seed=4)])
    scores, calibrated = folded.score(new), folded.fitted.calibrated
    assert calibrated.fold is not None
    views = folded.model.view(torch.from_numpy(new[:, None]))
    each = [model.statistics_of(views) for model in models_of(folded.model)]
    for name, values in scores.statistics.items():
        np.testing.assert_allclose(values, np.mean([of[name] for of in each], axis=0))
    by_fold = np.stack([of["fused"] for of in each])
    expected = fold_p_values(calibrated.scores["fused"], calibrated.fold, by_fold)
    np.testing.assert_array_equal(scores.p_value, expected)
    np.testing.assert_array_equal(scores.is_outlier, expected <= 0.05)
    assert folded.predict(new, 1 / 91).dtype == bool
    # A group goes by the first fold, whose images and the new ones its model has not seen.
    own = calibrated.scores["fused"][calibrated.fold == 0]
    assert folded.group_p_value(new) == group_p_value(own, by_fold[0])
    found = folded.explain(new)
    maps = [
        model.explain(torch.from_numpy(new[:, None]), views)[1].maps
        for model in models_of(folded.model)
    ]
    peaks = np.stack([each.reshape(len(new), -1).max(1) for each in maps])
    np.testing.assert_allclose(found.peaks, np.mean(maps, axis=0).reshape(len(new), -1).max(1))
    np.testing.assert_array_equal(
        found.p_value, fold_p_values(calibrated.peaks, calibrated.fold, peaks)
    )


def test_an_encoder_that_is_a_network_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = TinyNetwork()
    monkeypatch.setattr("approxmass.models.kinds.network", lambda name: tiny)
    colour = np.repeat(textures(60, side=32)[:, None], 3, axis=1)
    detector = Detector("lite0", size=32, parts=False, epochs=1).fit(colour)
    assert detector.settings.calibration == "folds"
    before = sum(tiny.seen)
    # To see, for the gradient of the map by its own fold (the 15 of each, padded to a batch of 16),
    # and of the four images to know it again.
    assert before == len(colour) + 4 * 16 + 4
    detector.score(np.repeat(textures(8, side=32, seed=2)[:, None], 3, axis=1))
    assert sum(tiny.seen) - before == 8


# --- choices, doors, files


@pytest.mark.parametrize(
    ("options", "count", "folds"),
    [
        ({}, 60, True),
        ({}, 300, True),
        ({}, 1400, False),
        ({"holdout": 0.5}, 300, False),
        ({"calibration": "holdout"}, 300, False),
        ({"calibration": "folds"}, 1400, True),
        ({"method": "gaussian"}, 300, False),
        ({"method": "gaussian"}, 60, True),
        ({"encoder": "pixels"}, 150, False),
    ],
)
def test_who_is_calibrated_by_folds(options: dict[str, Any], count: int, folds: bool) -> None:
    quick = {} if options.get("method") == "gaussian" else {"epochs": 1}
    detector = Detector(**{**quick, **options}).fit(textures(count, side=8))
    assert detector.settings.calibration == ("folds" if folds else "holdout")
    assert (detector.fitted.calibrated.fold is not None) == folds
    assert len(models_of(detector.model)) == (FOLDS if folds else 1)


def test_a_folder_of_folds_is_read_back(folded: Detector, tmp_path: Path) -> None:
    folded.save(tmp_path / "d")
    loaded, new = Detector.load(tmp_path / "d"), textures(40, seed=3)
    np.testing.assert_array_equal(loaded.score(new).p_value, folded.score(new).p_value)
    np.testing.assert_array_equal(loaded.explain(new).p_value, folded.explain(new).p_value)
    shown = json.loads(run("inspect", tmp_path / "d", "--json", "-").stdout)
    assert "by 4 folds: P(p <= e) <= 2 e + 0.064" in shown["calibrated on"]
    bound = pytest.approx(fold_bound(0.05, 90, FOLDS))
    assert shown["realised_rate"]["all"] == {"asked": 0.05, "at_most_on_average": bound}
    with mistake("rate", "by folds"):
        loaded.realised_rate()
    # New images that no fold has seen calibrate exactly, by the mean over folds.
    loaded.calibrate(textures(59, seed=8))
    scores = loaded.score(new)
    expected = p_values(loaded.calibration_scores, scores.statistic)
    np.testing.assert_array_equal(scores.p_value, expected)
    assert loaded.realised_rate().average == 0.05
    np.testing.assert_allclose(loaded.explain(new).usual, loaded.fitted.calibrated.peaks)


def test_a_log_of_folds_goes_on_where_it_ended(folded: Detector, tmp_path: Path) -> None:
    from PIL import Image

    place, log = tmp_path / "in", tmp_path / "log.csv"
    place.mkdir()
    names = []
    for part in range(2):
        for i, image in enumerate(textures(12, seed=part, shift=0.5 * part)):
            Image.fromarray(image).save(place / f"{part}{i:02}.png")
        with Watch(folded, place, log, 200) as watch:
            for batch in watch.batches(interval=0.01, until_idle=0):
                names += batch.names
    with Watch(folded, place, log, 200) as watch:
        assert watch.totals.scored == len(names) == 24
    assert "statistic_of_first_fold" in log.read_text().splitlines()[0]
    with mistake("other-run"), Watch(folded, place, log, 300):
        pass


def test_a_fit_by_folds_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", textures(60))
    words = ["fit", tmp_path / "x.npy", "-o", tmp_path / "d", "--epochs", 2]
    learn, calls = FlowModel.learn, []

    def stopping(self: FlowModel, *given: Any) -> None:
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        learn(self, *given)

    monkeypatch.setattr(FlowModel, "learn", stopping)
    stopped = run(*words)
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    kept = [path.name for path in tmp_path.iterdir() if "checkpoint" in path.name]
    assert sorted(name[-5:] for name in kept) == ["fold0", "fold1"]
    refused("would-overwrite", *words, naming="--resume")
    assert run(*words, "--resume").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "x.npy"]
    monkeypatch.undo()
    expected = Detector(epochs=2, calibration="folds").fit(tmp_path / "x.npy")
    found, new = Detector.load(tmp_path / "d"), textures(20, seed=3)
    np.testing.assert_array_equal(found.score(new).statistic, expected.score(new).statistic)


def test_the_law_of_the_count_of_folds() -> None:
    # Of exchangeable scores that no model has learnt from, folds are one calibration set.
    generator = np.random.default_rng(0)
    called = [
        fold_p_values(generator.random(39), np.arange(39) % 3, np.full((3, 1), new))[0] <= 0.05
        for new in generator.random(4000)
    ]
    assert stats.binomtest(int(np.sum(called)), 4000, 0.05).pvalue > 1e-3
