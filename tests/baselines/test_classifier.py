from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from approxmass.baselines import Energy, Mahalanobis
from approxmass.baselines.classifier import WideResNet, crop_and_flip, input_gradient
from approxmass.training.cached import train_once
from approxmass.training.holdout import hold_out_tenth
from approxmass.training.loop import State
from conftest import two_classes

IMAGES, LABELS = two_classes(400)


@pytest.mark.parametrize(
    ("depth", "width", "channels", "millions"),
    [(40, 2, 3, 2.24), (16, 8, 3, 10.96), (28, 13, 3, 61.6), (28, 5, 3, 9.13)],
)
def test_weights_as_published(depth: int, width: int, channels: int, millions: float) -> None:
    with torch.device("meta"):
        network = WideResNet(channels, nn.Linear(64 * width, 10), depth=depth, width=width)
    weights = sum(p.numel() for p in network.parameters())
    assert weights / 1e6 == pytest.approx(millions, abs=0.05)


def test_the_layers_are_means_of_the_maps_of_the_stem_and_the_groups() -> None:
    network = WideResNet(1, nn.Linear(64, 2), depth=10, width=1).eval()
    seen: list[torch.Tensor] = []
    for module in (network.stem, *network.groups, network.norm):
        module.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    layers = network.layers(torch.rand(3, 1, 12, 12))
    assert [layer.shape[1] for layer in layers] == [16, 16, 32, 64]
    for layer, maps in zip(layers[:3], seen[:3], strict=True):
        torch.testing.assert_close(layer, maps.mean((2, 3)))
    torch.testing.assert_close(layers[3], seen[4].relu().mean((2, 3)))


def test_it_learns_to_tell_the_classes_and_normalises_by_its_images() -> None:
    model = Energy(depth=10, width=1, epochs=6).fit(IMAGES, LABELS)
    images, labels = two_classes(200, seed=50)
    assert (model.classify(images[:, None]) == labels).mean() > 0.97
    rows, _ = hold_out_tenth(np.arange(len(IMAGES)), 0)
    values = IMAGES[rows] / 255
    assert model.network.mean.item() == pytest.approx(values.mean(), rel=1e-5)
    assert model.network.std.item() == pytest.approx(values.std(), rel=1e-5)


def test_the_network_is_trained_once_for_energy_and_mahalanobis() -> None:
    energy = Energy(depth=10, width=1, epochs=2, seed=5).fit(IMAGES, LABELS)
    mahalanobis = Mahalanobis(depth=10, width=1, epochs=2, seed=5).fit(IMAGES, LABELS)
    # The very same run, to its clock: the second one read what the first one had written.
    assert len(energy.trainings) == 1
    assert mahalanobis.trainings == energy.trainings
    for a, b in zip(energy.network.parameters(), mahalanobis.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    other = Energy(depth=10, width=1, epochs=2, seed=6).fit(IMAGES, LABELS)
    assert other.trainings[0].seconds != energy.trainings[0].seconds


def test_the_held_out_images_are_no_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (10, 400, 20_000):
        training, held = hold_out_tenth(np.arange(count), seed=3)
        assert sorted([*training, *held]) == list(range(count))
        assert len(held) == min(1000, count // 10)
    # Changing what is held out changes nothing in the network.
    _, held = hold_out_tenth(np.arange(len(IMAGES)), 0)
    changed = IMAGES.copy()
    changed[held] = 255 - IMAGES[held]
    networks = []
    for name, images in (("first", IMAGES), ("second", changed)):
        monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path / name))
        networks.append(Energy(depth=10, width=1, epochs=1).fit(images, LABELS).network)
    torch.testing.assert_close(networks[0].head.weight, networks[1].head.weight, rtol=0, atol=0)


def test_crops_and_flips_one_by_one() -> None:
    images = torch.randint(256, (64, 3, 6, 8), dtype=torch.uint8)
    found = crop_and_flip(images, torch.Generator().manual_seed(1), pad=2)
    seen = set()
    for image, new in zip(images, found, strict=True):
        padded = nn.functional.pad(image, (2, 2, 2, 2))
        options = {
            (down, right, mirror): window.flip(2) if mirror else window
            for down in range(5)
            for right in range(5)
            for window in [padded[:, down : down + 6, right : right + 8]]
            for mirror in (False, True)
        }
        matches = [key for key, window in options.items() if torch.equal(window, new)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert {down for down, _, _ in seen} == {right for _, right, _ in seen} == set(range(5))
    assert {mirror for _, _, mirror in seen} == {False, True}


def test_colour_images_are_augmented_and_grey_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def spy(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        calls.append(batch.shape)
        return crop_and_flip(batch, generator)

    monkeypatch.setattr("approxmass.baselines.classifier.crop_and_flip", spy)
    Energy(depth=10, width=1, epochs=1, seed=11).fit(IMAGES, LABELS)
    assert not calls
    Energy(depth=10, width=1, epochs=1, seed=11).fit(
        np.stack([IMAGES, IMAGES // 2, IMAGES // 3], 1), LABELS
    )
    assert calls
    assert all(shape[1] == 3 for shape in calls)


def test_the_input_gradient_of_each_image_is_its_own() -> None:
    x = torch.rand(4, 1, 3, 3, dtype=torch.float64)
    gradient = input_gradient(lambda x: x.flatten(1).pow(3).sum(1), x)
    torch.testing.assert_close(gradient, 3 * x**2)


def test_the_schedule_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: dict[str, list[float]] = {}

    def spy(*positional: Any, **named: Any) -> State:
        rates[asked] = [named["schedule"](done) for done in (0.0, 0.6, 0.9)]
        return train_once(*positional, **named)

    monkeypatch.setattr("approxmass.baselines.classifier.train_once", spy)
    for asked in ("cosine", "step"):
        Energy(depth=10, width=1, epochs=1, schedule=asked).fit(IMAGES, LABELS)  # type: ignore[arg-type]
    assert rates["step"] == [1.0, 0.1, 0.01]
    assert rates["cosine"] == pytest.approx([1.0, 0.3455, 0.0245], abs=1e-4)
