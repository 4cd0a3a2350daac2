import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance

from approxmass.baselines import Mahalanobis, MahalanobisSeesOOD
from approxmass.baselines.mahalanobis import class_gaussians
from approxmass.evaluation.metrics import auroc
from conftest import textures, two_classes

IMAGES, LABELS = two_classes(600)


class _Coordinates(torch.nn.Module):
    """Takes the first two pixels of an image for the features of every layer."""

    def layers(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x.flatten(1)[:, :2]] * 4


def test_distances_by_hand_on_two_dimensions() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    points = rng.normal(0, 1, (200, 2)) @ np.array([[2.0, 0.3], [0.0, 0.5]]) + 6 * labels[:, None]
    found = class_gaussians(points, labels)
    centred = points - np.stack([points[labels == k].mean(0) for k in range(3)])[labels]
    np.testing.assert_allclose(np.linalg.inv(found["precision"]), centred.T @ centred / 200)

    model = Mahalanobis()
    model.network = _Coordinates()  # type: ignore[assignment]
    model._take_gaussians({f"{k}.3": torch.from_numpy(value) for k, value in found.items()})
    new = rng.normal(3, 4, (50, 2))
    expected = [
        min(0.5 * mahalanobis(x, mean, found["precision"]) ** 2 for mean in found["mean"])
        for x in new
    ]
    distances = model.distance(3, torch.from_numpy(new)[:, None, None])
    np.testing.assert_allclose(distances, expected)
    # The same by scikit-learn, which fits the covariance of the centred features itself.
    tied = EmpiricalCovariance().fit(centred)
    squared = np.stack([tied.mahalanobis(new - mean) for mean in found["mean"]])
    np.testing.assert_allclose(distances, squared.min(0) / 2)


def test_the_perturbation_moves_towards_the_nearest_mean() -> None:
    model = Mahalanobis(depth=10, width=1, epochs=2, magnitude=0.002).fit(IMAGES, LABELS)
    x = torch.from_numpy(textures(100, shift=0.8)[:, None]) / 255
    with torch.no_grad():
        before = model.distance(3, x)
    after = model._perturbed_distances(x)[:, 0].detach()
    assert (after < before).float().mean() > 0.95
    np.testing.assert_allclose(model.score(textures(100, shift=0.8)), after, rtol=1e-3)


def test_adversaries_raise_the_loss_of_the_classifier() -> None:
    model = Mahalanobis(depth=10, width=1, epochs=4, layers="ensemble").fit(IMAGES, LABELS)
    some, classes = IMAGES[:100, None], LABELS[:100]
    adversaries = model._negatives(some, classes, None)
    assert isinstance(adversaries, torch.Tensor)
    assert (adversaries - torch.from_numpy(some) / 255).abs().max() <= model.fgsm + 1e-6
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(model.network(x), torch.from_numpy(classes)).item()
            for x in (torch.from_numpy(some) / 255, adversaries)
        ]
    assert losses[1] > 2 * losses[0]


# Every version of scikit-learn is asked in its own way.
@pytest.mark.filterwarnings("error::FutureWarning", "error::UserWarning:sklearn")
def test_the_ensemble_weighs_the_layers_by_what_tells_adversaries_apart() -> None:
    model = Mahalanobis(depth=10, width=1, epochs=4, layers="ensemble").fit(IMAGES, LABELS)
    images, labels = two_classes(200, seed=70)
    adversaries = model._negatives(images[:, None], labels, None)
    weighed = [
        model._distances(x) @ model.state()["weigher"].numpy()
        for x in (images[:, None], adversaries)
    ]
    assert auroc(*weighed) > 0.9
    np.testing.assert_allclose(model.score(images), weighed[0])


def test_the_one_that_sees_the_outliers_profits_from_them() -> None:
    outliers, new = textures(200, shift=0.8, seed=20), textures(200, shift=0.8, seed=30)
    usual = two_classes(200, seed=70)[0]
    options = {"depth": 10, "width": 1, "epochs": 1}
    blind = Mahalanobis(**options, layers="ensemble").fit(IMAGES, LABELS)
    seeing = MahalanobisSeesOOD(**options).fit(IMAGES, LABELS, outliers)
    areas = [auroc(m.score(usual), m.score(new)) for m in (blind, seeing)]
    assert areas[1] > max(areas[0], 0.8)
    # What it learns to tell from the images are the outliers it was given.
    shown = seeing._negatives(IMAGES[:60, None], LABELS[:60], outliers[:, None])
    assert len(shown) == 60
    known = {image.tobytes() for image in outliers}
    assert {np.asarray(image).tobytes() for image in shown} <= known


def test_it_finds_images_of_neither_class() -> None:
    model = Mahalanobis(depth=10, width=1, epochs=4).fit(IMAGES, LABELS)
    usual, new = two_classes(200, seed=70)[0], textures(200, shift=0.8, seed=30)
    assert auroc(model.score(usual), model.score(new)) > 0.7
    noise = np.random.default_rng(0).integers(0, 256, (50, 12, 12), np.uint8)
    assert auroc(model.score(usual), model.score(noise)) == pytest.approx(1, abs=0.02)
