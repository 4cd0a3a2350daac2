from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from approxmass.baselines import Energy
from approxmass.baselines.energy import energy, forward
from approxmass.evaluation.metrics import auroc
from approxmass.training.loop import State, Step
from conftest import textures, two_classes


def test_energy_is_minus_logsumexp() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (7, 4))
    for t in (1.0, 3.0):
        expected = -t * np.log(np.exp(logits / t).sum(1))
        np.testing.assert_allclose(energy(torch.from_numpy(logits), t), expected, rtol=1e-12)
    # No overflow where the sum of exponentials has one.
    torch.testing.assert_close(energy(torch.tensor([[1000.0, 0.0]])), torch.tensor([-1000.0]))


def test_the_score_is_the_energy_of_the_logits() -> None:
    images, labels = two_classes(300)
    model = Energy(depth=10, width=1, epochs=1).fit(images, labels)
    with torch.no_grad():
        logits = model.network(torch.from_numpy(images[:9, None]) / 255)
    np.testing.assert_allclose(
        model.score(images[:9]), -torch.logsumexp(logits, 1).numpy(), rtol=1e-5
    )


@pytest.mark.slow
def test_tuning_pushes_the_energies_to_their_margins_and_leaves_the_cached_network_alone() -> None:
    images, labels = two_classes(600)
    outliers, new = textures(300, shift=0.8, seed=20), textures(300, shift=0.8, seed=30)
    usual = two_classes(300, seed=40)[0]
    # Learning rate 1e-3: the margins are set where some hundred steps can reach them.
    options = {"depth": 10, "width": 1, "epochs": 4, "m_in": -4.0, "m_out": -1.0}
    plain = Energy(**options).fit(images, labels)
    tuned = Energy(**options, tuning_epochs=60).fit(images, labels, outliers)

    def violation(model: Energy) -> tuple[float, float]:
        inside = np.maximum(model.score(usual) + 4.0, 0) ** 2
        outside = np.maximum(-1.0 - model.score(new), 0) ** 2
        return inside.mean(), outside.mean()

    before, after = violation(plain), violation(tuned)
    assert sum(after) < sum(before) / 2
    assert auroc(tuned.score(usual), tuned.score(new)) > auroc(plain.score(usual), plain.score(new))
    assert (tuned.classify(images[:, None]) == labels).mean() > 0.95
    assert [len(model.trainings) for model in (plain, tuned)] == [1, 2]
    assert tuned.trainings[0] == plain.trainings[0]
    again = Energy(**options).fit(images, labels)
    np.testing.assert_array_equal(again.score(usual), plain.score(usual))


def test_the_loss_of_one_tuning_step_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = two_classes(300)
    outliers = textures(200, shift=0.8, seed=20)
    seen: dict[str, Any] = {}

    def spy(network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        seen["batch"], seen["logits"] = batch, forward(network, batch)
        return seen["logits"]

    def one_step(*positional: Any, **named: Any) -> State:
        step: Callable[[Step], dict[str, torch.Tensor]] = positional[5]
        seen["rows"] = torch.arange(50)
        seen["report"] = step(Step(0, seen["rows"], 0))
        return State()

    model = Energy(depth=10, width=1, epochs=1, m_in=-0.9, m_out=-0.6)
    network = model._train(images[:, None], labels, 2, progress=False)
    monkeypatch.setattr("approxmass.baselines.energy.forward", spy)
    monkeypatch.setattr("approxmass.baselines.energy.train_once", one_step)
    model._tune(network, images[:, None], labels, outliers[:, None], progress=False)

    logits = seen["logits"].detach().double().numpy()
    inside, outside = logits[:50], logits[50:]
    assert len(outside) == 100
    log_sum = np.log(np.exp(logits).sum(1))
    cross_entropy = np.mean(log_sum[:50] - inside[np.arange(50), labels[:50]])
    hinge_in = np.mean(np.maximum(-log_sum[:50] + 0.9, 0) ** 2)
    hinge_out = np.mean(np.maximum(-0.6 + log_sum[50:], 0) ** 2)
    assert hinge_in > 0
    assert hinge_out > 0
    expected = cross_entropy + 0.1 * (hinge_in + hinge_out)
    assert seen["report"]["loss"].item() == pytest.approx(expected, rel=1e-4)
    # The first half of the batch is the images, the rest many different outliers.
    torch.testing.assert_close(seen["batch"][:50], torch.from_numpy(images[:50, None]))
    drawn = {image.numpy().tobytes() for image in seen["batch"][50:]}
    assert len(drawn) > 50
    assert drawn <= {image.tobytes() for image in outliers}


def test_tuning_starts_from_its_own_classifier(tmp_path: Path) -> None:
    images, labels = two_classes(300)
    outliers = textures(100, shift=0.8, seed=20)
    scores = [
        Energy(depth=10, width=1, epochs=epochs, tuning_epochs=1)
        .fit(images, labels, outliers)
        .score(images[:9])
        for epochs in (1, 3)
    ]
    assert (scores[0] != scores[1]).all()
