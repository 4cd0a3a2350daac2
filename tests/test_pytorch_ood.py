"""The words of pytorch-ood: loaders, labels below 0, features, scores as tensors."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from approxmass import Detector
from approxmass.integrations.pytorch_ood import ApproximateMass
from conftest import mistake

GENERATOR = torch.Generator().manual_seed(0)
USUAL = torch.randn(240, 2, 3, 3, generator=GENERATOR)
OTHER = torch.randn(60, 2, 3, 3, generator=GENERATOR) + 3


def loader(*parts: tuple[Tensor, int]) -> DataLoader[tuple[Tensor, ...]]:
    x = torch.cat([part for part, _ in parts])
    y = torch.cat([torch.full((len(part),), label) for part, label in parts])
    return DataLoader(TensorDataset(x, y), batch_size=32)


def test_what_is_labelled_out_of_distribution_is_not_learnt() -> None:
    whole = ApproximateMass(nn.Flatten(), seed=1).fit(loader((USUAL, 4), (OTHER, -1)))
    clean = ApproximateMass(nn.Flatten(), seed=1).fit(loader((USUAL, 0)))
    features = ApproximateMass(seed=1).fit_features(USUAL.flatten(1), torch.zeros(240))
    own = Detector(seed=1).fit(USUAL.flatten(1))
    for x in (USUAL[:20], OTHER[:20]):
        wanted = own.score(x.flatten(1))
        for method in (whole, clean):
            np.testing.assert_array_equal(method(x), wanted.statistic)
            np.testing.assert_array_equal(method.p_values(x), wanted.p_value)
        np.testing.assert_array_equal(features.predict_features(x), wanted.statistic)
    assert clean.predict(OTHER).min() > clean.predict(USUAL).median()


def test_features_of_a_module_on_a_way_with_a_gradient() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten())
    method = ApproximateMass(network).fit(loader((USUAL, 0)))
    found = method(USUAL[:7].requires_grad_())
    assert not found.requires_grad
    np.testing.assert_array_equal(found, method.predict_features(network(USUAL[:7])))


def test_without_a_model_it_sees_images() -> None:
    images = torch.rand(240, 1, 6, 6, generator=GENERATOR)
    method = ApproximateMass(encoder="pca", epochs=1).fit(loader((images, 0)))
    wanted = Detector("pca", epochs=1).fit(images).score(images[:9]).statistic
    np.testing.assert_array_equal(method(images[:9]), wanted)


def test_features_may_be_one_number_each_and_arrays_of_numpy() -> None:
    sums = ApproximateMass(lambda x: x.sum((1, 2, 3)), epochs=1).fit(loader((USUAL, 0)))
    given = USUAL.sum((1, 2, 3)).numpy()
    own = ApproximateMass(epochs=1).fit_features(given, np.zeros(240))  # type: ignore[arg-type]
    np.testing.assert_array_equal(sums(OTHER), own.predict_features(OTHER.sum((1, 2, 3))))


def test_mistakes() -> None:
    with mistake("bad-source", "gives Tensor, not pairs (x, y)"):
        ApproximateMass(nn.Flatten()).fit(DataLoader(USUAL, batch_size=32))  # type: ignore[arg-type]
    with mistake("bad-labels", "labels (9,) for 240 inputs"):
        ApproximateMass().fit_features(USUAL.flatten(1), torch.zeros(9))
    with mistake("too-few", "it is empty"):
        ApproximateMass(nn.Flatten()).fit([])
    with mistake("too-few", "in-distribution"):
        ApproximateMass(nn.Flatten()).fit(loader((OTHER, -1)))
    with mistake("not-fitted"):
        ApproximateMass(nn.Flatten())(USUAL)
    with mistake("bad-option"):
        ApproximateMass(nn.Flatten(), holdout=2.0)
