"""Options and what `auto` becomes; how a flow is trained when nobody says otherwise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from approxmass import Detector
from approxmass.models.flow import FlowModel
from approxmass.models.registry import METHODS, parse_options
from approxmass.models.settings import FlowOptions
from approxmass.settings import Settings
from approxmass.training import recipes
from conftest import mistake, textures

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("shape", "encoder", "preset"),
    [
        ((1, 28, 28), "pca", "realnvp"),
        ((1, 32, 32), "pca", "realnvp"),
        ((1, 20, 33), "lite0", "identity"),
        ((1, 33, 20), "lite0", "identity"),
        ((3, 32, 32), "lite0", "identity"),
        ((3, 8, 8), "lite0", "identity"),
        ((3, 300, 400), "lite0", "identity"),
    ],
)
def test_auto_follows_colours_and_size_and_says_why(
    shape: tuple[int, int, int], encoder: str, preset: str
) -> None:
    options, notes = FlowOptions().resolve(shape, 1000)
    assert (options.encoder, options.preset) == (encoder, preset)
    assert len(notes) == 1
    assert notes[0].startswith(f"encoder: {encoder}, because")
    what = f"{shape[2]}x{shape[1]} {'grey' if shape[0] == 1 else 'colour'} pixels"
    assert what in notes[0]


def test_what_a_person_chose_is_kept_without_a_word() -> None:
    chosen = FlowOptions(encoder="pca", preset="nsf", statistic="mass", parts=False)
    assert chosen.resolve((3, 200, 300), 1000) == (chosen, [])


@pytest.mark.parametrize(
    ("side", "size", "shape"),
    # Of the area of 64x64, the aspect of the images.
    [(64, None, (1, 20, 64)), (65, 64, (1, 36, 115)), (150, 64, (1, 23, 175))],
)
def test_large_images_are_made_smaller(
    side: int, size: int | None, shape: tuple[int, int, int]
) -> None:
    images = textures(120, side)[:, :20]
    detector = Detector(method="pca-residual").fit(images)
    assert detector.settings.size == size
    assert detector.shape == shape
    assert len(detector.facts.notes) == (size is not None)


@pytest.mark.parametrize(
    ("encoder", "shape", "side", "stride"),
    [
        ("lite0", (3, 300, 400), 256, 32),
        ("lite0", (3, 65, 20), 256, 32),
        ("lite0", (3, 64, 64), 128, 32),
        ("lite0", (1, 28, 28), 128, 32),
        ("pca", (1, 28, 28), None, 1),
        ("pca", (3, 64, 64), None, 1),
        ("pca", (3, 20, 65), 64, 1),
        ("pixels", (3, 32, 32), None, 4),
        ("pixels", (3, 65, 20), 64, 4),
        ("auto", (1, 32, 32), None, 1),
        ("auto", (1, 33, 32), 128, 32),
        ("auto", (3, 480, 640), 256, 32),
    ],
)
def test_the_plan_says_how_large_images_are_seen(
    encoder: str, shape: tuple[int, int, int], side: int | None, stride: int
) -> None:
    plan = FlowModel(encoder=encoder).plan(shape, 1000)
    assert (plan.side, plan.stride) == (side, stride)
    assert (plan.square, plan.resample) == (False, "bilinear")
    assert len(plan.notes) == (encoder == "auto")


@pytest.mark.parametrize(
    ("count", "epochs"), [(54_000, 4), (9_000, 20), (100, 20), (10_000_000, 1)]
)
def test_epochs_see_about_as_many_images_whatever_their_number(count: int, epochs: int) -> None:
    assert recipes.for_codes(count, 129, CPU).epochs == epochs


def test_alpha_auto() -> None:
    assert recipes.for_codes(1000, 100, CPU).alpha == pytest.approx(3.5)
    assert recipes.for_pixels(1000, CPU).alpha == pytest.approx(2 / 32)
    fitted = Detector("pca", alpha=7, epochs=1).fit(textures(120)).model
    assert isinstance(fitted, FlowModel)
    assert fitted.training.alpha == 7


def test_the_preset_of_the_paper_is_its_setting() -> None:
    paper = recipes.published(3)
    assert (paper.epochs, paper.batch_size, paper.learning_rate) == (200, 32, 1e-4)
    assert (paper.weight_decay, paper.clip, paper.alpha) == (5e-5, 100, 2 / 32)


def test_many_codes_train_in_larger_batches_at_a_higher_rate() -> None:
    few, many = (recipes.for_codes(count, 129, CPU) for count in (5_000, 54_000))
    assert (few.batch_size, few.learning_rate) == (512, 1e-3)
    assert (many.batch_size, many.learning_rate) == (1024, 2e-3)
    few, many = (recipes.for_pixels(count, CPU) for count in (5_000, 54_000))
    assert replace(few, epochs=many.epochs) == many


def test_numbers_of_numpy_become_plain() -> None:
    options = FlowOptions(alpha=float(np.float32(0.5)), epochs=np.int32(2))  # type: ignore[arg-type]
    assert options == FlowOptions(alpha=0.5, epochs=2)
    settings = Settings(seed=np.int64(3), size=np.int16(8))  # type: ignore[arg-type]
    assert [type(v) for v in (options.alpha, options.epochs)] == [float, int]
    assert [type(v) for v in (settings.seed, settings.size)] == [int, int]


@pytest.mark.parametrize(
    "given",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"seed": 1.5},
        {"seed": None},
        {"size": "28"},
        {"size": 200_000},
        {"components": 2.5},
        {"epochs": "many"},
        {"alpha": float("nan")},
        {"holdout": "x"},
        {"holdout": 0.0},
        {"threads": 0},
        {"encoder": "module"},
        {"encoder": "latent"},
        {"encoder": "hf:"},
        {"encoder": "timm:"},
        {"mode": "sepia"},
        {"background": 256},
        {"background": -1},
        {"pages": 1},
    ],
)
def test_values_out_of_range_name_the_option(given: dict[str, Any]) -> None:
    with mistake("bad-option", next(iter(given))):
        Detector(**given)


def test_the_latent_fit_needs_pixels() -> None:
    for shape in ((1, 28, 28), (3, 32, 32)):
        with mistake("bad-option", "belongs to the encoder pixels"):
            FlowOptions(statistic="latent_fit").resolve(shape, 1000)
        with mistake("bad-option", "belongs to the encoder pixels"):
            FlowOptions(statistic="latent_fit", encoder="lite0").resolve(shape, 1000)
        chosen = FlowOptions(statistic="latent_fit", encoder="pixels").resolve(shape, 1000)[0]
        assert chosen.statistic == "latent_fit"


def test_the_statistic_is_the_one_that_works_with_the_encoder() -> None:
    def statistic(shape: tuple[int, int, int], **options: str) -> str:
        return FlowOptions(**options).resolve(shape, 1000)[0].statistic  # type: ignore[arg-type]

    assert statistic((3, 32, 32)) == "fused"
    assert statistic((3, 32, 32), encoder="pixels") == "latent_fit"
    assert statistic((3, 32, 32), encoder="pca") == "fused"
    assert statistic((1, 28, 28)) == "fused"
    assert statistic((1, 28, 28), encoder="pixels") == "fused"
    assert statistic((3, 32, 32), statistic="mass") == "mass"


@pytest.mark.parametrize("method", METHODS)
def test_an_option_of_another_method_is_refused(method: str) -> None:
    foreign = "temperature" if method != "energy" else "alpha"
    with mistake("unknown-option", method):
        Detector(method=method, **{foreign: 1})
    with mistake("unknown-option", method):
        parse_options(method, {foreign: "1"})


def test_text_becomes_what_an_option_takes() -> None:
    words = {"alpha": "2", "epochs": "auto", "encoder": "pca", "components": "9"}
    options = parse_options("flow", words)
    assert options == {"alpha": 2.0, "epochs": "auto", "encoder": "pca", "components": 9}
    assert parse_options("godin", {"h": "E", "epochs": "3"}) == {"h": "E", "epochs": 3}
    for method, name in (("flow", "alpha"), ("flow", "epochs"), ("godin", "epochs")):
        with mistake("bad-option", name):
            parse_options(method, {name: "many"})
