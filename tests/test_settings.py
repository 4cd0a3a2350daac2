from dataclasses import replace

import numpy as np
import pytest

from approxmass import ApproxMassError
from approxmass.settings import Settings


@pytest.mark.parametrize(
    ("shape", "space", "preset"),
    [((1, 28, 28), "pca", "realnvp"), ((3, 32, 32), "pixels", "compact")],
)
def test_auto_follows_the_colours_and_says_why(
    shape: tuple[int, int, int], space: str, preset: str
) -> None:
    settings, notes = Settings().resolve(shape)
    assert (settings.space, settings.preset, settings.size) == (space, preset, None)
    assert len(notes) == 1
    assert notes[0].startswith(f"space: {space}, because")


def test_what_a_person_chose_is_kept_without_a_word() -> None:
    chosen = Settings("pca", preset="nsf", size=100, statistic="mass")
    assert chosen.resolve((3, 200, 300)) == (chosen, [])


@pytest.mark.parametrize(("side", "size"), [(64, None), (65, 64), (500, 64)])
def test_large_images_are_made_smaller(side: int, size: int | None) -> None:
    settings, notes = Settings("pca", preset="nsf").resolve((1, 20, side))
    assert settings.size == size
    assert len(notes) == (size is not None)


@pytest.mark.parametrize(
    ("count", "epochs"), [(54_000, 4), (9_000, 20), (100, 20), (10_000_000, 1)]
)
def test_epochs_see_about_as_many_images_whatever_their_number(count: int, epochs: int) -> None:
    settings, _ = Settings().resolve((1, 28, 28))
    assert settings.training(1, 129, count).epochs == epochs


def test_alpha_auto() -> None:
    pca, pixels = Settings("pca").resolve((1, 8, 8))[0], Settings("pixels").resolve((1, 8, 8))[0]
    assert pca.training(1, 100, 1000).alpha == pytest.approx(3.5)
    assert pixels.training(1, 64, 1000).alpha == pytest.approx(2 / 32)
    assert Settings("pca", 7).resolve((1, 8, 8))[0].training(1, 100, 1000).alpha == 7


def test_the_preset_of_the_paper_is_its_setting() -> None:
    paper = Settings("pixels", preset="paper").resolve((3, 32, 32))[0].training(3, 3072, 45_000)
    assert (paper.epochs, paper.batch_size, paper.learning_rate) == (200, 32, 1e-4)
    assert (paper.weight_decay, paper.clip, paper.alpha) == (5e-5, 100, 2 / 32)


def test_numbers_of_numpy_become_plain() -> None:
    settings = Settings(
        alpha=np.float32(0.5), seed=np.int64(3), size=np.int16(8), epochs=np.int32(2)
    )
    assert settings == Settings(alpha=0.5, seed=3, size=8, epochs=2)
    assert [type(v) for v in (settings.alpha, settings.seed, settings.size)] == [float, int, int]


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
    ],
)
def test_values_out_of_range_name_the_setting(given: dict[str, object]) -> None:
    with pytest.raises(ApproxMassError, match=next(iter(given))):
        Settings(**given)  # type: ignore[arg-type]


def test_the_latent_fit_needs_pixels() -> None:
    with pytest.raises(ApproxMassError, match="pixels"):
        Settings(statistic="latent_fit").resolve((1, 28, 28))
    assert Settings(statistic="latent_fit").resolve((3, 32, 32))[0].space == "pixels"


def test_the_statistic_is_the_one_that_works_in_the_space() -> None:
    colour = Settings().resolve((3, 32, 32))[0]
    assert (colour.space, colour.statistic) == ("pixels", "latent_fit")
    assert Settings(space="pca").resolve((3, 32, 32))[0].statistic == "fused"
    assert Settings().resolve((1, 28, 28))[0].statistic == "fused"
    assert Settings(space="pixels").resolve((1, 28, 28))[0].statistic == "fused"
    assert Settings(statistic="mass").resolve((3, 32, 32))[0].statistic == "mass"


def test_many_codes_train_in_larger_batches_at_a_higher_rate() -> None:
    settings, _ = Settings("pca").resolve((1, 28, 28))
    few, many = (settings.training(1, 129, count) for count in (5_000, 54_000))
    assert (few.batch_size, few.learning_rate) == (512, 1e-3)
    assert (many.batch_size, many.learning_rate) == (1024, 2e-3)
    pixels, _ = Settings("pixels").resolve((1, 28, 28))
    assert pixels.training(1, 784, 54_000) == replace(
        pixels.training(1, 784, 5_000), epochs=pixels.training(1, 784, 54_000).epochs
    )
