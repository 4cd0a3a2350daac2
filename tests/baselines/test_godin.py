import numpy as np
import pytest
import torch

from approxmass.baselines import GODIN
from approxmass.baselines.godin import GRID, DecomposedHead
from approxmass.training.holdout import hold_out_tenth
from conftest import two_classes

IMAGES, LABELS = two_classes(600)


@pytest.fixture(scope="module")
def fitted() -> GODIN:
    return GODIN(depth=10, width=1, epochs=4).fit(IMAGES, LABELS)


@pytest.mark.parametrize("kind", ["I", "E", "C"])
def test_h_one_number_at_a_time(kind: str) -> None:
    head = DecomposedHead(5, 3, kind).double().eval()  # type: ignore[arg-type]
    phi = torch.randn(4, 5, dtype=torch.float64)
    weight = head.weight.detach().numpy()
    for n, row in enumerate(phi.numpy()):
        for k in range(3):
            expected = {
                "I": row @ weight[k],  # the bias starts at 0
                "E": -np.mean((row - weight[k]) ** 2),
                "C": row @ weight[k] / np.linalg.norm(row) / np.linalg.norm(weight[k]),
            }[kind]
            assert head.h(phi)[n, k].item() == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(head.float()(phi.float()), head.h(phi.float()) / head.g(phi.float()))


def test_the_temperature_lies_between_0_and_1(fitted: GODIN) -> None:
    with torch.no_grad():
        g = fitted.network.head.g(fitted.network.features(torch.from_numpy(IMAGES[:, None]) / 255))
    assert g.shape == (600, 1)
    assert ((g > 0) & (g < 1)).all()
    assert g.std() > 0
    # It was trained with the rest.
    fresh = fitted._build(1, 2).head
    learnt = fitted.network.head
    assert not torch.equal(fresh.temperature[0].weight, learnt.temperature[0].weight)
    assert not torch.equal(fresh.temperature[1].weight, learnt.temperature[1].weight)


def test_the_score_is_minus_the_largest_h(fitted: GODIN) -> None:
    x = fitted.perturbed(torch.from_numpy(IMAGES[:8, None]) / 255, fitted.magnitude)
    with torch.no_grad():
        h = fitted.network.head.h(fitted.network.features(x))
    np.testing.assert_allclose(fitted.score(IMAGES[:8]), -h.max(1).values.numpy(), rtol=1e-5)


def test_the_perturbation_raises_the_largest_h(fitted: GODIN) -> None:
    x = torch.from_numpy(IMAGES[:100, None]) / 255
    with torch.no_grad():
        before = fitted.largest_h(x)
    moved = fitted.perturbed(x, 0.0025)
    torch.testing.assert_close((moved - x).abs(), torch.full_like(x, 0.0025), rtol=0, atol=1e-6)
    with torch.no_grad():
        after = fitted.largest_h(moved)
    assert (after > before).float().mean() > 0.95
    torch.testing.assert_close(fitted.perturbed(x, 0.0), x, rtol=0, atol=0)


def test_the_magnitude_is_the_best_of_the_grid_on_held_out_images(fitted: GODIN) -> None:
    _, held = hold_out_tenth(np.arange(len(IMAGES)), 0)
    x = torch.from_numpy(IMAGES[held, None]) / 255
    means = []
    for magnitude in GRID:
        moved = fitted.perturbed(x, magnitude)
        with torch.no_grad():
            means.append(fitted.largest_h(moved).mean().item())
    assert fitted.magnitude == pytest.approx(GRID[int(np.argmax(means))])


def test_the_weights_of_h_are_not_decayed_and_those_of_g_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = []
    plain = torch.optim.SGD

    def spy(params: list[dict[str, object]], **options: object) -> torch.optim.SGD:
        groups.extend((g.get("weight_decay", options["weight_decay"]), g["params"]) for g in params)
        return plain(params, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim, "SGD", spy)
    network = GODIN(h="I", depth=10, width=1, epochs=1).fit(IMAGES, LABELS).network
    decay = {id(p): rate for rate, params in groups for p in params}  # type: ignore[attr-defined]
    assert decay[id(network.head.weight)] == decay[id(network.head.bias)] == 0
    assert all(decay[id(p)] == 5e-4 for p in network.head.temperature.parameters())
    assert len(decay) == len(list(network.parameters()))
