"""The two plain statistics of a network's summary, and the one that fuses all, by NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from approxmass.encoders import PooledEncoder
from approxmass.flows import VectorFlow
from approxmass.models.scorer import FlowScorer
from approxmass.models.statistics import FUSED, fused
from approxmass.models.summary import Neighbour, Residual
from approxmass.runtime.random import seeded_generator
from tiny_network import TinyNetwork


def summaries(count: int, width: int = 30, seed: int = 0) -> Tensor:
    """Rows of length 1 that fill some directions more than others."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(2, 0.05, width)
    rows = 1 + spread * torch.randn(count, width, generator=generator)
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return unit


def residual(learnt: np.ndarray, new: np.ndarray, kept: int) -> np.ndarray:
    """Length of what the principal components of some rows leave of others, by an SVD."""
    center = learnt.mean(0)
    axes = np.linalg.svd(learnt - center, full_matrices=False)[2][:kept]
    centered = new - center
    length: np.ndarray = np.linalg.norm(centered - centered @ axes.T @ axes, axis=1)
    return length


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    apart: np.ndarray = np.linalg.norm(a[:, None] - b[None], axis=2)
    return apart


@pytest.mark.parametrize(
    ("count", "width", "kept"), [(400, 30, 29), (400, 100, 64), (60, 100, 15), (9, 5, 2)]
)
def test_the_residual_is_what_the_principal_components_leave(
    count: int, width: int, kept: int
) -> None:
    learnt, new = summaries(count, width), summaries(50, width, seed=1)
    statistic = Residual()
    statistic.fit(learnt, seed=0)
    assert statistic.axes.shape == (kept, width)
    expected = residual(learnt.double().numpy(), new.double().numpy(), kept)
    np.testing.assert_allclose(statistic(new).numpy(), expected, rtol=1e-3, atol=1e-5)
    # What lies in their span leaves nothing.
    inside = statistic.center + torch.randn(5, kept) @ statistic.axes
    assert statistic(inside).max() < 1e-5 * inside.norm(dim=1).max()


def test_the_residual_of_a_fit_is_by_components_that_have_not_seen_the_image() -> None:
    learnt = summaries(400, 100)
    found = Residual().fit(learnt, seed=0).numpy()
    assert found.shape == (400,)
    order = torch.randperm(400, generator=seeded_generator(0, "residual", 0)).numpy()
    values = learnt.double().numpy()
    everything = residual(values, values, 64)
    for fold, of_fold in enumerate(found.reshape(5, 80)):  # they stand fold by fold
        held = order[fold::5]
        others = np.setdiff1d(np.arange(400), held)
        expected = residual(values[others], values[held], 64)
        np.testing.assert_allclose(of_fold, expected, rtol=1e-3)
        assert of_fold.mean() > 1.02 * everything[held].mean()  # images fit what knows them


def test_the_neighbour_is_the_nearest_that_is_remembered() -> None:
    learnt, new = summaries(300), summaries(50, seed=1)
    statistic = Neighbour()
    statistic.fit(learnt, seed=0)
    assert (statistic.remembered.shape, statistic.remembered.dtype) == ((300, 30), torch.float16)
    expected = distances(new.double().numpy(), learnt.double().numpy()).min(1)
    np.testing.assert_allclose(statistic(new).numpy(), expected, rtol=5e-3, atol=5e-3)
    # In half precision to the letter.
    kept = statistic.remembered.double().numpy()
    cosine = (new.double().numpy() @ kept.T).max(1)
    np.testing.assert_allclose(statistic(new).numpy(), np.sqrt(2 - 2 * cosine), rtol=1e-3)
    assert statistic(learnt).max() < 0.03  # what is remembered is near


def test_in_a_fit_the_neighbour_is_another_image() -> None:
    learnt = summaries(300)
    found = Neighbour().fit(learnt, seed=0)
    apart = distances(learnt.double().numpy(), learnt.double().numpy())
    np.fill_diagonal(apart, np.inf)
    np.testing.assert_allclose(np.sort(found.numpy()), np.sort(apart.min(1)), rtol=1e-3)
    # Each as a fit without it gives it.
    for i in (0, 123):
        without = Neighbour()
        without.fit(torch.cat([learnt[:i], learnt[i + 1 :]]), seed=0)
        assert without(learnt[i : i + 1]).item() == pytest.approx(apart.min(1)[i], abs=5e-3)


def test_of_many_images_some_are_learnt_from_and_remembered() -> None:
    many = summaries(10_500, 6)
    components, nearest = Residual(), Neighbour()
    assert components.fit(many, seed=0).shape == (4_000,)
    assert nearest.fit(many, seed=0).shape == (4_000,)
    assert nearest.remembered.shape == (4_000, 6)
    whole = {tuple(row) for row in many.half().tolist()}
    assert {tuple(row) for row in nearest.remembered.tolist()} <= whole
    other = Neighbour()
    other.fit(many, seed=1)
    assert not torch.equal(other.remembered, nearest.remembered)


def test_both_grow_with_the_distance_from_usual_images() -> None:
    learnt = summaries(300)
    away = torch.zeros(30)
    away[-1] = 1  # where there is hardly any variance
    for statistic in (Residual(), Neighbour()):
        statistic.fit(learnt[:, :], seed=0)
        steps = []
        for step in (0.0, 0.2, 0.5, 1.0):
            new = learnt[:20] + step * away
            steps.append(float(statistic(new / new.norm(dim=1, keepdim=True)).mean()))
        if isinstance(statistic, Neighbour):
            assert steps == sorted(steps)
        assert steps[-1] > steps[0]


def given(count: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    scores = {
        name: 3 * torch.randn(count, generator=generator, dtype=torch.float64) + place
        for place, name in enumerate(FUSED)
    }
    moments = {
        name: torch.tensor([place - 0.5, 0.5 + place], dtype=torch.float64)
        for place, name in enumerate(FUSED)
    }
    return scores, moments


def test_fused_is_the_log_of_the_mean_of_the_exponentials() -> None:
    scores, moments = given(200)
    standard = np.stack(
        [(scores[n].numpy() - moments[n][0].item()) / moments[n][1].item() for n in FUSED]
    )
    expected = np.log(np.exp(standard).mean(0))
    found = fused(scores, moments).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # Between the mean and the largest, and no further below that than if it stood alone.
    assert (found >= standard.mean(0) - 1e-12).all()
    assert (found <= standard.max(0) + 1e-12).all()
    assert (found >= standard.max(0) - np.log(len(FUSED)) - 1e-12).all()


def test_fused_is_the_harmonic_mean_of_p_values_with_exponential_tails() -> None:
    scores, moments = given(200)
    standard = np.stack(
        [(scores[n].numpy() - moments[n][0].item()) / moments[n][1].item() for n in FUSED]
    )
    p = np.exp(-standard)  # of a standard exponential, up to a factor
    harmonic = len(FUSED) / (1 / p).sum(0)
    np.testing.assert_allclose(fused(scores, moments).numpy(), -np.log(harmonic), rtol=1e-10)


def test_fused_takes_those_that_there_are_and_minds_no_overflow() -> None:
    scores, moments = given(5)
    alone = fused({"mass": scores["mass"]}, moments)
    expected = (scores["mass"] - moments["mass"][0]) / moments["mass"][1]
    torch.testing.assert_close(alone, expected)
    alike = {name: moments[name][0] + 2 * moments[name][1] for name in FUSED}
    assert fused({n: v[None] for n, v in alike.items()}, moments).item() == pytest.approx(2)
    with_typicality = {**scores, "typicality": torch.full((5,), 1e9, dtype=torch.float64)}
    assert torch.equal(fused(with_typicality, moments), fused(scores, moments))
    scores["mass"][2] = 1e30
    found = fused(scores, moments)
    assert found.isfinite().all()
    assert found.argmax() == 2


def test_the_range_of_each_statistic_is_of_images_it_has_not_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (160, 3, 16, 16), generator=generator, dtype=torch.uint8)
    encoder = PooledEncoder(TinyNetwork())
    views = encoder.view(images)
    training, held_out, new = views[:120], views[120:140], views[140:]
    codes = encoder.fit_transform(training)
    scorer = FlowScorer(encoder, VectorFlow("identity", encoder.dimension), (3, 16, 16), seed=4)
    scorer.fit(training, held_out, codes=codes[:30])
    assert scorer.names == ("nll", "mass", "residual", "neighbour")
    assert "latent_fit" not in scorer.statistics_of(new)

    # A flow that starts as the identity: the density is the normal one, the mass is the length.
    def densities(code: Tensor) -> tuple[np.ndarray, np.ndarray]:
        length = code.double().numpy() ** 2
        nll = 0.5 * (length.sum(1) + code.shape[1] * np.log(2 * np.pi))
        return nll, np.sqrt(length.sum(1))

    unseen = [densities(encoder.codes(held_out)), densities(codes[:30])]
    nll, mass = (np.concatenate(of) for of in zip(*unseen, strict=True))
    summary = encoder.summary(training)
    plain: dict[str, Residual | Neighbour] = {"residual": Residual(), "neighbour": Neighbour()}
    known = {name: each.fit(summary, seed=4).numpy() for name, each in plain.items()}
    of_held_out = {name: each(encoder.summary(held_out)).numpy() for name, each in plain.items()}
    ranges = {"nll": nll, "mass": mass} | {
        name: np.concatenate([of_held_out[name], known[name]]) for name in plain
    }
    for (name, values), moments in zip(ranges.items(), scorer.moments.numpy(), strict=True):
        np.testing.assert_allclose(moments, [values.mean(), values.std()], rtol=1e-4, err_msg=name)
    scores = scorer.statistics_of(new)
    for name, of in zip(("nll", "mass"), densities(encoder.codes(new)), strict=True):
        np.testing.assert_allclose(scores[name], of, rtol=1e-4)
    for name, each in plain.items():
        expected = each(encoder.summary(new)).numpy()
        np.testing.assert_allclose(scores[name], expected, rtol=1e-4)
    standard = [(scores[name] - values.mean()) / values.std() for name, values in ranges.items()]
    np.testing.assert_allclose(
        scores["fused"], np.log(np.exp(standard).mean(0)), rtol=1e-2, atol=1e-2
    )
