"""Images of a fit that are not all usual: which are left out, and what holds for the others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from approxmass import Detector
from approxmass.data import open_images
from approxmass.describe import describe
from approxmass.evaluation.compare import compare
from approxmass.fit_input import FitInput
from approxmass.models.base import FitRun
from approxmass.models.flow import FlowModel
from approxmass.training.folds import in_folds
from approxmass.training.holdout import Units
from approxmass.trimming import most_outlying, unseen_scores
from conftest import mistake, textures, two_classes
from test_cli import refused, run

Images = NDArray[np.uint8]


def strange(n: int, seed: int = 0, side: int = 12) -> Images:
    """Images of noise, each unlike all others."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side), np.uint8)


def mixed(usual: int, others: int) -> Images:
    """Textures with some of another kind at the end."""
    return np.concatenate([textures(usual), strange(others)])


def scored(images: Images, groups: Any = None, **options: Any) -> tuple[NDArray[Any], ...]:
    """What a first pass says of all images."""
    detector = Detector(method="gaussian", **options)
    asked = FitInput(
        source=open_images(images),
        labels=None,
        outliers=None,
        groups=groups,
        settings=detector._asked,
        options=detector._given,
    )
    return unseen_scores(asked, FitRun(device=torch.device("cpu")))


def written(folder: Path, images: Images, first: str = "") -> Path:
    """A folder of PNGs by number."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{first}{place:03}.png")
    return folder


# --- which are left out


@pytest.mark.parametrize("options", [{"method": "gaussian"}, {"epochs": 3}])
@pytest.mark.parametrize("calibration", ["holdout", "folds"])
def test_outliers_among_the_images_are_those_left_out(
    options: dict[str, Any], calibration: str
) -> None:
    images = mixed(196, 4)
    detector = Detector(calibration=calibration, trim=0.02, **options).fit(images)
    assert set(detector.facts.trimmed) == {"196", "197", "198", "199"}
    assert detector.facts.images == 196
    assert detector.settings.calibration == calibration


def test_of_usual_images_exactly_the_share_is_left_out() -> None:
    for share, count in ((0.004, 1), (0.05, 12), (0.3, 75)):
        facts = Detector(method="gaussian", trim=share).fit(textures(250)).facts
        assert len(facts.trimmed) == len(set(facts.trimmed)) == count
        assert facts.images == 250 - count
        assert facts.training + facts.reference + facts.calibration == facts.images


def test_the_second_fit_is_that_of_the_images_that_are_left() -> None:
    images = mixed(200, 10)
    trimmed = Detector(epochs=2, trim=0.05).fit(images)
    out = np.isin(np.arange(len(images)), [int(name) for name in trimmed.facts.trimmed])
    plain, new = Detector(epochs=2).fit(images[~out]), textures(30, seed=9)
    np.testing.assert_array_equal(trimmed.score(new).p_value, plain.score(new).p_value)
    assert trimmed.facts.sha256 == plain.facts.sha256
    assert trimmed.facts.sha256 != Detector(epochs=2).fit(images).facts.sha256


def test_each_score_is_by_a_model_that_has_not_seen_the_image() -> None:
    images = textures(80)
    scores, fold = scored(images)
    assert np.bincount(fold).tolist() == [20, 20, 20, 20]
    for place in (3, 40):
        changed = images.copy()
        changed[place] = 255 - changed[place]
        own = fold == fold[place]
        again, folds = scored(changed)
        np.testing.assert_array_equal(folds, fold)
        # Those of its fold are as they were: their model has learnt from it in neither case.
        others = own & (np.arange(80) != place)
        np.testing.assert_array_equal(again[others], scores[others])
        assert (again[~own] != scores[~own]).any()


def test_a_memory_of_the_images_does_not_hide_an_outlier() -> None:
    """The nearest neighbour of a training image is itself, unless it was not there to see."""
    images = mixed(150, 3)
    detector = Detector(method="nearest-neighbour", trim=0.02).fit(images)
    assert {"150", "151", "152"} <= set(detector.facts.trimmed)


def test_folds_are_measured_each_by_itself() -> None:
    scores = np.concatenate([np.arange(20.0), 1000 + 50 * np.arange(20.0), [np.nan] * 5])
    fold = np.repeat([0, 1, -1], [20, 20, 5])
    scores[[4, 25]] = 90.0, 5000.0  # by 10 and 5 spreads of their folds
    marked = [np.flatnonzero(most_outlying(scores, fold, count)).tolist() for count in (1, 2, 45)]
    assert marked == [[4], [4, 25], list(range(40))]


# --- what holds for the others


def test_false_alarms_hold_for_images_that_would_not_have_been_left_out() -> None:
    """Usual images alone, a fifth of them trimmed; new ones are judged by the same first pass."""
    kept, everyone = [], []
    for seed in range(60):
        images = textures(260, side=6, seed=seed)
        usual, new = images[:200], images[200:]
        detector = Detector(method="gaussian", seed=seed, trim=0.2).fit(usual)
        p = detector.score(new).p_value
        stays = ~most_outlying(*scored(images, seed=seed), 52)[200:]
        kept.append((p[stays] <= 0.1).mean())
        everyone.append((p <= 0.1).mean())
    # One calibration set of 30 moves a fit's rate by 5%, so the mean by 0.7%.
    assert abs(np.mean(kept) - 3 / 31) < 0.022
    # Of all usual images more are called, by no more than the share.
    assert 0.15 < np.mean(everyone) < 0.1 + 0.2


def test_trimming_outliers_gives_usual_images_their_false_alarms_back() -> None:
    shares: dict[float, list[float]] = {0.0: [], 0.1: []}
    found: dict[float, list[float]] = {0.0: [], 0.1: []}
    for seed in range(25):
        images = textures(200, side=6, seed=seed)
        images[:20] = strange(20, seed, side=6)
        for trim in shares:
            detector = Detector(method="gaussian", seed=seed, trim=trim).fit(images)
            shares[trim].append(
                detector.predict(textures(200, side=6, seed=500 + seed), 0.1).mean()
            )
            new = strange(100, seed + 500, side=6)
            found[trim].append(detector.predict(new, 0.1).mean())
    assert abs(np.mean(shares[0.1]) - 3 / 31) < 0.035  # of one fit by 5%
    assert np.mean(shares[0.0]) < 0.05
    assert np.mean(found[0.1]) > np.mean(found[0.0]) + 0.1


# --- copies, groups, labels, regions


def test_copies_of_an_outlier_are_left_out_together() -> None:
    images = np.concatenate([np.repeat(textures(150), 2, 0), strange(2)[[0, 0, 0, 1]]])
    scores, _ = scored(images)
    np.testing.assert_array_equal(scores[:300:2], scores[1:300:2])
    facts = Detector(method="gaussian", trim=4 / 304).fit(images).facts
    assert facts.trimmed == ("300", "301", "302", "303")
    assert any("copies" in note for note in facts.notes)  # of the images that are left


def test_an_image_that_comes_again_and_again_is_usual() -> None:
    images = np.concatenate([textures(200), np.full((60, 12, 12), 255, np.uint8)])
    scores, fold = scored(images)
    assert np.isnan(scores[200:]).all()
    assert (fold[200:] == -1).all()
    facts = Detector(method="gaussian", trim=0.1).fit(images).facts
    assert max(int(name) for name in facts.trimmed) < 200


def test_a_group_may_lose_single_images() -> None:
    images, groups = mixed(300, 6), np.arange(306) % 102  # three of each
    scores, fold = scored(images, groups)
    assert np.isfinite(scores).all()  # all of a group, by a model that has seen none of it
    assert all(len(set(fold[groups == group])) == 1 for group in range(102))
    detector = Detector(method="gaussian", trim=6 / 306).fit(images, groups=groups)
    facts = detector.facts
    assert set(facts.trimmed) == {str(place) for place in range(300, 306)}
    assert any("300 images in 102 groups" in note for note in facts.notes)
    again = Detector(method="gaussian", trim=6 / 306).fit(images, groups=[f"g{g}" for g in groups])
    assert again.facts.trimmed == facts.trimmed


def test_all_of_a_unit_calibrate_for_a_first_pass_and_one_for_p_values() -> None:
    of = np.arange(120) // 3
    units = Units.among(np.arange(120), of, "array")
    one, every = in_folds(units, 4, 0), in_folds(units, 4, 0, every=True)
    np.testing.assert_array_equal(one.order, every.order)
    np.testing.assert_array_equal(one.fold, every.fold[:40])
    assert (len(one.fold), len(every.fold)) == (40, 120)
    for k in range(4):
        seen = of[every.order[np.concatenate([every.training[k], every.reference[k]])]]
        assert not set(seen) & set(of[every.order[np.flatnonzero(every.fold == k)]])


def test_labels_are_those_of_the_images_that_are_left() -> None:
    images, labels = two_classes(240)
    images[[5, 100]] = 255 * (np.indices((12, 12)).sum(0) % 2)
    images[100, 0, 0] = 7
    detector = Detector(method="mahalanobis", epochs=2, trim=2 / 240)
    detector.fit(images, labels=labels)
    keep = np.delete(np.arange(240), [int(name) for name in detector.facts.trimmed])
    expected = Detector(method="mahalanobis", epochs=2).fit(images[keep], labels=labels[keep])
    new = textures(20, seed=9)
    np.testing.assert_array_equal(detector.score(new).statistic, expected.score(new).statistic)


def test_what_lies_outside_of_the_region_makes_no_image_an_outlier() -> None:
    images, region = textures(200), np.zeros((12, 12), bool)
    region[:, :6] = True
    images[7, :, 6:], images[9, :, :6] = 255, 255
    facts = Detector(method="gaussian", roi=region, trim=0.005).fit(images).facts
    assert facts.trimmed == ("9",)


# --- what is said, files, the command


def test_the_command_names_what_it_leaves_out(tmp_path: Path) -> None:
    place = written(written(tmp_path / "in", textures(120)), strange(6), "odd")
    fitted = run(
        "fit", place, "-o", tmp_path / "d", "--method", "gaussian", "--trim", 6 / 126,
        "--json", tmp_path / "fit.json",
    )  # fmt: skip
    assert fitted.exit_code == 0, fitted.stderr
    facts = json.loads((tmp_path / "fit.json").read_text())
    assert facts["trimmed_names"] == [f"odd00{place}.png" for place in range(6)]
    said = "the 6 most outlying of 126 images (odd000.png, odd001.png, odd002.png and 3 more)"
    assert f"trim: {said} are left out" in facts["notes"]
    assert said in facts["trimmed"]
    assert "the guarantee is for images like the other 120" in facts["trimmed"]
    assert "of images like all 126 up to 4.76% more may be called" in facts["trimmed"]
    shown = json.loads(run("inspect", tmp_path / "d", "--json", "-").stdout)
    assert shown["trimmed_names"] == facts["trimmed_names"]
    assert shown["trimmed"] == facts["trimmed"]
    loaded = Detector.load(tmp_path / "d")
    assert (loaded.settings.trim, loaded.facts.images) == (6 / 126, 120)
    np.save(tmp_path / "id.npy", textures(120, seed=5))
    np.save(tmp_path / "ood.npy", strange(60, seed=5))
    page = tmp_path / "page.html"
    assert run(
        "report", tmp_path / "d", "--id", tmp_path / "id.npy", "--ood", tmp_path / "ood.npy",
        "-o", page,
    ).exit_code == 0  # fmt: skip
    assert "6 were left out as the most outlying: the guarantee is for" in page.read_text()
    # Calibrated anew, the promise is for images like the new ones.
    loaded.calibrate(textures(40, seed=7))
    assert describe(loaded)["trimmed"].endswith("are left out")


def test_without_trim_nothing_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", textures(120))
    words = ["fit", tmp_path / "x.npy", "--method", "gaussian", "--json", "-"]
    plain = json.loads(run(*words, "-o", tmp_path / "a").stdout)
    zero = json.loads(run(*words, "-o", tmp_path / "b", "--trim", 0).stdout)
    assert plain["trimmed_names"] == []
    assert "trimmed" not in plain
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert plain["fingerprint"] == zero["fingerprint"]


@pytest.mark.parametrize(
    ("trim", "count", "options", "code", "words"),
    [
        (0.5, 120, {}, "bad-option", "trim must be at least 0 and below 0.5"),
        (-0.1, 120, {}, "bad-option", "trim must be at least 0 and below 0.5"),
        (0.001, 120, {}, "bad-option", "is none: give at least 0.0083, or 0"),
        (0.4, 40, {}, "too-few", "leaves 24 of the 40 images"),
        (0.1, 110, {"calibration": "holdout"}, "too-few", "leaves 99 of the 110 images"),
    ],
)
def test_a_share_that_cannot_be(
    trim: float, count: int, options: dict[str, Any], code: Any, words: str
) -> None:
    with mistake(code, words):
        Detector(method="gaussian", trim=trim, **options).fit(textures(count))


def test_too_few_different_images_are_one_clear_line() -> None:
    with mistake("too-few", "10 different images, too few to tell which are outlying"):
        Detector(method="gaussian", trim=0.1).fit(np.repeat(textures(10), 30, 0))
    # Enough until some are left out: each third image is there once, the others in threes.
    with mistake("too-few", "too few"):
        Detector(method="gaussian", trim=0.3).fit(np.repeat(textures(33), 3, 0))
    with mistake("too-few", "trim has left"):
        groups = np.repeat(np.arange(31), [1] * 20 + [10] * 11)
        Detector(method="gaussian", trim=0.2).fit(textures(130), groups=groups)
    with mistake("bad-option", "leave trim out"):
        compare(textures(200), {"other": textures(50, shift=1)}, trim=0.1)


def test_the_command_refuses_a_share_before_any_work(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", textures(120))
    refused("bad-option", "fit", tmp_path / "x.npy", "-o", tmp_path / "d", "--trim", 0.7)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize("at", [3, 5, 7])  # in the first pass, at the second's start, in it
def test_a_fit_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    np.save(tmp_path / "x.npy", mixed(60, 3))
    words = ["fit", tmp_path / "x.npy", "-o", tmp_path / "d", "--epochs", 2, "--trim", 0.05]
    learn, calls = FlowModel.learn, []

    def stopping(self: FlowModel, *given: Any) -> None:
        calls.append(self)
        if len(calls) == at:
            raise KeyboardInterrupt
        learn(self, *given)

    monkeypatch.setattr(FlowModel, "learn", stopping)
    stopped = run(*words)
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    kept = sorted(path.name.split("safetensors")[1] for path in tmp_path.glob("*checkpoint*"))
    passes = [f".trim.fold{k}" for k in range(4)], [f".fold{k}" for k in range(4)]
    assert kept == sorted([*passes[0], *passes[1]][: at - 1][-8:])
    refused("would-overwrite", *words, naming="--resume")
    again = run(*words, "--resume")
    assert again.exit_code == 0, again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "x.npy"]
    monkeypatch.undo()
    expected = Detector(epochs=2, trim=0.05).fit(tmp_path / "x.npy")
    found, new = Detector.load(tmp_path / "d"), textures(20, seed=3)
    assert found.facts.trimmed == expected.facts.trimmed
    np.testing.assert_array_equal(found.score(new).statistic, expected.score(new).statistic)
