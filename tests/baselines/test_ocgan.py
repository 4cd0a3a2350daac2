from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from approxmass import open_images
from approxmass.baselines import OCGAN, Autoencoder
from approxmass.baselines.ocgan import mine
from approxmass.evaluation.metrics import auroc
from approxmass.training.loop import Step

IMAGES = open_images("sample:fashion_mnist/train").read()[:600, 0]


@pytest.fixture(scope="module")
def fitted() -> OCGAN:
    return OCGAN(epochs=15, width=8).fit(IMAGES)


def test_mined_latents_stay_inside_and_look_more_fake(fitted: OCGAN) -> None:
    decoder, classifier = fitted._parts["decoder"], fitted._parts["classifier"]
    start = 2 * torch.rand(64, 16, 1, 1, generator=torch.Generator().manual_seed(0)) - 1
    start[0] = 1.0  # even from the edge
    mined = mine(classifier, decoder, start)
    assert ((mined > -1) & (mined < 1)).all()
    assert not torch.equal(mined, start)
    with torch.no_grad():
        before, after = (torch.sigmoid(-classifier(decoder(z)))[:, 0] for z in (start, mined))
    assert after.mean() > before.mean()
    assert (after > before).float().mean() > 0.8


def test_mining_steps_have_equal_length_whatever_the_slope() -> None:
    def steep(x: torch.Tensor) -> torch.Tensor:
        return 1e3 * x[:, :1, 0, 0]

    def gentle(x: torch.Tensor) -> torch.Tensor:
        return 1e-3 * x[:, :1, 0, 0]

    start = torch.zeros(3, 16, 1, 1)
    moved = [mine(critic, lambda z: z, start) for critic in (gentle, gentle)]
    torch.testing.assert_close(moved[0], moved[1])
    # Five steps of 0.05 * sqrt(16) on the scale of atanh, against the slope.
    torch.testing.assert_close(
        moved[0][:, 0, 0, 0].atanh(), torch.full((3,), -1.0), atol=1e-4, rtol=0
    )
    assert (mine(steep, lambda z: z, start)[:, 0] < 0).all()


def test_the_codes_fill_the_cube_they_are_drawn_from(fitted: OCGAN) -> None:
    x = torch.from_numpy(IMAGES[:, None]) / 127.5 - 1
    with torch.no_grad():
        code = fitted._parts["encoder"](x)
    assert code.shape == (600, 16, 1, 1)
    assert code.abs().max() < 1


def test_the_score_is_the_error_and_the_critics_are_options(fitted: OCGAN) -> None:
    x = torch.from_numpy(IMAGES[:9, None]) / 127.5 - 1
    parts = fitted._parts
    with torch.no_grad():
        code = parts["encoder"](x)
        rebuilt = parts["decoder"](code)
        expected = {
            "error": (rebuilt - x).square().mean((1, 2, 3)),
            "visual": -parts["visual"](rebuilt)[:, 0],
            "latent": -parts["latent"](code)[:, 0],
        }
    for name, values in expected.items():
        # The same run under another score: nothing is trained again.
        model = OCGAN(epochs=15, width=8, score_by=name).fit(IMAGES)  # type: ignore[arg-type]
        assert model.trainings == fitted.trainings
        np.testing.assert_allclose(model.score(IMAGES[:9]), values, rtol=1e-4, atol=1e-5)


def test_one_step_moves_every_part_and_each_critic_towards_its_verdict() -> None:
    model = OCGAN(width=8)
    model._make(1)
    optimizers = {
        f"{name}_optimizer": torch.optim.Adam(part.parameters(), lr=2e-3, betas=(0.5, 0.999))
        for name, part in model._parts.items()
    }
    before = {
        name: torch.cat([p.detach().flatten() for p in part.parameters()]).clone()
        for name, part in model._parts.items()
    }
    x = torch.from_numpy(IMAGES[:64, None]) / 127.5 - 1
    reports = []
    for number in range(30):
        for part in model._parts.values():
            part.train()
        reports.append(model._step(x, Step(number, torch.arange(64), 0), optimizers))
        if number == 0:
            for name, part in model._parts.items():
                now = torch.cat([p.detach().flatten() for p in part.parameters()])
                assert not torch.equal(now, before[name]), name
    assert reports[-1]["error"] < reports[0]["error"] / 2
    # Better than guessing: log 2 is the loss of no opinion.
    assert min(report["visual"] for report in reports) < 0.5 * np.log(2)


def test_the_autoencoder_is_ocgan_without_adversaries() -> None:
    plain = Autoencoder(epochs=15, width=8).fit(IMAGES)
    assert set(plain._parts) == {"encoder", "decoder"}
    new = open_images("sample:fashion_mnist/test").read()[:100]
    x = torch.from_numpy(new) / 127.5 - 1
    with torch.no_grad():
        error = F.mse_loss(plain._parts["decoder"](plain._parts["encoder"](x)), x).item()
    assert error < 0.3 * x.var().item()


@pytest.mark.parametrize("kind", [OCGAN, Autoencoder])
def test_both_tell_kinds_apart(kind: type[Autoencoder]) -> None:
    model = kind(epochs=15, width=8).fit(IMAGES)
    usual, other = (open_images(f"sample:{name}") for name in ("fashion_mnist/test", "mnist"))
    assert auroc(model.score(usual), model.score(other)) > 0.85


def test_the_losses_of_one_step_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = OCGAN(width=4, weight=3.0)
    model._make(1)
    parts = model._parts
    for part in parts.values():
        part.train()
    calls: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in parts}

    def hook(name: str) -> Any:
        return lambda _m, given, out: calls[name].append((given[0].detach(), out.detach()))

    for name, part in parts.items():
        part.register_forward_hook(hook(name))
    mined = torch.full((64, 16, 1, 1), 0.25)
    starts, losses = [], {}

    def take_mined(classifier: Any, decoder: Any, latents: torch.Tensor) -> torch.Tensor:
        assert not classifier.training
        assert not decoder.training
        starts.append(latents)
        return mined

    def no_step(loss: torch.Tensor, *optimizers: Any) -> None:
        losses[optimizers] = loss.item()

    monkeypatch.setattr("approxmass.baselines.ocgan.mine", take_mined)
    monkeypatch.setattr("approxmass.baselines.ocgan._update", no_step)
    names: Any = {f"{name}_optimizer": name for name in parts}
    x = torch.from_numpy(IMAGES[:64, None]) / 127.5 - 1
    model._step(x, Step(0, torch.arange(64), 0), names)

    def saying(verdict: float, logits: torch.Tensor) -> float:
        """Mean of log(1 + exp(-logit)) for real, log(1 + exp(logit)) for fake."""
        sign = 1 if verdict else -1
        return float(torch.log1p(torch.exp(-sign * logits.double())).mean())

    generated, rebuilt, again, from_mined = (out for _, out in calls["decoder"])
    (uniform, _), (code, _), _, (given, _) = calls["decoder"]
    torch.testing.assert_close(starts[0], uniform)
    torch.testing.assert_close(given, mined)
    noise = calls["encoder"][0][0] - x
    assert noise.std().item() == pytest.approx(0.2, rel=0.05)
    torch.testing.assert_close(code, calls["encoder"][0][1])

    # The classifier learns that reconstructions are real and images of random latents are not.
    (first, fake), (second, real) = calls["classifier"]
    torch.testing.assert_close(first, generated)
    torch.testing.assert_close(second, rebuilt)
    assert losses["classifier",] == pytest.approx((saying(0, fake) + saying(1, real)) / 2, rel=1e-5)
    # The latent critic: random latents are real, codes are not.
    (_, drawn), (_, coded), (_, coded_again) = calls["latent"]
    assert losses["latent",] == pytest.approx((saying(1, drawn) + saying(0, coded)) / 2, rel=1e-5)
    # The visual critic: images are real, those of random latents are not.
    (first, real), (second, fake), (third, fooled) = calls["visual"]
    torch.testing.assert_close(first, x)
    torch.testing.assert_close(second, generated)
    assert losses["visual",] == pytest.approx((saying(1, real) + saying(0, fake)) / 2, rel=1e-5)
    # The autoencoder: rebuild the clean image, and fool both, with the mined latents.
    torch.testing.assert_close(third, from_mined)
    error = (again - x).square().mean().item()
    expected = 3.0 * error + saying(1, fooled) + saying(1, coded_again)
    assert losses["encoder", "decoder"] == pytest.approx(expected, rel=1e-5)
