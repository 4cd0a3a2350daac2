import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from approxmass import open_images
from approxmass.baselines import GradCon
from approxmass.baselines.gradcon import ConvolutionalAutoencoder, Reference, at_28
from approxmass.evaluation.metrics import auroc
from approxmass.training.holdout import hold_out_tenth
from approxmass.training.loop import State, Step
from conftest import textures

IMAGES = open_images("sample:fashion_mnist/train").read()[:600, 0]


@pytest.fixture(scope="module")
def fitted() -> GradCon:
    return GradCon(epochs=25).fit(IMAGES)


def test_weights_as_published() -> None:
    weights = [sum(p.numel() for p in ConvolutionalAutoencoder(c).parameters()) for c in (1, 3)]
    assert weights == [230_721, 232_771]


def test_the_score_is_that_of_a_slow_reference_an_image_at_a_time(fitted: GradCon) -> None:
    images = np.concatenate([textures(6, side=28, seed=3), textures(6, side=28, shift=1, seed=4)])
    network, references = fitted._network, fitted._reference.means()
    expected = []
    for image in images:
        x = torch.from_numpy(image)[None, None] / 255
        network.zero_grad()
        error = F.mse_loss(network(x), x)
        error.backward()
        cosines = []
        weights = [m.weight for m in network.decoder if isinstance(m, nn.ConvTranspose2d)]
        for weight, reference in zip(weights, references, strict=True):
            a, b = weight.grad.flatten(), reference.flatten()  # type: ignore[union-attr]
            cosines.append((a @ b / a.norm() / b.norm()).item())
        expected.append(error.item() - 0.12 * np.mean(cosines))
    np.testing.assert_allclose(fitted.score(images), expected, rtol=0, atol=1e-5)


def test_the_reference_is_the_mean_of_all_gradients() -> None:
    network = ConvolutionalAutoencoder(1)
    reference = Reference(network)
    shapes = [w.shape for w in network.directions().values()]
    assert len(shapes) == 4
    draws = [[torch.randn(shape) for shape in shapes] for _ in range(5)]
    for draw in draws:
        reference.add(draw)
    for i, mean in enumerate(reference.means()):
        torch.testing.assert_close(mean, torch.stack([draw[i] for draw in draws]).mean(0))


def test_training_aligns_the_gradients_and_rebuilds_the_images(fitted: GradCon) -> None:
    history = fitted.trainings[0].history
    assert history[-1]["error"] < history[0]["error"] / 2
    assert history[-1]["alignment"] > 0.2
    # With its sign, the term is minus the alignment.
    last = history[-1]
    assert last["loss"] == pytest.approx(last["error"] - 0.03 * last["alignment"], rel=1e-4)


def test_the_epoch_with_the_smallest_held_out_loss_is_kept(fitted: GradCon) -> None:
    held = torch.from_numpy(IMAGES[hold_out_tenth(np.arange(len(IMAGES)), 0)[1], None]) / 255
    error = F.mse_loss(fitted._network(held), held)
    weights = list(fitted._network.directions().values())
    gradients = torch.autograd.grad(error, weights)
    cosines = [
        F.cosine_similarity(g.flatten(), m.flatten(), dim=0)
        for g, m in zip(gradients, fitted._reference.means(), strict=True)
    ]
    loss = (error - 0.03 * torch.stack(cosines).mean()).item()
    validations = [record["validation"] for record in fitted.trainings[0].history]
    assert loss == pytest.approx(min(validations), rel=1e-4)


def test_it_tells_kinds_apart(fitted: GradCon) -> None:
    usual, other = (open_images(f"sample:{name}") for name in ("fashion_mnist/test", "mnist"))
    assert auroc(fitted.score(usual), fitted.score(other)) > 0.75


def test_other_sizes_are_resized_and_28_is_left_alone() -> None:
    x = torch.rand(2, 3, 28, 28)
    assert at_28(x) is x
    flat = at_28(torch.full((1, 3, 32, 32), 51, dtype=torch.uint8))
    torch.testing.assert_close(flat, torch.full((1, 3, 28, 28), 0.2))


def test_the_reference_takes_in_the_gradient_of_the_whole_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[ConvolutionalAutoencoder, Reference]] = []

    def two_steps(*positional: Any, **named: Any) -> State:
        modules, step = positional[3], positional[5]
        for number in range(2):
            seen.append(copy.deepcopy((modules["network"], modules["reference"])))
            step(Step(number, torch.arange(32), 0))
        return State()

    monkeypatch.setattr("approxmass.baselines.gradcon.train_once", two_steps)
    model = GradCon(alpha=5.0).fit(IMAGES)  # large, so that the term counts
    rows, _ = hold_out_tenth(np.arange(len(IMAGES)), 0)
    x = torch.from_numpy(IMAGES[rows[:32], None]) / 255
    gradients = []
    for network, reference in seen:
        weights = [m.weight for m in network.decoder if isinstance(m, nn.ConvTranspose2d)]
        error = F.mse_loss(network(x), x)
        of_error = torch.autograd.grad(error, weights, create_graph=True)
        loss = error
        if reference.count:
            for g, mean in zip(of_error, reference.means(), strict=True):
                loss = loss - 5.0 / 4 * (g * mean).sum() / g.norm() / mean.norm()
        gradients.append((torch.autograd.grad(loss, weights, retain_graph=True), of_error))
    for i, mean in enumerate(model._reference.means()):
        expected = (gradients[0][0][i] + gradients[1][0][i]) / 2
        torch.testing.assert_close(mean, expected, rtol=1e-3, atol=1e-7)
        # Which is not what the error alone would give.
        other = (gradients[0][1][i] + gradients[1][1][i]) / 2
        assert (mean - other).norm() > 10 * (mean - expected).norm()
