"""One image, one p-value, whatever it comes with: where usual images repeat, too."""

import base64
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from approxmass import Detector
from approxmass.calibration import (
    called_ranks,
    p_values,
    threshold,
    with_tolerance,
)
from approxmass.data.png import png_bytes
from approxmass.rank_sum import group_p_value
from approxmass.serve import create_app
from conftest import textures

SIZES = (1, 2, 3, 7, 16, 17, 30, 64, 100, 255, 256)


def few(count: int, each: int) -> NDArray[np.uint8]:
    """So many different images, each so many times, in a random order."""
    images = np.repeat(textures(count, seed=1), each, 0)
    return images[np.random.default_rng(0).permutation(len(images))]


@cache
def fitted(kind: str) -> Detector:
    """A detector on five images, each of them 50 times."""
    if kind in ("pca", "pixels"):
        return Detector(kind, epochs=1).fit(few(5, 50))
    return Detector(method=kind).fit(few(5, 50))


def asked() -> NDArray[np.uint8]:
    """Images of the fit and new ones."""
    return np.concatenate([textures(5, seed=1), textures(251, shift=0.2, seed=2)])


@pytest.mark.parametrize("tied", [False, True])
def test_rounding_of_a_score_moves_no_p_value(tied: bool) -> None:
    """Every score that the tolerance allows for rounding, on either side of a calibration score."""
    generator = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e6):
        calibration = scale * generator.normal(3, 1, 300)
        if tied:
            calibration[:280] = calibration[0]
        p = p_values(calibration, calibration)
        for rounding in (-1e-6, -1e-7, 1e-7, 1e-6):
            moved = calibration * (1 + rounding)
            np.testing.assert_array_equal(p_values(calibration, moved), p)
            np.testing.assert_array_equal(p_values(moved, calibration), p)
            called = moved > threshold(calibration, 0.05)
            np.testing.assert_array_equal(called, p <= 0.05)
            assert group_p_value(calibration, moved[:50]) == group_p_value(
                calibration, calibration[:50]
            )


def test_the_tolerance_only_makes_p_values_larger_and_that_by_little() -> None:
    generator = np.random.default_rng(1)
    calibration, scores = generator.normal(size=1000), generator.normal(size=5000)
    exact = (1 + (calibration >= scores[:, None]).sum(1)) / 1001
    p = p_values(calibration, scores)
    assert (p >= exact).all()
    assert (p - exact).mean() < 0.005
    assert (with_tolerance(calibration) >= np.sort(calibration)).all()


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_verdict_threshold_and_ranks_agree_to_the_last_bit(rate: float) -> None:
    generator = np.random.default_rng(2)
    calibration = np.concatenate([generator.normal(-5, 3, 150), np.full(150, -5.0)])
    limits = with_tolerance(calibration)
    scores = np.concatenate([limits, np.nextafter(limits, np.inf), np.nextafter(limits, -np.inf)])
    called = p_values(calibration, scores) <= rate
    np.testing.assert_array_equal(scores > threshold(calibration, rate), called)
    assert threshold(calibration, rate) == limits[-called_ranks(300, rate)]


@pytest.mark.parametrize("kind", ["pca", "pixels", "nearest-neighbour", "gaussian", "pca-residual"])
def test_a_score_is_the_same_in_every_batch_order_and_number_of_threads(kind: str) -> None:
    detector, images = fitted(kind), asked()[: 64 if kind == "pixels" else 256]
    whole = detector.score(images)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for size in SIZES:
                first = detector.score(images[:size, None])
                np.testing.assert_array_equal(first.p_value, whole.p_value[:size])
                np.testing.assert_allclose(
                    first.statistic, whole.statistic[:size], rtol=1e-5, atol=1e-4
                )
    finally:
        torch.set_num_threads(before)
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_array_equal(detector.score(images[order]).p_value, whole.p_value[order])
    floats = (images / 255).astype(np.float32)
    np.testing.assert_array_equal(detector.score(floats).p_value, whole.p_value)
    # The images of the fit tie with their copies.
    assert (whole.p_value[:5] > 2 / (detector.facts.calibration + 1)).any()


def test_the_server_gives_the_same_p_values_one_at_a_time() -> None:
    detector, images = fitted("pca"), asked()[:20]
    p = detector.score(images).p_value
    with TestClient(create_app(detector), base_url="http://localhost:8000") as client:
        for image, expected in zip(images, p, strict=True):
            encoded = base64.b64encode(png_bytes(image[None])).decode()
            rows = client.post("/score", json={"images": [encoded]}).json()["results"]
            assert [row["p_value"] for row in rows] == [expected]


def test_maps_exceed_where_and_only_where_their_p_value_says_so() -> None:
    detector, images = fitted("pca"), asked()
    found = detector.explain(images)
    np.testing.assert_array_equal(found.peaks > found.threshold(), found.p_value <= 0.05)
    for image in (0, 3, 100):
        alone = detector.explain(images[image : image + 1])
        assert alone.p_value[0] == found.p_value[image]


def test_an_odd_image_among_equal_ones_is_one_thing_alone_and_in_company(tmp_path: Path) -> None:
    """Every statistic of equal images has no spread; rounding must not stand for one."""
    images = np.repeat(textures(1, seed=3), 200, 0)
    images[77] = 0
    detector = Detector("pca", epochs=1).fit(images)
    detector.save(tmp_path / "detector")
    probe = np.concatenate([images[70:80], textures(20, seed=4)])
    for made in (detector, Detector.load(tmp_path / "detector")):
        together = made.score(probe).p_value
        alone = [made.score(probe[i : i + 1]).p_value[0] for i in range(len(probe))]
        np.testing.assert_array_equal(together, alone)
        assert (np.delete(together[:10], 7) == 1).all()
