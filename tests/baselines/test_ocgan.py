import numpy as np
import pytest
import torch
import torch.nn.functional as F

from approxmass import open_images
from approxmass.baselines import OCGAN, Autoencoder
from approxmass.baselines.ocgan import mine
from approxmass.baselines.training import Step
from approxmass.metrics import auroc

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
        assert model.training == fitted.training
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
        reports.append(model._step(x, Step(number, 30, 0, torch.arange(64), 0), optimizers))
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
