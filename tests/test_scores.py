import math

import numpy as np
import pytest
import torch

from approxmass.encoders.pixels import PixelEncoder
from approxmass.encoders.whitened import WhitenedEncoder
from approxmass.flows import RealNVP, VectorFlow
from approxmass.mass import log_prob_and_mass
from approxmass.models.latent import latent_features
from approxmass.models.scorer import FlowScorer
from conftest import mistake, textures

SHAPE = (1, 12, 12)


def names(scorer: FlowScorer) -> list[str]:
    return [statistic.name for statistic in scorer.statistics]


def images(n: int, **kind: float) -> torch.Tensor:
    return torch.from_numpy(textures(n, **kind))[:, None]  # type: ignore[arg-type]


def pixel_scorer(draws: int = 1) -> FlowScorer:
    flow = RealNVP(SHAPE, scales=2, blocks=1, mid_channels=4, norm="none")
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return FlowScorer(PixelEncoder(SHAPE), flow, SHAPE, draws=draws, seed=3)


def whitened_scorer() -> FlowScorer:
    encoder = WhitenedEncoder(10)
    encoder.fit_transform(images(200))
    return FlowScorer(encoder, VectorFlow("realnvp", encoder.dimension), SHAPE, draws=1, seed=3)


@pytest.mark.parametrize("make", [pixel_scorer, whitened_scorer])
def test_a_score_depends_on_its_image_alone(make) -> None:  # type: ignore[no-untyped-def]
    scorer = make().fit(images(100), images(50, seed=1))
    x = images(70, seed=2)
    together, again, shuffled = (
        scorer.statistics_of(x),
        scorer.statistics_of(x),
        scorer.statistics_of(x.flip(0)),
    )
    assert set(together) == set(names(scorer))
    for name in names(scorer):
        assert together[name].dtype == np.float64
        assert np.array_equal(together[name], again[name])
        np.testing.assert_allclose(together[name], shuffled[name][::-1], rtol=1e-4)
        np.testing.assert_allclose(
            together[name][5:6], scorer.statistics_of(x[5:6])[name], rtol=1e-4
        )


def test_statistics_of_the_whitened_space_by_hand() -> None:
    scorer = whitened_scorer()
    held_out, x = images(50, seed=1), images(20, seed=2)
    scorer.fit(images(100), held_out)

    def by_hand(given: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        code = scorer.encoder(given.float() / 255)
        log_p, mass = log_prob_and_mass(scorer.flow.log_prob, code)
        return -log_p.double().numpy(), mass.double().numpy()

    nll, mass = by_hand(x)
    usual_nll, usual_mass = by_hand(held_out)
    scores = scorer.statistics_of(x)
    np.testing.assert_allclose(scores["nll"], nll, rtol=1e-5)
    np.testing.assert_allclose(scores["mass"], mass, rtol=1e-5)
    np.testing.assert_allclose(scores["typicality"], abs(nll - usual_nll.mean()), rtol=1e-3)
    standard = [
        (nll - usual_nll.mean()) / usual_nll.std(),
        (mass - usual_mass.mean()) / usual_mass.std(),
    ]
    smooth = np.log(np.exp(standard).mean(0))
    np.testing.assert_allclose(scores["fused"], smooth, rtol=1e-3, atol=1e-4)


def test_the_noise_is_within_a_grey_level() -> None:
    noise = pixel_scorer(draws=40).noise
    assert noise.shape == (40, *SHAPE)
    assert 0 <= noise.min() < 0.01 / 255
    assert 0.99 / 255 < noise.max() < 1 / 255
    assert noise.mean() == pytest.approx(0.5 / 255, rel=0.02)


def test_more_draws_average_the_noise_away() -> None:
    x = images(30, seed=2)
    single = [
        FlowScorer(s.encoder, s.flow, SHAPE, draws=1, seed=i)
        for i, s in enumerate([pixel_scorer()] * 6)
    ]
    torch.manual_seed(0)
    many = [
        FlowScorer(s.encoder, s.flow, SHAPE, draws=16, seed=i)
        for i, s in enumerate([single[0]] * 6)
    ]
    spread = []
    for group in (single, many):
        nll = np.stack([s.raw(x)["nll"].numpy() for s in group])
        spread.append(nll.std(0).mean())
    assert spread[1] < 0.5 * spread[0]  # by a factor of 4 in expectation


def test_the_mass_of_several_draws_is_that_of_the_mean_log_likelihood() -> None:
    scorer, x = pixel_scorer(draws=3), images(4, seed=2)

    def mean_log_prob(v: torch.Tensor) -> torch.Tensor:
        assert isinstance(scorer.flow, RealNVP)
        return torch.stack([scorer.flow.log_prob(v + noise) for noise in scorer.noise]).mean(0)

    log_p, mass = log_prob_and_mass(mean_log_prob, x.float() / 255)
    raw = scorer.raw(x)
    np.testing.assert_allclose(raw["nll"].numpy(), -log_p.double().numpy(), rtol=1e-5)
    np.testing.assert_allclose(raw["mass"].numpy(), mass.double().numpy(), rtol=1e-4)


# Places of the features of two channels: of each channel, plain and divided by the mean square.
LOUD, KURTOSIS, MEAN, MEAN_RATIO = (slice(i, i + 2) for i in (0, 2, 4, 6))
RIGHT, RIGHT_RATIO, OTHER_LAGS = slice(8, 10), slice(10, 12), slice(12, 28)
CROSS, CROSS_RATIO = 28, 29


def test_white_noise_has_the_latent_features_it_should() -> None:
    z = torch.randn(4000, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    mean = latent_features([z]).mean(0)
    expected = torch.zeros(30)
    # E[log mean square] of 64 normals: digamma(32) + log(2 / 64)
    expected[LOUD] = torch.digamma(torch.tensor(32.0)) + math.log(2 / 64)
    # The kurtosis of n normals about 0 is 3 n / (n + 2) on average; its logarithm a little less.
    expected[KURTOSIS] = mean[KURTOSIS]
    assert mean[KURTOSIS].exp() == pytest.approx([3 * 64 / 66] * 2, rel=0.05)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.01)


def test_each_latent_feature_sees_its_own_departure() -> None:
    z = torch.randn(500, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    base = latent_features([z]).mean(0)
    brighter = latent_features([z + torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)]).mean(0) - base
    assert brighter[MEAN].tolist() == pytest.approx([1, 0], abs=0.01)
    # Divided by the root mean square, sqrt(1 + 1).
    assert brighter[MEAN_RATIO].tolist() == pytest.approx([math.sqrt(0.5), 0], abs=0.01)
    louder = latent_features([2 * z]).mean(0) - base
    torch.testing.assert_close(louder[LOUD], torch.full((2,), math.log(4)), rtol=0, atol=1e-4)
    # What is divided by the mean square does not see loudness, and the rest does.
    smeared = (z + z.roll(1, dims=3)) / math.sqrt(2)  # neighbours along rows share half
    lag = latent_features([smeared]).mean(0) - base
    torch.testing.assert_close(lag[RIGHT], torch.full((2,), 0.5), rtol=0, atol=0.1)
    torch.testing.assert_close(lag[RIGHT_RATIO], torch.full((2,), 0.5), rtol=0, atol=0.1)
    assert lag[OTHER_LAGS].abs().max() < 0.1
    quiet = latent_features([smeared / 10]).mean(0) - base
    torch.testing.assert_close(quiet[RIGHT_RATIO], lag[RIGHT_RATIO], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(quiet[RIGHT], lag[RIGHT] / 100, rtol=0, atol=0.01)
    tied = torch.stack([z[:, 0], 3 * z[:, 0]], 1)
    crossed = latent_features([tied]).mean(0) - base
    assert crossed[[CROSS, CROSS_RATIO]].tolist() == pytest.approx([3, 1], abs=0.15)
    spiked = z.clone()
    spiked[:, :, 0, 0] = 8
    assert (latent_features([spiked]).mean(0) - base)[KURTOSIS].min() > 1


def test_small_maps_have_the_features_they_can() -> None:
    assert latent_features([torch.randn(3, 1, 1, 1)]).isfinite().all()
    # Of one channel of 2x2: loudness, kurtosis, mean, and three lags; all but two also as ratios.
    assert latent_features([torch.randn(3, 1, 2, 2)]).shape == (3, 10)


def test_the_latent_fit_finds_latents_that_are_not_white() -> None:
    # The flow starts as the identity, so that its latents are the logits of the pixels.
    flow = RealNVP(SHAPE, scales=2, blocks=1, mid_channels=4, norm="none")
    scorer = FlowScorer(PixelEncoder(SHAPE), flow, SHAPE, draws=1, seed=0)
    noise = torch.randint(60, 196, (400, *SHAPE), dtype=torch.uint8)
    scorer.fit(noise[:300], noise[300:])
    latents = flow.latent_maps(flow(noise[:300].float() / 255 + scorer.noise[0])[0])
    center = latent_features(latents).mean(0).double()  # what is usual is that of the training
    torch.testing.assert_close(scorer.latent.center, center, atol=1e-4, rtol=0)
    # the same grey levels in order: the likelihood cannot tell, the latent fit can
    flat = noise[:50].flatten(1).sort(1).values.view(50, *SHAPE)
    usual, ordered = scorer.statistics_of(noise[300:]), scorer.statistics_of(flat)
    np.testing.assert_allclose(ordered["nll"].mean(), usual["nll"].mean(), rtol=0.02)
    assert ordered["latent_fit"].min() > usual["latent_fit"].max()
    assert ordered["fused"].min() > usual["fused"].max()


@pytest.mark.parametrize("make", [pixel_scorer, whitened_scorer])
def test_an_image_that_overflows_scores_highest_and_spoils_no_other(make) -> None:  # type: ignore[no-untyped-def]
    scorer = make().fit(images(100), images(50, seed=1))
    x = images(5, seed=2)
    expected = scorer.statistics_of(x)
    real = scorer.encoder.codes

    def far(views: torch.Tensor) -> torch.Tensor:
        hit = (views == x[2]).flatten(1).all(1)
        return real(views).masked_fill(hit.view(-1, *[1] * (real(views).dim() - 1)), 1e30)

    scorer.encoder.codes = far
    scores = scorer.statistics_of(x)
    others = [0, 1, 3, 4]
    for name, values in scores.items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values[others], expected[name][others], rtol=1e-6)
        assert values[2] > 1e6 * values[others].max()


def test_a_flow_that_overflows_on_usual_images_is_an_error() -> None:
    scorer = whitened_scorer()
    with torch.no_grad():
        next(scorer.flow.parameters()).fill_(float("nan"))
    with mistake("diverged"):
        scorer.fit(images(100), images(50, seed=1))


@pytest.mark.parametrize("make", [pixel_scorer, whitened_scorer])
def test_no_images_have_no_scores(make) -> None:  # type: ignore[no-untyped-def]
    scorer = make().fit(images(100), images(50, seed=1))
    scores = scorer.statistics_of(images(1)[:0])
    assert {name: len(values) for name, values in scores.items()} == dict.fromkeys(names(scorer), 0)
