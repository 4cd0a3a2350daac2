"""A saved detector that would score otherwise here is refused when it is loaded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from approxmass import Detector
from approxmass.baselines import plain as plain_baselines
from approxmass.encoders import pooled, whitened
from approxmass.flows import VectorFlow
from approxmass.flows.pixels import Logit
from approxmass.models import parts, summary
from approxmass.models import scorer as scorer_module
from approxmass.models.probe import probe_images
from conftest import mistake, textures

IMAGES = textures(160)
COLOUR = np.stack([IMAGES, IMAGES // 2, IMAGES // 3], -1)


class Features(nn.Module):
    """A module that cannot be exported, so that its code is the caller's."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.net = nn.Conv2d(1, 4, 5, stride=3)
        with torch.no_grad():
            self.net.weight.copy_(torch.linspace(-1, 1, 100).view(4, 1, 5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features."""
        found: torch.Tensor = torch.tanh(self.slope * self.net(x)).flatten(1)
        return found + float(np.abs(x.detach().numpy()).max() > 9)


KINDS: dict[str, Callable[[], Detector]] = {
    "pca": lambda: Detector(epochs=1).fit(IMAGES),
    "pixels": lambda: Detector("pixels", epochs=1, draws=2).fit(IMAGES),
    "photos": lambda: Detector(epochs=1, size=32).fit(COLOUR),
    "parts": lambda: Detector(epochs=1, size=64, parts=True).fit(COLOUR),
    "module": lambda: Detector(Features(), epochs=1).fit(IMAGES),
    "nearest": lambda: Detector(method="nearest-neighbour").fit(IMAGES),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Detector]]:
    """Where a detector of a kind is saved, and itself; each is fitted once."""
    made: dict[str, tuple[Path, Detector]] = {}

    def of(kind: str) -> tuple[Path, Detector]:
        if kind not in made:
            detector = KINDS[kind]()
            place = tmp_path_factory.mktemp("probe") / "d"
            detector.save(place)
            made[kind] = place, detector
        return made[kind]

    return of


def load(place: Path, kind: str, **options: Any) -> Detector:
    return Detector.load(place, encoder=Features() if kind == "module" else None, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_a_score_depends_on_is_drawn_at_load(
    saved: Callable[[str], tuple[Path, Detector]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a torch whose random numbers are others."""
    place, detector = saved(kind)
    images = list(COLOUR[:5] if kind in ("photos", "parts") else IMAGES[:5])
    expected = detector.score(images)
    randperm, rand, randn = torch.randperm, torch.rand, torch.randn
    monkeypatch.setattr(torch, "randperm", lambda n, **k: randperm(n, **k).flip(0))
    monkeypatch.setattr(torch, "rand", lambda *a, **k: 1 - rand(*a, **k))
    monkeypatch.setattr(torch, "randn", lambda *a, **k: -randn(*a, **k))
    found = load(place, kind).score(images)
    for name, values in expected.statistics.items():
        np.testing.assert_array_equal(found.statistics[name], values)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_other_threads_are_no_other_scores(
    saved: Callable[[str], tuple[Path, Detector]], kind: str, threads: int
) -> None:
    place, _ = saved(kind)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        load(place, kind, threads=threads)
    finally:
        torch.set_num_threads(before)


def pooled_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a network whose weights are others, though it says that they are not."""
    whole = pooled.PooledEncoder._pooled
    monkeypatch.setattr(
        pooled.PooledEncoder,
        "_pooled",
        lambda self, maps: whole(self, [each.abs() for each in maps]),
    )


def in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by couplings that see their inputs otherwise."""
    density = VectorFlow.log_prob_and_gradient
    monkeypatch.setattr(
        VectorFlow, "log_prob_and_gradient", lambda self, x: density(self, x.flip(1))
    )


_DENSITIES = parts.Parts.densities


def _of_others(self: parts.Parts, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _DENSITIES(self, codes.flip(1))


# By the kind that it concerns: what another version could do otherwise.
OTHERWISE: list[tuple[str, Callable[[pytest.MonkeyPatch], None]]] = [
    ("pca", in_another_order),
    ("pca", lambda m: m.setattr(whitened, "_ENERGY_FLOOR", 1.0)),
    ("pixels", lambda m: m.setattr(Logit, "margin", 0.06)),
    ("pixels", lambda m: m.setattr(scorer_module, "latent_features", lambda maps: _doubled(maps))),
    ("photos", pooled_otherwise),
    ("photos", lambda m: m.setattr(summary.Residual, "forward", lambda self, x: x.norm(dim=1))),
    ("parts", lambda m: m.setattr(parts.Parts, "densities", _of_others)),
    ("nearest", lambda m: m.setattr(plain_baselines, "_vectors", _in_bytes)),
]


def _doubled(maps: list[torch.Tensor]) -> torch.Tensor:
    from approxmass.models.latent import latent_features

    return 2 * latent_features(maps)


def _in_bytes(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)


@pytest.mark.parametrize(("kind", "change"), OTHERWISE)
def test_what_computes_otherwise_is_noticed(
    saved: Callable[[str], tuple[Path, Detector]],
    kind: str,
    change: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, _ = saved(kind)
    change(monkeypatch)
    with mistake("other-scores", "scores otherwise here than where it was fitted") as info:
        load(place, kind)
    assert str(info.value).startswith(str(place))
    assert "fit again" in str(info.value)


def test_a_module_given_again_must_be_the_same(
    saved: Callable[[str], tuple[Path, Detector]],
) -> None:
    place, _ = saved("module")
    with mistake("other-scores", "the same versions: its encoder or this machine differs"):
        Detector.load(place, encoder=Features(slope=1.2))


def test_the_versions_are_told(
    saved: Callable[[str], tuple[Path, Detector]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, detector = saved("pca")
    fitted = detector.fitted
    older = {**fitted.facts.versions, "torch": "1.0.0", "gone": "7"}
    replace(fitted, facts=replace(fitted.facts, versions=older)).save(tmp_path / "d", "a card")
    Detector.load(tmp_path / "d")  # other versions alone are no fault
    in_another_order(monkeypatch)
    with mistake("other-scores", f"torch 1.0.0, here {fitted.facts.versions['torch']}; gone 7"):
        Detector.load(tmp_path / "d")


def test_the_test_images_follow_from_the_seed_alone() -> None:
    images = probe_images((3, 5, 7), 3)
    assert images.dtype == torch.uint8
    assert torch.equal(images, probe_images((3, 5, 7), 3))
    assert not torch.equal(images, probe_images((3, 5, 7), 4))
    # Known by heart: no version of a library may change them.
    assert int(images.long().sum()) == 53548
