"""What all baselines share: labels, outliers, options, and what they have learnt on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from approxmass import ApproxMassError, Detector
from approxmass.baselines import BASELINES, Energy, make_baseline, parse_options
from conftest import textures, two_classes

# As small as each may be.
SMALL: dict[str, dict[str, Any]] = {
    "godin": {"depth": 10, "width": 1, "epochs": 1},
    "mahalanobis": {"depth": 10, "width": 1, "epochs": 1},
    "mahalanobis-sees-ood": {"depth": 10, "width": 1, "epochs": 1},
    "energy": {"depth": 10, "width": 1, "epochs": 1, "tuning_epochs": 1},
    "gradcon": {"epochs": 1},
    "ocgan": {"epochs": 1, "width": 4},
    "autoencoder": {"epochs": 1, "width": 4},
}
IMAGES, LABELS = two_classes(240)
OTHER = textures(60, shift=0.8, seed=9)


def small(name: str, seed: int = 0) -> Any:
    return make_baseline(name, SMALL.get(name, {}), seed)


@pytest.mark.parametrize("name", BASELINES)
def test_each_repeats_survives_its_state_and_scores_each_image_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small(name).fit(IMAGES, LABELS, OTHER)
    scores = first.score(IMAGES[:40])
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert np.unique(scores).size > 2

    # Trained again, not taken from the cache, whatever has been drawn in between.
    monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path))
    torch.rand(3)
    again = small(name).fit(IMAGES, LABELS, OTHER)
    np.testing.assert_array_equal(again.score(IMAGES[:40]), scores)

    restored = small(name).restore(first.state(), first.shape)
    np.testing.assert_array_equal(restored.score(IMAGES[:40]), scores)

    alone = np.concatenate([first.score(IMAGES[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, scores[:5], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mahalanobis", "gradcon", "ocgan", "untrained-flow"])
def test_a_seed_makes_a_difference(name: str) -> None:
    scores = [small(name, seed).fit(IMAGES, LABELS).score(IMAGES[:20]) for seed in (0, 1)]
    assert (scores[0] != scores[1]).all()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "needs the classes"),
        (LABELS[:-1], "one label an image"),
        (LABELS[:, None], "one label an image"),
        (LABELS / 2, "whole numbers"),
        (np.array(["a", "b"])[LABELS], "whole numbers"),
        (np.zeros_like(LABELS), "at least two classes"),
        (LABELS + 1, "must be 0 to 1 for 2 classes, with no gaps, not 1, 2"),
        (2 * LABELS, "no gaps, not 0, 2"),
        (LABELS - 1, "no gaps, not -1, 0"),
        ([[0], [1, 2]], "cannot be turned into a NumPy array"),
        (torch.zeros(240, requires_grad=True), "cannot be turned into a NumPy array"),
        (np.where(np.arange(240) == 7, 2, LABELS), "class 2 has 1 of the images"),
    ],
)
def test_bad_labels_are_named_in_one_line(labels: Any, words: str) -> None:
    for name in ("energy", "mahalanobis", "godin"):
        with pytest.raises(ApproxMassError) as info:
            small(name).fit(IMAGES, labels)
        assert words in str(info.value)
        assert "\n" not in str(info.value)


def test_outliers_must_look_like_the_images() -> None:
    for bad in (textures(20, side=10), np.zeros((20, 12, 12, 3), np.uint8)):
        with pytest.raises(ApproxMassError, match=r"the outliers .* the images 12x12 grey"):
            small("energy").fit(IMAGES, LABELS, bad)
    with pytest.raises(ApproxMassError, match="fitted on outliers: give some"):
        small("mahalanobis-sees-ood").fit(IMAGES, LABELS)


def test_scoring_wants_a_fit_and_images_of_its_shape() -> None:
    with pytest.raises(ApproxMassError, match="call fit first"):
        small("gaussian").score(IMAGES)
    with pytest.raises(ApproxMassError, match="10x10 grey, fitted were images of 12x12 grey"):
        small("gaussian").fit(IMAGES).score(textures(3, side=10))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("energi", {}, "unknown method 'energi'"),
        ("energy", {"deep": 3}, "no option 'deep'"),
        ("energy", {"depth": 12}, r"6n \+ 4, not 12"),
        ("energy", {"depth": 4}, r"6n \+ 4, not 4"),
        ("energy", {"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
        ("energy", {"epochs": 1.5}, "whole number"),
        ("energy", {"temperature": -1.0}, "temperature must be a number above 0, not -1.0"),
        ("energy", {"temperature": float("nan")}, "temperature must be"),
        ("energy", {"temperature": 0}, "temperature must be a number above 0"),
        ("energy", {"learning_rate": 0}, "learning_rate must be a number above 0"),
        ("energy", {"seed": 2**70}, "seed must be a whole number"),
        ("ocgan", {"batch_size": 1}, "batch_size must be at least 2"),
        ("energy", {"m_in": float("inf")}, "m_in must be a number"),
        ("godin", {"h": "X"}, "h must be one of I, E, C, not 'X'"),
        ("ocgan", {"score_by": "mass"}, "score_by must be one of"),
        ("mahalanobis-sees-ood", {"layers": "penultimate"}, "only the layer ensemble"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ApproxMassError, match=words):
        make_baseline(name, options)


def test_too_few_images_are_named() -> None:
    for name, some in (("gradcon", 5), ("ocgan", 1), ("energy", 19), ("gaussian", 1)):
        with pytest.raises(ApproxMassError, match=r"needs at least \d+ images, not \d+: give more"):
            small(name).fit(IMAGES[:some], LABELS[:some])
    ensemble = make_baseline("mahalanobis", {**SMALL["mahalanobis"], "layers": "ensemble"})
    with pytest.raises(ApproxMassError, match="needs at least 60 images"):
        ensemble.fit(IMAGES[:50], LABELS[:50])
    ensemble.fit(IMAGES[:60], LABELS[:60])


def test_a_detector_wants_enough_of_each_class_before_it_holds_any_out() -> None:
    rare = np.where(np.arange(240) < 3, 2, LABELS)
    detector = Detector(method="energy", options=SMALL["energy"])
    with pytest.raises(ApproxMassError, match="class 2 has 3 of the images: give energy at least"):
        detector.fit(IMAGES, rare)


def test_scores_that_are_no_numbers_are_not_calibrated() -> None:
    wild = {**SMALL["energy"], "learning_rate": 1e30}
    with pytest.raises(ApproxMassError, match="scores of usual images are not finite"):
        Detector(method="energy", options=wild).fit(IMAGES, LABELS)


def test_a_cache_that_cannot_be_written_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr("approxmass.baselines.training.TrainingBar", None)  # no step is made
    with pytest.raises(ApproxMassError, match="set APPROXMASS_CACHE to another folder"):
        small("gradcon").fit(IMAGES, progress=True)


def test_labels_may_come_with_the_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", images=IMAGES, labels=LABELS)
    by_file = small("mahalanobis").fit(tmp_path / "both.npz").score(IMAGES[:9])
    np.testing.assert_array_equal(
        by_file, small("mahalanobis").fit(IMAGES, LABELS).score(IMAGES[:9])
    )


def test_options_from_words() -> None:
    found = parse_options(Energy, ["depth=28", "m_in=-20", "schedule=step"])
    assert found == {"depth": 28, "m_in": -20.0, "schedule": "step"}
    assert isinstance(found["m_in"], float)
    for word, message in (("depth", "no option"), ("deep=3", "no option"), ("depth=x", "a number")):
        with pytest.raises(ApproxMassError, match=message):
            parse_options(Energy, [word])


def test_images_may_be_floats_or_tensors() -> None:
    by_bytes = small("gaussian").fit(IMAGES).score(IMAGES[:9])
    by_floats = small("gaussian").fit(IMAGES / 255).score(torch.from_numpy(IMAGES[:9]))
    np.testing.assert_allclose(by_bytes, by_floats)


@pytest.mark.parametrize("name", BASELINES)
def test_a_detector_calibrates_and_keeps_any_of_them(name: str, tmp_path: Any) -> None:
    outliers = OTHER if BASELINES[name].takes_outliers else None
    detector = Detector(method=name, options=SMALL.get(name, {}))
    detector.fit(IMAGES, LABELS if BASELINES[name].needs_labels else None, outliers)
    scores = detector.score(IMAGES[:30])
    assert list(scores.statistics) == [name]
    assert np.isnan(scores.mass).all()
    # The smallest of 31 conformal p-values: 30 calibration images.
    assert ((scores.p_value >= 1 / 31) & (scores.p_value <= 1)).all()
    detector.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    np.testing.assert_array_equal(loaded.score(IMAGES[:30]).statistic, scores.statistic)
    np.testing.assert_array_equal(loaded.score(IMAGES[:30]).p_value, scores.p_value)


def test_p_values_of_a_rival_keep_their_promise_on_new_images() -> None:
    rates = []
    for seed in range(20):
        usual = textures(400, seed=seed)
        detector = Detector(method="pca-residual", options={"components": 8}, seed=seed).fit(usual)
        rates.append((detector.score(textures(500, seed=1000 + seed)).p_value <= 0.1).mean())
    # Mean 0.097 (3 of 31 at most below 0.1), standard deviation 0.053 a fit, 0.012 of the mean.
    assert 0.05 < np.mean(rates) < 0.135


def test_what_a_detector_refuses_of_a_rival() -> None:
    with pytest.raises(ApproxMassError, match="unknown method 'glow'"):
        Detector(method="glow")
    with pytest.raises(ApproxMassError, match="alpha belongs to the flow, not to energy"):
        Detector(method="energy", alpha=1.0)
    with pytest.raises(ApproxMassError, match="space belongs to the flow"):
        Detector("pca", method="energy")
    with pytest.raises(ApproxMassError, match="options are for methods other than flow"):
        Detector(options={"depth": 10})
    with pytest.raises(ApproxMassError, match="gaussian learns from no outliers"):
        Detector(method="gaussian").fit(IMAGES, None, OTHER)
    for given in ((LABELS, None), (None, OTHER)):
        with pytest.raises(ApproxMassError, match="a flow learns from no labels and no outliers"):
            Detector().fit(IMAGES, *given)
    with pytest.raises(ApproxMassError, match="gaussian learns from no labels"):
        Detector(method="gaussian").fit(IMAGES, LABELS)
    with pytest.raises(ApproxMassError, match="components belongs to the flow"):
        Detector(method="gaussian", components=8)
    with pytest.raises(ApproxMassError, match="give seed as itself"):
        Detector(method="gaussian", options={"seed": 3})
    with pytest.raises(ApproxMassError, match="give epochs as itself"):
        Detector(method="gradcon", options={"epochs": 3}, epochs=2)
    with pytest.raises(ApproxMassError, match="options must be a dictionary, not 'depth=10'"):
        Detector(method="energy", options="depth=10")  # type: ignore[arg-type]
    with pytest.raises(ApproxMassError, match="energy learns a classifier and needs"):
        Detector(method="energy").fit(IMAGES)
    with pytest.raises(ApproxMassError, match="gaussian has no option 'epochs'"):
        Detector(method="gaussian", epochs=3)
