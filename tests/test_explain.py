import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from approxmass import Detector, Explanation, open_images
from approxmass.cli.explain import explain_files
from approxmass.encoders import WhitenedEncoder
from approxmass.explain import attribution, picture
from approxmass.explain.attribution import explain
from conftest import mistake, textures


def log_prob(code: Tensor) -> Tensor:
    """The standard normal density."""
    return -0.5 * (code.square().sum(1) + code.shape[1] * math.log(2 * math.pi))


def explained(encoder: WhitenedEncoder, images: Tensor) -> Explanation:
    return explain(encoder, log_prob, images, device=torch.device("cpu"), batch_size=64)


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
    expected = gradient**2 / (gradient**2).sum(1, keepdims=True)
    np.testing.assert_allclose(found.maps.reshape(7, -1), expected, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(
        found.components, code**2 / (code**2).sum(1, keepdims=True), rtol=2e-3, atol=1e-6
    )
    assert found.names == [str(i) for i in range(1, 31)]


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
    assert found.names == ["1", "2", "3", "residual"]
    assert found.components[0, 3] > 0.9


def test_where_there_is_no_gradient_all_shares_are_equal() -> None:
    encoder = whitened(30, pixels(400))
    encoder.scale = torch.zeros(30)
    found = explained(encoder, pixels(1))
    np.testing.assert_allclose(found.maps, 1 / 30)
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
        share[row : row + 8, column : column + 8].sum()
        for share, (row, column) in zip(maps, places, strict=True)
    ]
    assert np.mean(inside) / (8 * 8 / 28**2) >= 2


def test_in_pixel_space_there_is_a_map_and_there_are_no_components() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)
    found = Detector("pixels", epochs=1).fit(images).explain(images[:3])
    assert found.maps.shape == (3, 8, 8)
    assert found.components.shape == (3, 0)
    np.testing.assert_allclose(found.maps.sum((1, 2)), 1)
    assert (found.maps >= 0).all()


def test_a_baseline_has_nothing_to_explain() -> None:
    detector = Detector(method="nearest-neighbour").fit(textures(120))
    with mistake("no-explanation"):
        detector.explain(textures(1))


def test_a_picture_shows_the_image_and_is_brightest_where_the_map_is() -> None:
    image = np.zeros((3, 10, 20), np.uint8)
    image[0, 2, 3] = 255
    share = np.zeros((10, 20))
    share[7, 15] = 1
    shown = np.asarray(picture(image, share)).astype(int)
    scale = (shown.shape[1] - 8) // 40
    assert shown.shape == (10 * scale, 40 * scale + 8, 3)
    assert shown[int(2.5 * scale), int(3.5 * scale)].tolist() == [255, 0, 0]
    over = shown[:, 20 * scale + 8 :].sum(2)
    row, column = np.unravel_index(over.argmax(), over.shape)
    assert (row // scale, column // scale) == (7, 15)


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
    with Image.open(tmp_path / "out" / "003-0.png") as shown:
        assert shown.size == (2 * 12 * 19 + 8, 12 * 19)


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
