import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn

from approxmass import ApproxMassError, Detector, TrainingSettings, open_images
from approxmass.baselines import BASELINES
from approxmass.data import ImageSource
from approxmass.data.decode import to_uint8
from approxmass.data.readers import array
from approxmass.errors import Code
from approxmass.evaluation.metrics import auroc
from approxmass.models.flow import FlowModel
from approxmass.models.scorer import FlowScorer
from approxmass.storage import artifact
from approxmass.storage.tensors import load_exactly
from approxmass.training.holdout import Units, three_shares
from conftest import mistake, textures, unsquashed


def training(detector: Detector) -> TrainingSettings:
    assert isinstance(detector.model, FlowModel)
    return detector.model.training


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector(epochs=10, seed=1).fit(textures(1200))


def colour(n: int, side: int = 8, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    tint = generator.normal(0, 20, (n, 1, 1, 3))
    return (textures(n, side, seed=seed)[..., None] + tint).clip(0, 255).astype(np.uint8)


def test_it_finds_another_kind_of_image(fitted: Detector) -> None:
    usual, other = (
        fitted.score(textures(400, seed=5)),
        fitted.score(textures(400, shift=0.8, seed=6)),
    )
    for name in ("mass", "nll", "fused"):
        assert auroc(usual.statistics[name], other.statistics[name]) > 0.9
    assert fitted.predict(textures(400, shift=0.8, seed=6)).mean() > 0.6
    assert usual.is_outlier.mean() < 0.1


def test_scores_agree_with_each_other(fitted: Detector) -> None:
    x = textures(50, seed=5)
    scores = fitted.score(x)
    assert all(len(v) == 50 for v in (scores.log_prob, scores.mass, scores.p_value))
    np.testing.assert_array_equal(scores.log_prob, -scores.statistics["nll"])
    np.testing.assert_array_equal(scores.statistic, scores.statistics["fused"])
    np.testing.assert_array_equal(scores.is_outlier, scores.p_value <= 0.05)
    np.testing.assert_array_equal(fitted.predict(x, 0.2), scores.p_value <= 0.2)
    order = np.argsort(scores.statistic)
    assert (np.diff(scores.p_value[order]) <= 0).all()


@pytest.mark.parametrize(
    "statistic",
    ["fused", *(pytest.param(s, marks=pytest.mark.slow) for s in ("nll", "mass", "typicality"))],
)
def test_false_alarms_on_images_never_seen_over_20_seeds(statistic: str) -> None:
    """P(p <= 5%) <= 5% whatever the flow has learnt, with real images."""
    every = open_images("sample:fashion_mnist/train").read()[:, :, ::2, ::2]
    alarms, trials, new = 0, 20, 500
    for seed in range(trials):
        order = np.random.default_rng(seed).permutation(len(every))
        usual, unseen = every[order[:1500]], every[order[1500 : 1500 + new]]
        detector = Detector(
            seed=seed, epochs=1, components=16, holdout=0.2, statistic=statistic
        ).fit(usual)
        count = int(detector.predict(unseen).sum())
        n = len(detector.calibration[statistic])
        # Given n calibration scores, the number of alarms is beta-binomial (Vovk, 2012).
        k = int(0.05 * (n + 1))
        one = stats.betabinom(new, k, n + 1 - k)
        assert one.cdf(count) > 1e-4
        assert one.sf(count - 1) > 1e-4
        alarms += count
    # All seeds together: mean and variance of the sum of independent beta-binomials.
    mean, variance = trials * one.mean(), trials * one.var()
    assert abs(alarms - mean) < 3.5 * np.sqrt(variance)
    assert alarms / (trials * new) < 0.05 + 3.5 * np.sqrt(variance) / (trials * new)


def test_discoveries_are_controlled(fitted: Detector) -> None:
    mixed = np.concatenate([textures(300, seed=8), textures(100, shift=1.2, seed=9)])
    # 90 calibration scores cannot give p-values small enough for a few discoveries among many,
    # so that at 20% there are either many, mostly right, or none.
    called = fitted.predict(mixed, 0.2, control="discoveries")
    assert called[300:].mean() > 0.5
    assert called[:300].sum() / called.sum() < 0.35
    assert called.sum() <= fitted.predict(mixed, 0.2).sum()


def test_gross_outliers_that_too_few_calibration_images_cannot_tell_are_not_passed_in_silence(
    fitted: Detector,
) -> None:
    mixed = np.concatenate([textures(980, seed=8), textures(20, shift=1.2, seed=9)])
    with pytest.warns(UserWarning, match=r"none of 1,000 images: \d+ are further") as found:
        assert not fitted.predict(mixed, 0.02, control="discoveries").any()
    assert found[0].filename == __file__


def test_a_group_of_usual_images_is_usual_and_a_drifted_one_is_not(fitted: Detector) -> None:
    assert fitted.group_p_value(textures(64, seed=10)) > 0.01
    assert fitted.group_p_value(textures(64, shift=0.3, seed=10)) < 0.01


def test_saving_and_loading_changes_no_bit(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    x = textures(60, seed=5)
    before, after = fitted.score(x), loaded.score(x)
    for name in before.statistics:
        np.testing.assert_array_equal(before.statistics[name], after.statistics[name])
    np.testing.assert_array_equal(before.p_value, after.p_value)
    assert loaded.settings == fitted.settings
    assert loaded.facts == fitted.facts
    assert loaded.model.history == fitted.model.history
    loaded.save(tmp_path / "again")
    for name in ("detector.json", "weights.safetensors", "calibration.safetensors"):
        assert (tmp_path / "d" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_seed_repeats_a_fit_and_another_does_not() -> None:
    x, probe = textures(300), textures(20, seed=5)
    scores = [Detector(epochs=1, seed=s).fit(x).score(probe).statistic for s in (1, 1, 2)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_a_detector_can_be_fitted_again() -> None:
    detector = Detector(epochs=1, size=32).fit(textures(200, side=10))
    assert detector.settings.options["encoder"] == "pca"
    detector.fit(colour(120))
    assert detector.settings.options["encoder"] == "lite0"
    assert detector.score(colour(5)).p_value.shape == (5,)


def test_colour_goes_to_a_network_with_its_statistics_and_says_why() -> None:
    detector = Detector(epochs=1, size=32).fit(colour(120))
    options = detector.settings.options
    assert (options["encoder"], options["preset"]) == ("lite0", "identity")
    assert any("lite0" in note and "colour" in note for note in detector.facts.notes)
    assert training(detector).alpha == pytest.approx(np.sqrt(detector.model.facts()["dimension"]))
    scores = detector.score(colour(6, seed=4))
    assert list(scores.statistics) == [
        "nll",
        "mass",
        "residual",
        "neighbour",
        "typicality",
        "fused",
    ]
    np.testing.assert_array_equal(scores.statistic, scores.statistics["fused"])


def test_colour_in_pixels_has_the_latent_fit(tmp_path: Path) -> None:
    detector = Detector("pixels", epochs=1, draws=2).fit(colour(200))
    assert detector.settings.options["encoder"] == "pixels"
    assert detector.settings.options["preset"] == "compact"
    assert detector.statistic == "latent_fit"
    assert training(detector).alpha == 2 / 32
    x = colour(30, seed=4)
    assert "latent_fit" in detector.score(x).statistics
    detector.save(tmp_path / "d")
    np.testing.assert_array_equal(
        Detector.load(tmp_path / "d").score(x).statistic, detector.score(x).statistic
    )
    darker, usual = detector.score(x // 8), detector.score(x)
    assert auroc(usual.statistics["latent_fit"], darker.statistics["latent_fit"]) > 0.95


def test_grey_goes_to_pca_and_alpha_follows_the_dimension() -> None:
    detector = Detector(epochs=1, components=20).fit(textures(300))
    assert detector.settings.options["encoder"] == "pca"
    assert any("grey" in note for note in detector.facts.notes)
    assert detector.model.facts()["dimension"] == 21
    assert training(detector).alpha == pytest.approx(0.35 * np.sqrt(21))


def test_grey_images_in_pixels_with_the_flow_named() -> None:
    detector = Detector("pixels", alpha=0.0, epochs=1, preset="compact").fit(textures(150))
    assert training(detector).alpha == 0
    assert detector.model.history[-1].mass is None
    assert np.isfinite(detector.score(textures(5, seed=3)).mass).all()


def test_large_images_are_resized_and_it_is_said() -> None:
    large = textures(120, side=80)
    detector = Detector("pca", epochs=1).fit(large)
    assert detector.shape == (1, 64, 64)
    assert any("80x80" in note and "64x64" in note for note in detector.facts.notes)
    small = open_images(large, size=64).read()
    np.testing.assert_array_equal(detector.score(large[:9]).mass, detector.score(small[:9]).mass)
    chosen = Detector("pca", epochs=1, size=16).fit(large)
    assert chosen.shape == (1, 16, 16)
    assert not any("brought to" in note for note in chosen.facts.notes)


def test_large_images_keep_their_aspect() -> None:
    wide = textures(120, side=80)[:, :40]
    detector = Detector("pca", epochs=1).fit(wide)
    assert detector.shape == (1, 45, 91)  # of the area of 64x64
    assert any("80x40" in note and "91x45" in note for note in detector.facts.notes)
    small = np.stack([unsquashed(Image.fromarray(image), 45, 91) for image in wide[:9]])
    np.testing.assert_array_equal(detector.score(wide[:9]).mass, detector.score(small).mass)


class ByNumpy(nn.Module):
    """Features that torch cannot export: NumPy has a part in them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 5, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.convolution(x).flatten(1)
        return features + float(np.abs(x.detach().numpy()).max() > 9)


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 5, stride=2), nn.GELU(), nn.Flatten())


@pytest.mark.parametrize("features", [convolutions, ByNumpy])
def test_any_module_can_be_the_encoder(features: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = Detector(features(), epochs=5).fit(textures(400))
    x = textures(50, seed=5)
    other = textures(50, shift=1.0, seed=6)
    assert auroc(detector.score(x).statistic, detector.score(other).statistic) > 0.9
    detector.save(tmp_path / "d")
    blank = features()
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()  # the saved weights come back into the module that is given
    loaded = Detector.load(tmp_path / "d", encoder=blank)
    assert all(not parameter.any() for parameter in blank.parameters())  # those of a copy of it
    np.testing.assert_array_equal(loaded.score(x).statistic, detector.score(x).statistic)


def test_a_module_that_torch_exports_need_not_be_given_again(tmp_path: Path) -> None:
    detector = Detector(convolutions(), epochs=1).fit(textures(150))
    detector.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    x = textures(50, seed=5)
    for rows in (1, 2, 50):  # however many were its example
        np.testing.assert_array_equal(
            loaded.score(x[:rows]).statistic, detector.score(x[:rows]).statistic
        )
    np.testing.assert_array_equal(loaded.explain(x[:4]).maps, detector.explain(x[:4]).maps)
    loaded.save(tmp_path / "again")
    again = Detector.load(tmp_path / "again")
    np.testing.assert_array_equal(again.score(x).statistic, detector.score(x).statistic)


def test_a_module_that_torch_cannot_export_is_asked_for(tmp_path: Path) -> None:
    Detector(ByNumpy(), epochs=1).fit(textures(150)).save(tmp_path / "d")
    with mistake("wrong-encoder", "load it with encoder=..."):
        Detector.load(tmp_path / "d")
    Detector("pca", epochs=1).fit(textures(150)).save(tmp_path / "p")
    with mistake("wrong-encoder", "load it without encoder=..."):
        Detector.load(tmp_path / "p", encoder=convolutions())


def test_a_stream_is_scored_as_the_whole(fitted: Detector) -> None:
    x = textures(10_000, seed=5)
    parts = [scores.statistic for _, scores in fitted.score_chunks(x)]
    assert len(parts) > 1
    np.testing.assert_array_equal(np.concatenate(parts), fitted.score(x).statistic)


def test_the_held_out_images_are_not_trained_on() -> None:
    facts = Detector(epochs=1).fit(textures(1000)).facts
    assert (facts.training, facts.reference, facts.calibration) == (900, 25, 75)


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda: Detector("latent"), "bad-option", "latent"),
        (lambda: Detector(alpha=-1.0), "bad-option", "alpha"),
        (lambda: Detector(alpha="big"), "bad-option", "alpha"),  # type: ignore[call-overload]
        (lambda: Detector(statistic="odin"), "bad-option", "odin"),
        (lambda: Detector(draws=0), "bad-option", "draws"),
        (lambda: Detector(device="abacus"), "no-device", "abacus"),
        (lambda: Detector(preset="huge").fit(textures(200)), "bad-option", "huge"),
        (lambda: Detector("pixels", preset="huge").fit(textures(200)), "bad-option", "huge"),
        (lambda: Detector().fit(textures(29)), "too-few", "29"),
        (lambda: Detector(calibration="holdout").fit(textures(99)), "too-few", "by folds"),
        (lambda: Detector(calibration="half"), "bad-option", "half"),
        (lambda: Detector().fit(np.full((200, 8, 8), 7, np.uint8)), "no-variation", ""),
        (lambda: Detector("pixels").fit(textures(200, side=9)), "wrong-shape", "9x9"),
        (lambda: Detector().score(textures(3)), "not-fitted", ""),
        (lambda: Detector().predict(textures(3)), "not-fitted", ""),
        (lambda: Detector().save("nowhere"), "not-fitted", ""),
        (lambda: Detector().fit(textures(200), labels=[0] * 200), "bad-labels", "flow"),
        (lambda: Detector().fit(textures(200), outliers=textures(9)), "bad-outliers", "flow"),
        (lambda: Detector().fit(np.full((200, 8, 8), np.nan)), "bad-image", "NaN"),
        (lambda: Detector().fit(np.full((200, 8, 8), 3.0)), "bad-image", "255"),
    ],
)
def test_mistakes_are_named_in_one_line(make, code: Code, words: str) -> None:  # type: ignore[no-untyped-def]
    with mistake(code, words):
        make()


CONSTANT = {"flow": {}, "flow on pixels": {"encoder": "pixels"}, "flow of photos": {"size": 32}}
CONSTANT |= {name: {"method": name} for name in BASELINES}


@pytest.mark.parametrize("name", CONSTANT)
@pytest.mark.parametrize("of", ["grey", "colour", "in the frame"])
def test_nothing_is_learnt_from_images_that_are_all_the_same(name: str, of: str) -> None:
    options = dict(CONSTANT[name])
    images = np.full((120, 8, 8) if of == "grey" else (120, 8, 8, 3), 90, np.uint8)
    if of == "in the frame":  # each has one other pixel, which the scaling does not take
        images = np.full((120, 256, 256, 3), 90, np.uint8)
        images[np.arange(120), 0, 0] = np.arange(120)[:, None] % 3 + 89
        options["size"] = 8
    kind, given = BASELINES.get(name), {}
    if kind is not None and kind.needs_labels:
        given["labels"] = np.arange(120) % 2
    if kind is not None and kind.takes_outliers:
        given["outliers"] = images[:20]
    with mistake("no-variation", "all images are the same"):
        Detector(**options).fit(images, **given)


@pytest.mark.parametrize("method", ["flow", "gaussian", "nearest-neighbour"])
def test_two_distinct_images_are_something_to_learn_from(method: str) -> None:
    images = np.full((200, 8, 8), 90, np.uint8)
    images[::2, 3] = 200
    Detector(method=method).fit(images).score(images[:4])


def test_images_of_another_kind_are_refused(fitted: Detector) -> None:
    with mistake("wrong-shape", "10x10 grey"):
        fitted.score(textures(4, side=10))
    with mistake("wrong-shape", "12x12 RGB"):
        fitted.score(np.full((4, 12, 12, 3), (200, 90, 20), np.uint8))


def test_a_fit_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    detector = Detector("pixels", epochs=1).fit(textures(120))
    before = detector.score(textures(5)).mass
    with mistake("wrong-shape"):
        detector.fit(colour(200, side=9))
    np.testing.assert_array_equal(detector.score(textures(5)).mass, before)
    detector.save(tmp_path / "d")
    np.testing.assert_array_equal(Detector.load(tmp_path / "d").score(textures(5)).mass, before)


def test_the_size_of_an_opened_source_is_kept() -> None:
    detector = Detector("pca", epochs=1).fit(open_images(textures(120, side=80), size=32))
    assert detector.shape == (1, 32, 32)
    assert detector.settings.size == 32
    assert not any("brought to" in note for note in detector.facts.notes)


def test_an_image_unlike_any_other_spoils_no_batch() -> None:
    generator = np.random.default_rng(0)
    scene = generator.integers(40, 200, (16, 16))  # a camera that always sees the same
    lamp = generator.normal(0, 10, (400, 1, 1))
    usual = (scene + lamp + generator.normal(0, 0.6, (400, 16, 16))).clip(0, 255).astype(np.uint8)
    detector = Detector(epochs=20).fit(usual[:300])
    odd = np.stack([np.full((16, 16), 255), np.zeros((16, 16)), 255 - scene]).astype(np.uint8)
    scores = detector.score(np.concatenate([usual[300:], odd]))
    assert np.isfinite(scores.statistic).all()
    assert scores.is_outlier[-3:].all()
    assert scores.is_outlier[:-3].mean() < 0.2


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.pop("settings"),
        lambda m: m.pop("facts"),
        lambda m: m.pop("model"),
        lambda m: m.pop("files"),
        lambda m: m.update(format_version=-1),
        lambda m: m.update(format_version=1),
        lambda m: m["settings"]["options"].pop("encoder"),
        lambda m: m["settings"]["options"].update(encoder="pixels"),
        lambda m: m["settings"]["options"].update(encoder="auto"),
        lambda m: m["settings"]["options"].update(extra=1),
        lambda m: m["settings"]["options"].update(statistic="latent_fit"),
        lambda m: m["settings"]["options"].update(preset="nsf"),
        lambda m: m["settings"].update(extra=1),
        lambda m: m["settings"].update(seed="x"),
        lambda m: m["settings"].update(mode="sepia"),
        lambda m: m["settings"].update(background="white"),
        lambda m: m["settings"].update(pages=3),
        lambda m: m["settings"].update(roi="mask.png"),
        lambda m: m["settings"].update(roi=3),
        lambda m: m["settings"].update(resample="nearest"),
        lambda m: m["settings"].update(size="large"),
        lambda m: m["settings"].pop("options"),
        lambda m: m["settings"].update(method="energy"),
        lambda m: m["facts"].pop("shape"),
        lambda m: m["facts"].pop("source"),
        lambda m: m["facts"].update(notes=3),
        lambda m: m["facts"].update(notes=[3]),
        lambda m: m["facts"].update(shape=[1, 12]),
        lambda m: m["facts"].update(shape=[1, 12, 13]),
        lambda m: m["facts"].update(shape="abc"),
        lambda m: m["facts"].update(calibration=7),
        lambda m: m["facts"].update(fit_seconds="long"),
        lambda m: m["model"].pop("training"),
        lambda m: m["model"].pop("views"),
        lambda m: m["model"].update(history=[]),
        lambda m: m["model"].update(history=[1]),
        lambda m: m["model"]["training"].update(epochs=3),
        lambda m: m["files"].pop("weights.safetensors"),
    ],
)
def test_a_manifest_that_was_forged_is_one_line(
    fitted: Detector, tmp_path: Path, edit: Edit
) -> None:
    fitted.save(tmp_path / "d")
    path = tmp_path / "d" / "detector.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    manifest["digest"] = artifact._manifest_digest(manifest)  # as whoever forges it would
    path.write_text(json.dumps(manifest))
    with pytest.raises(ApproxMassError) as info:
        Detector.load(tmp_path / "d")
    assert info.value.code == "damaged"
    assert str(tmp_path / "d") in str(info.value)
    assert "\n" not in str(info.value)


def test_rates_that_the_calibration_cannot_resolve_are_refused_before_any_work(
    fitted: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "score", None)
    with mistake("rate", "999 calibration images"):
        fitted.predict(textures(3), 0.001)
    for rate in (0.0, 1.0, float("nan"), None, "0.05", 1e-320, [0.1]):
        with mistake("rate"):
            fitted.predict(textures(3), rate)  # type: ignore[arg-type]
    with mistake("bad-option"):
        fitted.predict(textures(3), control="all")  # type: ignore[arg-type]


def test_a_full_gpu_is_no_fault_of_the_folder(
    fitted: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted.save(tmp_path / "d")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FlowModel, "to", full)
    with pytest.raises(torch.OutOfMemoryError):
        Detector.load(tmp_path / "d")


def test_images_are_converted_once_in_a_fit_and_once_in_a_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []

    def counted(block: np.ndarray) -> np.ndarray:
        rows.append(len(block))
        return to_uint8(block)

    monkeypatch.setattr(array, "to_uint8", counted)
    detector = Detector(epochs=1).fit(textures(2500) / 255)
    assert sum(rows) == 2500
    rows.clear()
    detector.score(textures(1100) / 255)
    assert sum(rows) == 1100


class Counting(nn.Module):
    """Features that count the images they are made of, copies of it too, but for padding."""

    rows = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counting.rows += len(x.flatten(1).unique(dim=0))
        return x.flatten(1)[:, ::3]


def test_every_image_goes_through_the_encoder_once_in_a_fit_and_once_in_a_score() -> None:
    Counting.rows = 0
    detector = Detector(Counting(), epochs=2).fit(textures(1500))
    # Those that calibrate once more, with a gradient: for what is usual in a map; and the probe.
    assert Counting.rows == 1500 + detector.facts.calibration + 4
    Counting.rows = 0
    detector.score(textures(2100))
    assert Counting.rows == 2100


def test_threads_are_those_asked_for_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        FlowScorer,
        "_in_batches",
        lambda *given, real=FlowScorer._in_batches: (
            seen.append(torch.get_num_threads()) or real(*given)
        ),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        detector = Detector(epochs=1, threads=1).fit(textures(150))
        detector.score(textures(4))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        Detector(epochs=1).fit(textures(150))
        assert seen[-1] == 2
    finally:
        torch.set_num_threads(before)


def test_pixels_of_another_shape_or_type_are_refused_before_the_model(fitted: Detector) -> None:
    other = fitted.shape[1] * 2
    for pixels in (
        np.zeros((2, 1, other, 6), np.uint8),  # as many numbers
        np.zeros((2, 3, 12, 12), np.uint8),
        np.zeros((2, *fitted.shape), np.float32),
    ):
        with mistake("wrong-shape"):
            fitted.score_pixels(pixels)
        with mistake("wrong-shape"):
            fitted.explain_pixels(pixels)


def test_what_does_not_go_together_is_refused_before_the_images_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageSource, "read", None)
    monkeypatch.setattr(ImageSource, "chunks", None)
    for options in (
        {"encoder": "pca", "preset": "compact"},
        {"encoder": "pixels", "preset": "realnvp"},
        {"encoder": "pixels", "components": 3},
        {"encoder": "pca", "draws": 5},
        {"encoder": "pca", "statistic": "latent_fit"},
    ):
        with mistake("bad-option"):
            Detector(**options).fit(textures(200))  # type: ignore[call-overload]


def test_a_baseline_has_nothing_to_explain_and_opens_nothing() -> None:
    detector = Detector(method="gaussian").fit(textures(120))
    with mistake("no-explanation"):
        detector.explain("there is no such file")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("encoder.axes", lambda v: v[:5].contiguous()),
        ("encoder.axes", lambda v: v.double()),
        ("encoder.axes", lambda v: v.flatten()),
        ("encoder.mean", lambda v: v[:0]),
        ("encoder.energy", lambda v: v.repeat(2)),
        ("moments", lambda v: v.float()),
        ("flow.orders", lambda v: v[:-1].contiguous()),
    ],
)
def test_tensors_of_another_shape_or_type_are_damage(
    fitted: Detector, tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    fitted.save(tmp_path / "d")
    manifest, tensors = artifact.load_folder(tmp_path / "d")
    tensors["weights"][name] = change(tensors["weights"][name])
    artifact.save_folder(tmp_path / "d", manifest, tensors, "a card")
    with mistake("damaged"):
        Detector.load(tmp_path / "d")


def test_a_checkpoint_takes_the_place_of_no_file(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", textures(150))
    before = (tmp_path / "images.npy").read_bytes()
    with mistake("would-overwrite"):
        Detector(epochs=1).fit(tmp_path / "images.npy", checkpoint=tmp_path / "images.npy")
    assert (tmp_path / "images.npy").read_bytes() == before


def test_values_that_are_no_numbers_are_refused() -> None:
    for options in (
        {"holdout": 10**400},
        {"alpha": 10**400},
        {"alpha": True},
        {"seed": True},
        {"epochs": True},
        {"alpha": np.array([1, 2])},
        {"encoder": np.zeros(2)},
        {"method": ["flow"]},
    ):
        with mistake("bad-option"):
            Detector(**options)  # type: ignore[call-overload]
    with mistake("no-device"):
        Detector(device=10**30)  # type: ignore[arg-type]


def test_the_device_is_the_one_asked_for(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d", device="cpu")
    assert loaded.device == torch.device("cpu")
    assert isinstance(loaded.model, FlowModel)
    assert {p.device.type for p in loaded.model.scorer.parameters()} == {"cpu"}
    assert {b.device.type for b in loaded.model.scorer.buffers()} == {"cpu"}
    with mistake("no-device"):
        Detector.load(tmp_path / "d", device="cuda:99")


def test_the_state_of_the_model_is_all_that_a_score_depends_on(fitted: Detector) -> None:
    assert isinstance(fitted.model, FlowModel)
    scorer = fitted.model.scorer
    x = torch.from_numpy(textures(20, seed=5))[:, None]
    expected = scorer.statistics_of(x)
    state = {name: value.clone() for name, value in scorer.state_dict().items()}
    other = Detector(epochs=1, seed=9).fit(textures(1200, seed=3)).model
    assert isinstance(other, FlowModel)
    load_exactly(other.scorer, state)
    for name, values in other.scorer.statistics_of(x).items():
        np.testing.assert_array_equal(values, expected[name])


def test_print_says_what_a_detector_is(fitted: Detector) -> None:
    shown = str(fitted)
    for fact in ("1,200 images of array", "seed=1", "pca", "fused", "p >= 1/91"):
        assert fact in shown
    assert len(shown.splitlines()) < 5
    assert str(Detector()) == "Detector(), not fitted"
    assert str(Detector("pca", alpha=2)) == "Detector(encoder='pca', alpha=2), not fitted"
    assert len(str(fitted.model)) < 120


def test_the_manifest_is_readable(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "d")
    manifest = json.loads((tmp_path / "d" / "detector.json").read_text())
    assert manifest["format_version"] == 4
    assert manifest["settings"]["options"]["encoder"] == "pca"
    assert manifest["facts"]["training"] == 1080
    assert len(manifest["model"]["history"]) == 10


MEMORY = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from approxmass import Detector
detector = Detector.load(sys.argv[1])
count = sum(len(scores.p_value) for _, scores in detector.score_chunks(sys.argv[2]))
# Not ru_maxrss, which begins with the parent's.
print(count, int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_long_stream_needs_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    block = rng.integers(0, 256, (4000, 28, 28), dtype=np.uint8)
    Detector("pca", epochs=1).fit(block[:1000]).save(tmp_path / "detector")
    peak = {}
    for blocks in (3, 25):  # 9 MB of pixels, and 78
        path = tmp_path / f"{blocks}-idx3-ubyte"
        header = np.array([0x803, blocks * len(block), 28, 28], ">u4").tobytes()
        path.write_bytes(header + blocks * block.tobytes())
        command = [sys.executable, "-c", MEMORY, str(tmp_path / "detector"), str(path)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        count, peak[blocks] = map(int, out.split())
        assert count == blocks * len(block)
    assert peak[25] < 1.05 * peak[3]


def test_a_mode_holds_for_the_fit_and_for_every_score(tmp_path: Path) -> None:
    usual, new = colour(120, side=12), colour(20, side=12, seed=3)

    def luminance(images: np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])

    detector = Detector("pca", epochs=1, mode="grey").fit(usual)
    assert detector.shape == (1, 12, 12)
    plain = Detector("pca", epochs=1).fit(luminance(usual))
    detector.save(tmp_path / "d")
    for each in (detector, Detector.load(tmp_path / "d")):
        found = each.score(new)
        np.testing.assert_array_equal(found.statistic, plain.score(luminance(new)).statistic)
        assert len(each.explain(new).maps) == 20
    with mistake("wrong-shape"):
        plain.score(new)
    grey = textures(120)
    as_colour = Detector("pca", epochs=1, mode="rgb").fit(grey)
    assert as_colour.shape == (3, 12, 12)
    tripled = np.repeat(grey[:9, :, :, None], 3, axis=3)
    np.testing.assert_array_equal(
        as_colour.score(grey[:9]).statistic, as_colour.score(tripled).statistic
    )


@pytest.mark.parametrize("background", [0, 255, 99])
def test_a_background_holds_for_the_fit_and_for_every_score(
    background: int, tmp_path: Path
) -> None:
    def see_through(images: np.ndarray) -> list[Image.Image]:
        made = [Image.fromarray(image) for image in images]
        for image in made:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        return made

    def drawn(images: np.ndarray) -> np.ndarray:
        ground = Image.new("LA", (12, 12), (background, 255))
        over = [Image.alpha_composite(ground, image) for image in see_through(images)]
        return np.stack([np.asarray(image.convert("L")) for image in over])

    usual, new = textures(120), textures(20, seed=3)
    detector = Detector("pca", epochs=1, background=background).fit(see_through(usual))
    plain = Detector("pca", epochs=1).fit(drawn(usual))
    detector.save(tmp_path / "d")
    for each in (detector, Detector.load(tmp_path / "d")):
        found = each.score(see_through(new)).statistic
        np.testing.assert_array_equal(found, plain.score(drawn(new)).statistic)


def test_all_pages_are_read_in_the_fit_and_in_every_score(tmp_path: Path) -> None:
    usual, new = textures(120), textures(20, seed=3)
    for name, images in (("usual.tiff", usual), ("new.tiff", new)):
        first, *others = [Image.fromarray(image) for image in images]
        first.save(tmp_path / name, save_all=True, append_images=others)
    detector = Detector("pca", epochs=1, pages=True).fit(tmp_path / "usual.tiff")
    assert detector.facts.images == 120
    expected = Detector("pca", epochs=1).fit(usual).score(new).statistic
    detector.save(tmp_path / "d")
    for each in (detector, Detector.load(tmp_path / "d")):
        np.testing.assert_array_equal(each.score(tmp_path / "new.tiff").statistic, expected)


def test_nothing_chosen_before_the_fit_depends_on_calibration_images(tmp_path: Path) -> None:
    upright, lying = textures(400, 120)[:, :, :60], textures(400, 120, seed=1)[:, :60]
    shares = three_shares(Units.among(np.arange(130), None, "array"), 0.3, 0, "array")
    calibration = set(shares.order[shares.calibration].tolist())
    found = []
    for of_calibration in (upright, lying):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        for place in range(130):
            image = (of_calibration if place in calibration else upright)[place]
            Image.fromarray(image).save(folder / f"{place:03}.png")
        detector = Detector("pca", epochs=1, holdout=0.3).fit(folder)
        found.append((detector.shape, detector.score(upright[200:220]).statistics["nll"]))
    (shape, nll), (other_shape, other_nll) = found
    assert shape == other_shape
    np.testing.assert_array_equal(nll, other_nll)


@pytest.mark.parametrize("shape", ["two numbers", "float64", "tuple", "scalar", "channels"])
def test_a_module_that_does_not_fit_the_images_is_refused_in_one_line(shape: str) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            made = {
                "two numbers": lambda: x.mean(),
                "float64": lambda: x.flatten(1).double(),
                "tuple": lambda: (x.flatten(1),),
                "scalar": lambda: x.mean((1, 2, 3)),
                "channels": lambda: x[:, [2]].flatten(1),
            }
            return made[shape]()

    with mistake("bad-option", "the encoder"):
        Detector(Odd(), epochs=1).fit(textures(120))


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(144, 6)
            self.b = self.a

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.b(x.flatten(1)) + self.a(x.flatten(1))
            return found

    detector = Detector(Tied(), epochs=1).fit(textures(120))
    detector.save(tmp_path / "d")
    assert (tmp_path / "d" / "detector.json").exists()
