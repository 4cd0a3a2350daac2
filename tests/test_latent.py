"""The latent fit: its features by counting pixels one by one, its distance by another library."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from approxmass.models.latent import LatentFit, latent_features


def by_loops(z: NDArray[np.float64]) -> list[float]:
    """Features of one latent map `(c, h, w)`, as their description says."""
    c, h, w = z.shape
    square = [float(np.mean(z[k] ** 2)) + 1e-12 for k in range(c)]
    found = [math.log(s) for s in square]
    found += [math.log(float(np.mean(z[k] ** 4)) / square[k] ** 2 + 1e-12) for k in range(c)]
    means = [float(np.mean(z[k])) for k in range(c)]
    found += means
    found += [mean / math.sqrt(s) for mean, s in zip(means, square, strict=True)]
    for down, right in ((0, 1), (0, 2), (1, 0), (2, 0), (1, 1)):
        if down >= h or right >= w:
            continue
        lags = [
            float(
                np.mean(
                    [
                        z[k, y, x] * z[k, y + down, x + right]
                        for y in range(h - down)
                        for x in range(w - right)
                    ]
                )
            )
            for k in range(c)
        ]
        found += lags
        found += [lag / s for lag, s in zip(lags, square, strict=True)]
    pairs = [(a, b) for a in range(c) for b in range(a + 1, c)]
    crossed = [float(np.mean(z[a] * z[b])) for a, b in pairs]
    found += crossed
    found += [
        value / math.sqrt(square[a] * square[b])
        for value, (a, b) in zip(crossed, pairs, strict=True)
    ]
    return found


@pytest.mark.parametrize(
    "shape", [(3, 5, 4), (1, 1, 6), (2, 3, 1), (1, 2, 2), (2, 1, 2), (1, 2, 3)]
)
def test_features_by_loops_over_pixels(shape: tuple[int, int, int]) -> None:
    z = 3 * torch.rand(4, *shape, dtype=torch.float64) - 1
    expected = torch.tensor([by_loops(each) for each in z.numpy()], dtype=torch.float64)
    torch.testing.assert_close(latent_features([z]), expected)
    # Of several maps, one after the other.
    other = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    both = latent_features([z, other])
    torch.testing.assert_close(both, torch.cat([expected, latent_features([other])], 1))


def test_a_latent_of_zeros_has_features_that_are_numbers() -> None:
    features = latent_features([torch.zeros(2, 2, 3, 3, dtype=torch.float64)])
    expected = torch.zeros(2, 30, dtype=torch.float64)
    expected[:, :4] = math.log(1e-12)
    torch.testing.assert_close(features, expected)


def test_the_distance_is_that_of_mahalanobis() -> None:
    generator = np.random.default_rng(0)
    factor = generator.normal(size=(5, 5))  # features that hang together, in units of their own
    scale = np.array([1.0, 1e3, 1e-2, 5.0, 1.0])
    center = np.array([0.0, 1e4, 3.0, -2.0, 7.0])
    usual = generator.normal(size=(200, 5)) @ factor * scale + center
    new = 3 * generator.normal(size=(20, 5)) * scale + center
    fit = LatentFit()
    fit.fit(torch.from_numpy(usual))
    mean, spread = usual.mean(0), usual.std(0)
    precision = np.linalg.inv(ledoit_wolf((usual - mean) / spread)[0])
    expected = [mahalanobis(x / spread, mean / spread, precision) for x in new]
    found = fit(torch.from_numpy(new))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    assert fit(torch.from_numpy(mean)[None]).tolist() == [0.0]
    # From float32 too, and to be saved in float64.
    fit.fit(torch.from_numpy(usual).float())
    assert {value.dtype for value in fit.state_dict().values()} == {torch.float64}
    np.testing.assert_allclose(fit(torch.from_numpy(new).float()).numpy(), expected, rtol=1e-3)


def test_a_feature_that_all_share_is_known_to_a_ten_thousandth_of_one_and_its_mean() -> None:
    usual = np.random.default_rng(1).normal(size=(50, 2))
    usual[:, 1] = 3.0
    fit = LatentFit()
    fit.fit(torch.from_numpy(usual))
    np.testing.assert_allclose(fit.spread[1].item(), 1e-4 * (1 + 3))
    usual[:, 1] = -3.0
    fit.fit(torch.from_numpy(usual))
    np.testing.assert_allclose(fit.spread[1].item(), 1e-4 * (1 + 3))
    np.testing.assert_allclose(fit.center.numpy(), usual.mean(0))


def test_a_fit_that_has_learnt_nothing_is_empty_and_is_saved_so() -> None:
    state = LatentFit().state_dict()
    assert list(state) == ["center", "spread", "precision"]
    assert all(len(value) == 0 and value.dtype == torch.float64 for value in state.values())


def test_rounding_below_zero_is_a_distance_of_zero() -> None:
    fit = LatentFit()
    fit.fit(torch.randn(20, 1))
    fit.precision = -fit.precision  # what rounding of a near-singular one may do, and more
    assert fit(torch.tensor([[5.0]])).tolist() == [0.0]
