"""What all baselines share: labels, outliers, options, a device, and what is kept of them."""

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from approxmass import Detector
from approxmass.baselines import BASELINES, Baseline
from approxmass.data import source as stream
from approxmass.data.decode import Encoded, decode
from approxmass.data.readers import array
from approxmass.errors import Code
from approxmass.models.base import FitData, FitRun, Model, Saved
from approxmass.models.registry import METHODS, make_model, model_class, parse_options
from approxmass.training.loop import TrainingDivergedError
from conftest import mistake, textures, two_classes, write_images

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


def small(name: str, seed: int = 0) -> Baseline:
    return BASELINES[name].make(seed, SMALL.get(name, {}))


def learnt(name: str) -> Baseline:
    """Fitted as behind a detector."""
    model = small(name)
    images = torch.from_numpy(IMAGES[:, None])
    others = OTHER[:, None] if model.takes_outliers else None
    shape, device = (1, *IMAGES.shape[1:]), torch.device("cpu")
    assert model.prepare(shape, device) is None
    views = model.view(images)
    assert views is images  # it learns from the pixels
    data = FitData(
        shape=shape,
        training=views,
        reference=views[:9],
        sha256="",
        labels=LABELS,
        outliers=others,
    )
    model.learn(data, FitRun(device=device))
    return model


def statistic_of(model: Baseline) -> Any:
    (values,) = model.statistics_of(torch.from_numpy(IMAGES[:20, None])).values()
    return values


@pytest.mark.parametrize("name", BASELINES)
def test_each_is_a_model_that_the_registry_knows(name: str) -> None:
    kind = BASELINES[name]
    assert model_class(name) is kind
    assert METHODS[name] == (kind.__module__, kind.__name__)
    assert kind.name == kind.statistic.name == name
    model = make_model(name, 3, SMALL.get(name, {}))
    assert isinstance(model, Model)
    assert model.statistics == (kind.statistic,)
    assert model.decides == name
    assert model.options().keys() == kind.option_types().keys()
    for method in ("option_types", "learn", "statistics_of", "explain", "to", "from_saved"):
        wanted, found = (inspect.signature(getattr(of, method)) for of in (Model, kind))
        assert found.parameters.keys() == wanted.parameters.keys(), method
    with mistake("no-explanation"):
        images = torch.zeros(1, 1, 12, 12, dtype=torch.uint8)
        model.explain(images, images)


def test_the_registry_has_these_the_flow_and_densities_from_elsewhere() -> None:
    assert list(METHODS) == ["flow", "density", *BASELINES]


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

    assert first.shape is not None
    restored = small(name).restore(first.state(), first.shape)
    np.testing.assert_array_equal(restored.score(IMAGES[:40]), scores)

    alone = np.concatenate([first.score(IMAGES[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, scores[:5], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_each_is_made_again_of_its_options_state_and_facts(name: str) -> None:
    model = learnt(name)
    assert model.shape is not None
    options, facts = json.loads(json.dumps([model.options(), model.facts()]))
    kept = {key: value.clone() for key, value in model.state().items()}
    saved = Saved(options=options, seed=0, shape=model.shape, state=kept, facts=facts)
    again = BASELINES[name].from_saved(saved, None)
    assert again == model
    np.testing.assert_array_equal(statistic_of(again), statistic_of(model))
    assert again.describe() == model.describe()
    with mistake("wrong-encoder"):
        BASELINES[name].from_saved(saved, nn.Flatten())
    with pytest.raises(ValueError, match="no option 'encoder'"):
        BASELINES[name].from_saved(replace(saved, options={**options, "encoder": "pca"}), None)
    with pytest.raises(ValueError, match="weights"):
        BASELINES[name].from_saved(replace(saved, facts={"weights": -1}), None)


@pytest.mark.parametrize("name", BASELINES)
def test_each_computes_where_the_run_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever goes to the default device instead can give no numbers.
    monkeypatch.setattr("approxmass.baselines.base.pick_device", lambda: torch.device("meta"))
    model = learnt(name)
    assert model.device == torch.device("cpu")
    assert np.isfinite(statistic_of(model)).all()
    assert {value.device for value in model.state().values()} == {torch.device("cpu")}
    # A saved one starts on the CPU, before the default device is touched.
    assert model.shape is not None
    saved = Saved(
        options=model.options(),
        seed=0,
        shape=model.shape,
        state=model.state(),
        facts=model.facts(),
    )
    assert BASELINES[name].from_saved(saved, None).device == torch.device("cpu")


@pytest.mark.parametrize("name", BASELINES)
def test_each_moves_to_another_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = learnt(name), torch.device("cpu:0")  # another name of the same
    expected = statistic_of(model)
    revived, moved = [], set()
    revive, move = type(model)._revive, nn.Module.to

    def note_revived(self: Baseline, shape: tuple[int, int, int]) -> None:
        revived.append(self.device)
        revive(self, shape)

    def note_moved(self: nn.Module, *where: Any, **how: Any) -> nn.Module:
        moved.update(where)
        return move(self, *where, **how)

    monkeypatch.setattr(type(model), "_revive", note_revived)
    monkeypatch.setattr(nn.Module, "to", note_moved)
    assert small(name).to(other).device == other
    assert not revived  # it has learnt nothing
    assert model.to(other) is model
    assert revived == [other]
    assert moved == ({other} if name in SMALL or name == "untrained-flow" else set())
    np.testing.assert_array_equal(statistic_of(model), expected)


@pytest.mark.parametrize("name", ["mahalanobis", "gradcon", "ocgan", "untrained-flow"])
def test_a_seed_makes_a_difference(name: str) -> None:
    scores = [small(name, seed).fit(IMAGES, LABELS).score(IMAGES[:20]) for seed in (0, 1)]
    assert (scores[0] != scores[1]).all()


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (None, "bad-labels"),
        (LABELS[:-1], "bad-labels"),
        (LABELS / 2, "bad-labels"),
        (np.array(["a", "b"])[LABELS], "bad-labels"),
        (np.zeros_like(LABELS), "bad-labels"),
        (LABELS + 1, "bad-labels"),
        (2 * LABELS, "bad-labels"),
        (LABELS - 1, "bad-labels"),
        ([[0], [1, 2]], "bad-labels"),
        (torch.zeros(240, requires_grad=True), "bad-labels"),
        (np.where(np.arange(240) == 7, 2, LABELS), "too-few"),
    ],
)
def test_bad_labels_are_refused(labels: Any, code: Code) -> None:
    for name in ("energy", "mahalanobis", "godin"):
        with mistake(code):
            small(name).fit(IMAGES, labels)


def test_outliers_must_look_like_the_images() -> None:
    for bad in (textures(20, side=10), np.zeros((20, 12, 12, 3), np.uint8)):
        with mistake("bad-outliers", "the images 12x12 grey"):
            small("energy").fit(IMAGES, LABELS, bad)
    with mistake("bad-outliers"):
        small("mahalanobis-sees-ood").fit(IMAGES, LABELS)


def test_scoring_wants_a_fit_and_images_of_its_shape() -> None:
    with mistake("not-fitted"):
        small("gaussian").score(IMAGES)
    with mistake("wrong-shape"):
        small("gaussian").fit(IMAGES).score(textures(3, side=10))


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("energi", {}, "bad-option"),
        ("energy", {"deep": 3}, "unknown-option"),
        ("energy", {"seed": 3}, "unknown-option"),  # it is given as itself
        ("energy", {"depth": 12}, "bad-option"),
        ("energy", {"depth": 4}, "bad-option"),
        ("energy", {"epochs": 0}, "bad-option"),
        ("energy", {"epochs": 1.5}, "bad-option"),
        ("energy", {"epochs": True}, "bad-option"),
        ("energy", {"epochs": "auto"}, "bad-option"),
        ("energy", {"temperature": -1.0}, "bad-option"),
        ("energy", {"temperature": float("nan")}, "bad-option"),
        ("energy", {"temperature": 0}, "bad-option"),
        ("energy", {"learning_rate": 0}, "bad-option"),
        ("ocgan", {"batch_size": 1}, "bad-option"),
        ("energy", {"m_in": float("inf")}, "bad-option"),
        ("energy", {"m_in": float("-inf")}, "bad-option"),
        ("energy", {"m_in": 10**400}, "bad-option"),
        ("energy", {"m_out": "5"}, "bad-option"),
        ("energy", {"schedule": "step "}, "bad-option"),
        ("godin", {"h": "X"}, "bad-option"),
        ("ocgan", {"score_by": "mass"}, "bad-option"),
        ("mahalanobis-sees-ood", {"layers": "penultimate"}, "bad-option"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], code: Code) -> None:
    with mistake(code):
        make_model(name, 0, options)


@pytest.mark.parametrize("seed", [-1, 1.5, True, None, 2**70])
def test_bad_seeds_are_refused(seed: Any) -> None:
    with mistake("bad-option"):
        BASELINES["gaussian"].make(seed, {})


@pytest.mark.parametrize("name", BASELINES)
def test_options_of_the_flow_are_refused(name: str) -> None:
    own, flows = BASELINES[name].option_types(), model_class("flow").option_types()
    others = [option for option in flows if option not in own]
    assert {"encoder", "preset", "statistic", "draws"} <= set(others)
    for option in others:
        with mistake("unknown-option"):
            BASELINES[name].make(0, {option: 1})
        with mistake("unknown-option"):
            Detector(method=name, **{option: "pca" if option == "encoder" else 1})
        with mistake("unknown-option"):
            parse_options(name, {option: "1"})


def test_too_few_images_are_refused() -> None:
    for name, some in (("gradcon", 5), ("ocgan", 1), ("energy", 19), ("gaussian", 1)):
        with mistake("too-few"):
            small(name).fit(IMAGES[:some], LABELS[:some])
    options = {**SMALL["mahalanobis"], "layers": "ensemble"}
    ensemble = BASELINES["mahalanobis"].make(0, options)
    for some in (50, 59):
        with mistake("too-few"):
            ensemble.fit(IMAGES[:some], LABELS[:some])
    ensemble.fit(IMAGES[:60], LABELS[:60])


def test_a_detector_wants_enough_of_each_class_before_it_holds_any_out() -> None:
    rare = np.where(np.arange(240) < 9, 2, LABELS)
    with mistake("too-few"):
        Detector(method="energy", **SMALL["energy"]).fit(IMAGES, rare)


def test_scores_that_are_no_numbers_are_not_calibrated() -> None:
    wild = {**SMALL["energy"], "learning_rate": 1e30}
    detector = Detector(method="energy", **wild)
    with mistake("diverged") as info:
        detector.fit(IMAGES, LABELS)
    assert not isinstance(info.value, TrainingDivergedError)  # the weights were still numbers
    with mistake("not-fitted"):
        detector.score(IMAGES)


def test_a_cache_that_cannot_be_written_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr("approxmass.training.cached.TrainingBar", None)  # no step is made
    with mistake("cannot-write"):
        small("gradcon").fit(IMAGES, progress=True)


def test_labels_may_come_with_the_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", images=IMAGES, labels=LABELS)
    by_file = small("mahalanobis").fit(tmp_path / "both.npz").score(IMAGES[:9])
    np.testing.assert_array_equal(
        by_file, small("mahalanobis").fit(IMAGES, LABELS).score(IMAGES[:9])
    )


def test_options_from_words() -> None:
    words = {"depth": "28", "m_in": "-20", "schedule": "step"}
    found = parse_options("energy", words)
    assert found == {"depth": 28, "m_in": -20.0, "schedule": "step"}
    assert isinstance(found["m_in"], float)
    assert make_model("energy", 0, found).options().items() >= found.items()
    refused: list[tuple[str, str, Code]] = [
        ("", "3", "unknown-option"),
        ("deep", "3", "unknown-option"),
        ("seed", "3", "unknown-option"),
        ("depth", "x", "bad-option"),
        ("depth", "", "bad-option"),
    ]
    for name, text, code in refused:
        with mistake(code):
            parse_options("energy", {name: text})


def test_images_may_be_floats_or_tensors() -> None:
    by_bytes = small("gaussian").fit(IMAGES).score(IMAGES[:9])
    by_floats = small("gaussian").fit(IMAGES / 255).score(torch.from_numpy(IMAGES[:9]))
    np.testing.assert_allclose(by_bytes, by_floats)


@pytest.mark.parametrize("name", BASELINES)
def test_a_detector_calibrates_and_keeps_any_of_them(name: str, tmp_path: Path) -> None:
    outliers = OTHER if BASELINES[name].takes_outliers else None
    detector = Detector(method=name, **SMALL.get(name, {}))
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
    assert loaded.facts == detector.facts
    assert loaded.settings == detector.settings
    with mistake("wrong-encoder"):
        Detector.load(tmp_path / "d", encoder=nn.Flatten())


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images converted, call by call."""
    counts: list[int] = []
    to_uint8 = array.to_uint8

    def count_one(item: Encoded, size: int | None, how: Any, notes: Any) -> NDArray[np.uint8]:
        counts.append(1)
        return decode(item, size, how, notes)

    def count_rows(block: NDArray[np.uint8]) -> NDArray[np.uint8]:
        counts.append(len(block))
        return to_uint8(block)

    monkeypatch.setattr(stream, "decode", count_one)
    monkeypatch.setattr(array, "to_uint8", count_rows)
    return counts


@pytest.mark.parametrize("road", ["array", "Parquet"])
@pytest.mark.parametrize("name", ["gaussian", "mahalanobis", "energy"])
def test_each_image_is_decoded_once(
    name: str, road: str, tmp_path: Path, converted: list[int]
) -> None:
    images: Any = IMAGES
    others: Any = OTHER
    labels: Any = LABELS
    if road == "Parquet":
        images, others, labels = tmp_path / "in.parquet", tmp_path / "out.parquet", None
        write_images(images, IMAGES, LABELS)
        write_images(others, OTHER, np.zeros(len(OTHER), np.int64))
    kind = BASELINES[name]
    given = {"labels": labels} if kind.needs_labels else {}
    wanted = len(IMAGES)
    if kind.takes_outliers:
        given["outliers"] = others
        wanted += len(OTHER)
    detector = Detector(method=name, **SMALL.get(name, {})).fit(images, **given)
    assert sum(converted) == wanted
    converted.clear()
    scores = detector.score(images)
    assert sum(converted) == len(scores.statistic) == len(IMAGES)

    converted.clear()
    alone = small(name).fit(images, **given)
    assert sum(converted) == wanted
    converted.clear()
    assert len(alone.score(images)) == sum(converted) == len(IMAGES)


def test_p_values_of_a_baseline_keep_their_promise_on_new_images() -> None:
    rates = []
    for seed in range(20):
        usual = textures(400, seed=seed)
        detector = Detector(method="pca-residual", components=8, seed=seed).fit(usual)
        rates.append((detector.score(textures(500, seed=1000 + seed)).p_value <= 0.1).mean())
    # Mean 0.097 (3 of 31 at most below 0.1), standard deviation 0.053 a fit, 0.012 of the mean.
    assert 0.05 < np.mean(rates) < 0.135


def test_what_a_detector_refuses_of_a_baseline() -> None:
    with mistake("bad-option"):
        Detector(method="glow")
    with mistake("unknown-option"):
        Detector(depth=10)  # of a baseline, asked of the flow
    with mistake("unknown-option"):
        Detector(method="gaussian", components=8)
    with mistake("unknown-option"):
        Detector(method="gaussian", epochs=3)
    with mistake("unknown-option"):
        Detector(method="energy", options="depth=10")
    for detector in (Detector(), Detector(method="gaussian")):
        with mistake("bad-labels"):
            detector.fit(IMAGES, LABELS)
        with mistake("bad-outliers"):
            detector.fit(IMAGES, None, OTHER)
    with mistake("bad-labels"):
        Detector(method="energy").fit(IMAGES)
    with mistake("bad-outliers"):
        Detector(method="mahalanobis-sees-ood").fit(IMAGES, LABELS)


def test_the_seed_and_the_epochs_of_a_detector_are_those_of_its_baseline() -> None:
    detector = Detector(method="gradcon", epochs=1, seed=5).fit(IMAGES)
    assert isinstance(detector.model, BASELINES["gradcon"])
    assert (detector.model.seed, detector.model.options()["epochs"]) == (5, 1)
    assert len(detector.model.trainings[0].history) == 1
