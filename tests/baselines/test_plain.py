import numpy as np

from approxmass.baselines.plain import NearestNeighbour, PCAResidual
from approxmass.metrics import auroc
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
    model = PCAResidual(8).fit(flat)
    np.testing.assert_allclose(model.score(flat), 0, atol=1e-4)
    outside = flat.copy()
    outside[:, :, 0, 3] = 255
    np.testing.assert_allclose(model.score(outside), 127 / 255, rtol=1e-4)


def test_both_tell_kinds_apart() -> None:
    train, usual = textures(300)[:, None], textures(100, seed=1)[:, None]
    other = textures(100, shift=1.0, seed=2)[:, None]
    for model in (NearestNeighbour(), PCAResidual(20)):
        model.fit(train)
        assert auroc(model.score(usual), model.score(other)) > 0.9
