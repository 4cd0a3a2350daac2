import numpy as np
import torch

from approxmass.baselines import Energy
from approxmass.baselines.energy import energy
from approxmass.metrics import auroc
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
    again = Energy(**options).fit(images, labels)
    np.testing.assert_array_equal(again.score(usual), plain.score(usual))
