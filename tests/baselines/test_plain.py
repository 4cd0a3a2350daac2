import io

import numpy as np
import pytest
import torch
from PIL import Image

from approxmass.baselines import Gaussian, NearestNeighbour, PCAResidual, PNGSize, UntrainedFlow
from approxmass.evaluation.metrics import auroc
from approxmass.mass import approximate_mass
from conftest import textures


def test_the_nearest_neighbour_by_brute_force() -> None:
    train, test = textures(40)[:, None], textures(7, shift=0.5, seed=1)[:, None]
    difference = (test[:, None].astype(float) - train[None].astype(float)) / 255
    expected = np.sqrt((difference**2).sum((2, 3, 4))).min(1)
    model = NearestNeighbour().fit(train)
    np.testing.assert_allclose(model.score(test), expected, rtol=1e-4)
    np.testing.assert_allclose(model.score(train), 0, atol=1e-2)


def test_the_residual_is_what_the_subspace_cannot_reach() -> None:
    generator = np.random.default_rng(0)
    flat = generator.integers(80, 176, (50, 1, 4, 4), dtype=np.uint8)
    flat[:, :, :, 2:] = 128  # the training images live on half of the pixels
    model = PCAResidual(components=8).fit(flat)
    np.testing.assert_allclose(model.score(flat), 0, atol=1e-4)
    outside = flat.copy()
    outside[:, :, 0, 3] = 255
    np.testing.assert_allclose(model.score(outside), 127 / 255, rtol=1e-4)


def test_the_gaussian_distance_of_independent_pixels() -> None:
    spread = np.array([5.0, 10.0, 20.0, 40.0])
    draws = np.random.default_rng(0).normal(128, spread, (20_000, 4)).round().clip(0, 255)
    model = Gaussian().fit(draws.reshape(-1, 1, 2, 2).astype(np.uint8))
    for pixel, sigma in enumerate(spread):
        away = np.full(4, 128.0)
        away[pixel] += 40
        found = model.score(away.reshape(1, 1, 2, 2).astype(np.uint8))
        assert found[0] == pytest.approx(40 / sigma, rel=0.03)


def test_the_untrained_flow_scores_by_its_mass_in_its_own_noise() -> None:
    images = textures(20)[:, None]
    model = UntrainedFlow().fit(images)
    x = torch.from_numpy(images) / 255 + model._noise
    np.testing.assert_allclose(
        model.score(images), approximate_mass(model._flow.log_prob, x), rtol=1e-4
    )
    # Saturated pixels alone do it: the slope of the logit is steepest there.
    assert (model.score(np.zeros((3, 1, 12, 12), np.uint8)) > model.score(images).max()).all()


def test_png_sizes_count_to_both_sides() -> None:
    images = textures(50)[:, None]
    model = PNGSize().fit(images)

    def size(image: np.ndarray) -> int:  # type: ignore[type-arg]
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", optimize=True)
        return buffer.tell()

    mean = np.mean([size(image[0]) for image in images])
    blank = np.zeros((12, 12), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)
    found = model.score(np.stack([blank, noise]))
    np.testing.assert_allclose(found, [mean - size(blank), size(noise) - mean])
    assert (found > 0).all()


def test_all_tell_kinds_apart() -> None:
    train, usual = textures(300)[:, None], textures(100, seed=1)[:, None]
    other = textures(100, shift=1.0, seed=2)[:, None]
    for model in (NearestNeighbour(), PCAResidual(components=20), Gaussian()):
        model.fit(train)
        assert auroc(model.score(usual), model.score(other)) > 0.9
