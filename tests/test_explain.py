import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from approxmass import Detector, Explanation, open_images
from approxmass.cli.explain import explain_files
from approxmass.data.frame import Box, Frame, box_in
from approxmass.encoders import WhitenedEncoder
from approxmass.explain import attribution
from approxmass.explain.attribution import Surfaces, as_given, gradients
from approxmass.explain.picture import overlay, picture, shown_size
from approxmass.scores import Scores
from conftest import mistake, textures


def log_prob(code: Tensor) -> Tensor:
    """The standard normal density."""
    return -0.5 * (code.square().sum(1) + code.shape[1] * math.log(2 * math.pi))


def explained(encoder: WhitenedEncoder, images: Tensor, boxes: list[Box] | None = None) -> Surfaces:
    cpu = torch.device("cpu")
    return gradients(encoder, log_prob, images, boxes, device=cpu, batch_size=64)


def whitened(components: int, images: Tensor) -> WhitenedEncoder:
    encoder = WhitenedEncoder(components)
    encoder.fit_transform(images)
    return encoder


def pixels(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 6, 5), generator=generator, dtype=torch.uint8)


def test_of_a_gaussian_the_map_and_the_components_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attribution, "_SMOOTH", 0)
    encoder = whitened(30, pixels(400))  # all there are: no residual
    images = pixels(7, seed=1)
    found = explained(encoder, images)
    centred = images.flatten(1).double().numpy() / 255 - encoder.mean.double().numpy()
    axes, scale = encoder.axes.double().numpy(), encoder.scale.double().numpy()
    code = centred @ axes.T * scale
    gradient = (code * scale) @ axes
    np.testing.assert_allclose(
        found.maps.reshape(7, -1), gradient**2, rtol=2e-3, atol=1e-6 * (gradient**2).max()
    )
    np.testing.assert_allclose(
        found.components, code**2 / (code**2).sum(1, keepdims=True), rtol=2e-3, atol=1e-6
    )
    assert encoder.names == [str(i) for i in range(1, 31)]


def test_the_residual_is_the_last_component_and_tells_of_what_the_others_cannot_see() -> None:
    generator = np.random.default_rng(0)
    basis = generator.normal(size=(3, 30))
    usual = 0.5 + 0.03 * generator.normal(size=(400, 3)) @ basis
    usual += 0.001 * generator.normal(size=usual.shape)
    encoder = whitened(3, torch.tensor(usual).float().view(-1, 1, 6, 5))
    strange = usual[:1].copy()
    strange[0, 12] = 1.0  # a pixel that the three directions cannot make
    images = torch.tensor(strange * 255).clamp(0, 255).byte().view(-1, 1, 6, 5)
    found = explained(encoder, images)
    assert encoder.names == ["1", "2", "3", "residual"]
    assert found.components[0, 3] > 0.9


def test_outside_of_its_box_an_image_has_no_map() -> None:
    encoder, images = whitened(30, pixels(400)), pixels(2, seed=1)
    plain = explained(encoder, images).maps
    boxed = explained(encoder, images, [Box(1, 0, 3, 5), Box(0, 2, 6, 2)]).maps
    known = np.isfinite(boxed)
    assert known[0].all(1).tolist() == [False, True, True, True, False, False]
    assert known[1].all(0).tolist() == [False, False, True, True, False]
    np.testing.assert_array_equal(boxed[known], plain[known])
    assert (boxed[~known] == -np.inf).all()


def test_where_there_is_no_gradient_all_shares_are_equal() -> None:
    encoder = whitened(30, pixels(400))
    encoder.scale = torch.zeros(30)
    found = explained(encoder, pixels(1))
    assert (found.maps == 0).all()
    np.testing.assert_allclose(found.components, 1 / 30)


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector(epochs=4).fit(textures(600))


def test_an_explanation_depends_on_its_image_alone(fitted: Detector) -> None:
    images = textures(9, shift=0.7, seed=3)
    together = fitted.explain(images)
    for i in (0, 8):
        alone = fitted.explain(images[i])
        np.testing.assert_allclose(alone.maps[0], together.maps[i], rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(alone.components[0], together.components[i], atol=1e-4)


@pytest.mark.slow
def test_a_foreign_patch_is_found() -> None:
    """200 clothes with 8x8 pixels of a digit: the map's share there is twice that of the area."""
    detector = Detector().fit("sample:fashion_mnist/train")
    images = open_images("sample:fashion_mnist/test").read()[:200].copy()
    digits = open_images("sample:mnist").read()
    generator = np.random.default_rng(0)
    places = generator.integers(0, 21, (200, 2))
    for image, digit, (row, column) in zip(images, digits, places, strict=False):
        image[0, row : row + 8, column : column + 8] = digit[0, 10:18, 10:18]
    maps = detector.explain(images).maps
    inside = [
        share[row : row + 8, column : column + 8].sum() / share.sum()
        for share, (row, column) in zip(maps, places, strict=True)
    ]
    assert np.mean(inside) / (8 * 8 / 28**2) >= 2


def test_in_pixel_space_there_is_a_map_and_there_are_no_components() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)
    found = Detector("pixels", epochs=1).fit(images).explain(images[:3])
    assert [each.shape for each in found.maps] == [(8, 8)] * 3
    assert found.components.shape == (3, 0)
    assert found.of == "gradient of latent_fit"
    assert all((each >= 0).all() for each in found.maps)


def test_a_baseline_has_nothing_to_explain() -> None:
    detector = Detector(method="nearest-neighbour").fit(textures(120))
    with mistake("no-explanation"):
        detector.explain(textures(1))


def of_one(surface: np.ndarray, usual: np.ndarray) -> Explanation:
    peak = np.array([surface.max()])
    return explanation([surface.astype(np.float32)], peak, usual)


def explanation(maps: list[np.ndarray], peaks: np.ndarray, usual: np.ndarray) -> Explanation:
    p = np.full(len(peaks), 0.5)
    scores = Scores(
        log_prob=p, mass=p, statistic=p, p_value=p, is_outlier=p > 1, statistics={"nll": p}
    )
    cells = np.ones(len(peaks))
    return Explanation(maps, "x", cells, peaks, usual, np.empty((len(peaks), 0)), [], scores)


def test_a_map_exceeds_the_threshold_where_the_p_value_says_so() -> None:
    generator = np.random.default_rng(0)
    for n in (39, 40, 99, 137):
        usual = generator.normal(size=n)
        for rate in (0.05, 0.1, 0.31):
            peaks = np.concatenate([generator.normal(size=200), usual])
            found = explanation([], peaks, usual)
            np.testing.assert_array_equal(peaks > found.threshold(rate), found.p_value <= rate)
    few = explanation([], np.array([9.0]), np.arange(18.0))
    assert few.threshold(0.05) == np.inf
    assert few.p_value[0] > 0.05


def test_maps_of_usual_images_keep_below_their_threshold_in_95_of_100() -> None:
    """Pooled over 20 fits, within what the beta-binomial law allows in 99.9 of 100 lots."""
    over, n, new = 0, 75, 100
    for seed in range(20):
        detector = Detector(seed=seed, epochs=1, holdout=0.2, components=16)
        detector.fit(textures(500, seed=seed))
        found = detector.explain(textures(new, seed=1000 + seed))
        n = len(found.usual)
        limit = found.threshold(0.05)
        over += sum(bool(each.max() > limit) for each in found.maps)
    ranks = math.floor(0.05 * (n + 1))
    law = stats.betabinom(new, ranks, n + 1 - ranks)
    mean, spread = 20 * law.mean(), (20 * law.var()) ** 0.5
    assert abs(over - mean) < 3.3 * spread


def test_a_map_has_the_size_of_the_image_whatever_the_frame() -> None:
    surface = np.full((4, 4), -np.inf)
    surface[1:3] = [[0.0, 1, 2, 3], [4, 5, 6, 7]]
    box = box_in(50, 100, Frame(64, 64))
    found = as_given(surface, box, (64, 64), (50, 100))
    assert found.shape == (50, 100)
    assert np.isfinite(found).all()
    assert (found[0, 0], found[-1, -1]) == (0, 7)
    # The middle of cell (2, 1) of the frame, 40 down and 24 right, lies here in the image.
    assert found[37, 37] == pytest.approx(5, abs=0.1)
    whole = as_given(np.arange(16.0).reshape(4, 4), None, (64, 64), (64, 64))
    assert whole[:8, :8].max() == pytest.approx(whole[7, 7])
    assert whole.max() == 15


def test_maps_of_a_detector_are_those_of_the_images_as_given(fitted: Detector) -> None:
    found = fitted.explain(textures(4, seed=2))
    assert [each.shape for each in found.maps] == [(12, 12)] * 4
    np.testing.assert_allclose([each.max() for each in found.maps], found.peaks, rtol=1e-6)
    assert found.of == "gradient of fused"
    assert len(found.usual) == fitted.facts.calibration


def test_scores_come_with_the_maps_and_are_those_of_scoring(fitted: Detector) -> None:
    new = textures(70, shift=0.3, seed=3)
    found, alone = fitted.explain(new).scores, fitted.score(new)
    for name in ("log_prob", "mass", "statistic", "p_value", "is_outlier"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
    assert found.statistics.keys() == alone.statistics.keys()


def test_a_picture_has_contours_where_the_map_is_beyond_the_limit() -> None:
    image = np.zeros((3, 10, 20), np.uint8)
    height, width = shown_size((10, 20))
    surface = np.zeros((height, width))
    surface[100:140, 50:90] = 5.0
    usual = np.arange(100) / 100
    drawn = np.asarray(overlay(image, None, of_one(surface, usual), 0)).astype(int)
    red = (drawn == (200, 16, 46)).all(2)
    assert red[100, 50:90].all()
    assert red[100:140, 50].all()
    assert not red[:95].any()
    assert not red[:, 100:].any()
    empty = np.asarray(overlay(image, None, of_one(np.zeros((height, width)), usual), 0))
    assert (empty == 0).all()  # the image alone


def test_a_picture_keeps_the_shape_of_long_images_and_says_what_it_shows() -> None:
    image = np.zeros((1, 96, 64), np.uint8)
    box = box_in(1270, 500, Frame(96, 64))
    height, width = shown_size((1270, 500))
    found = of_one(np.zeros((height, width)), np.arange(100.0))
    drawn = picture(image, box, found, 0, name="a/long name\n.png", p_value=0.5)
    assert (height, width) == (336, 132)
    assert drawn.height > height
    assert drawn.width > 2 * width
    quiet = of_one(np.zeros((height, width)), np.arange(5.0))  # too few to say
    picture(image, box, quiet, 0, name="x" * 500, p_value=1.0)


def test_pictures_of_several_sources(fitted: Detector, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i, image in enumerate(textures(2, seed=4)):
        Image.fromarray(image).save(tmp_path / "in" / f"a b {i}.png")
    np.save(tmp_path / "x.npy", textures(3, shift=1.0, seed=5)[:, None])
    facts = explain_files(fitted, [str(tmp_path / "in"), str(tmp_path / "x.npy")], tmp_path / "out")
    rows = facts["images"]
    assert [row["picture"] for row in rows] == [
        "001-a-b-0.png",
        "002-a-b-1.png",
        "003-0.png",
        "004-1.png",
        "005-2.png",
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [r["picture"] for r in rows]
    expected = fitted.score(tmp_path / "x.npy").p_value
    np.testing.assert_array_equal([row["p_value"] for row in rows[2:]], expected)
    for row in rows:
        shares = [part["share"] for part in row["components"]]
        assert shares == sorted(shares, reverse=True)
        assert len(shares) == 3
    found = fitted.explain(tmp_path / "x.npy")
    by_map = [row["map"] for row in rows[2:]]
    np.testing.assert_allclose([each["p_value"] for each in by_map], found.p_value)
    np.testing.assert_allclose([each["highest"] for each in by_map], found.peaks, rtol=1e-6)
    assert {each["threshold"] for each in by_map} == {found.threshold()}
    with Image.open(tmp_path / "out" / "003-0.png") as shown:
        assert shown.height > 336


def test_images_are_looked_at_once(
    fitted: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", textures(3, seed=5)[:, None])
    seen: list[int] = []
    view = fitted.model.view

    def counted(images: Tensor, boxes: list[Box] | None = None) -> Tensor:
        seen.append(len(images))
        return view(images, boxes)

    monkeypatch.setattr(fitted.model, "view", counted)
    explain_files(fitted, [str(tmp_path / "x.npy")], tmp_path / "out")
    assert seen == [3]


def test_no_source_is_overwritten(fitted: Detector, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("002-b.png", "b.png"):
        Image.fromarray(textures(1)[0]).save(folder / name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for source, place in ((folder, folder), (folder, folder / "why"), (folder / "b.png", folder)):
        with mistake("would-overwrite"):
            explain_files(fitted, [str(source)], place)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_cannot_be_read_is_skipped_and_said(fitted: Detector, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    Image.fromarray(textures(1)[0]).save(folder / ("\N{CJK UNIFIED IDEOGRAPH-20000}" * 60 + ".png"))
    facts = explain_files(fitted, [str(folder)], tmp_path / "out")
    assert facts["skipped"][0].startswith("image a.png cannot be decoded")
    assert [row["picture"] for row in facts["images"]] == [
        "001-" + "\N{CJK UNIFIED IDEOGRAPH-20000}" * 15 + ".png"
    ]
    with mistake("bad-image", "the first, image a"):
        explain_files(fitted, [str(folder / "a.png")], tmp_path / "out")
