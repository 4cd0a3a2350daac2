"""A region of interest: what lies outside of it is in no fit, score, map or picture."""

import base64
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from approxmass import Detector, open_images
from approxmass.cli.main import app
from approxmass.data.frame import Box, Frame, box_in
from approxmass.data.images import open_images as opened
from approxmass.data.open_region import open_region
from approxmass.data.part import part_of
from approxmass.data.region import OUTSIDE, Region, inside_of
from approxmass.describe import describe
from approxmass.encoders import PooledEncoder
from approxmass.errors import ApproxMassError
from approxmass.explain.attribution import as_given
from approxmass.explain.picture import overlay, shown_size
from approxmass.training import recipes
from conftest import mistake, textures
from tiny_network import TinyNetwork

Mask = NDArray[np.bool_]


def disc(height: int, width: int) -> Mask:
    """An ellipse, so that no edge of it is one of cells."""
    rows, columns = np.mgrid[0:height, 0:width]
    away = ((rows + 0.5) / height - 0.45) ** 2 + ((columns + 0.5) / width - 0.55) ** 2
    return away < 0.3**2


def photos(n: int, height: int = 64, width: int = 64, *, seed: int = 0) -> NDArray[np.uint8]:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand((n, 3, height // 8, width // 8), generator=generator)
    large = torch.nn.functional.interpolate(low, (height, width), mode="bilinear")
    noise = 0.1 * torch.rand(large.shape, generator=generator)
    return (255 * (0.9 * large + noise)).byte().numpy()


def noisy(images: NDArray[np.uint8], where: Mask, seed: int = 0) -> NDArray[np.uint8]:
    """Images with noise at these pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, images.shape, np.uint8)
    return np.where(where, noise, images)


def encoded(images: NDArray[np.uint8]) -> list[Image.Image]:
    return [
        Image.fromarray(each[0] if len(each) == 1 else np.moveaxis(each, 0, 2)) for each in images
    ]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TinyNetwork:
    """A small network, and short trainings: how well they end is no matter here."""
    made = TinyNetwork()
    monkeypatch.setattr("approxmass.models.kinds.network", lambda name: made)
    short = replace(recipes.for_patches(1000, 1), epochs=1)
    monkeypatch.setattr(recipes, "for_patches", lambda count, dimension: short)
    return made


def with_parts(roi: object = None) -> Detector:
    return Detector("lite0", size=64, parts=True, epochs=1, roi=roi)  # type: ignore[arg-type]


def same_scores(one: Detector, images: object, other: Detector, others: object) -> None:
    found, expected = one.score(images), other.score(others)
    assert found.statistics.keys() == expected.statistics.keys()
    for name, values in found.statistics.items():
        np.testing.assert_array_equal(values, expected.statistics[name])
    np.testing.assert_array_equal(found.p_value, expected.p_value)


def same_maps(one: Detector, images: object, other: Detector, others: object) -> None:
    found, expected = one.explain(images), other.explain(others)
    np.testing.assert_array_equal(found.peaks, expected.peaks)
    np.testing.assert_array_equal(found.usual, expected.usual)
    for mine, theirs in zip(found.maps, expected.maps, strict=True):
        np.testing.assert_array_equal(mine, theirs)


# --- the region itself


def test_a_region_is_the_same_as_text_and_small() -> None:
    large = disc(3000, 4000)
    region = open_region(large)
    assert region.mask.shape == (768, 1024)
    assert len(region.text) < 4000
    again = Region(region.text)
    assert again == region
    assert hash(again) == hash(region)
    np.testing.assert_array_equal(again.at(50, 70), region.at(50, 70))
    np.testing.assert_allclose(region.at(3000, 4000).mean(), large.mean(), rtol=0.01)
    assert open_region(disc(30, 40)) != open_region(disc(40, 30))
    assert str(open_region(disc(10, 10))) == f"Region({disc(10, 10).mean():.0%} of 10x10)"


def test_at_its_own_size_and_at_multiples_a_region_is_exact() -> None:
    mask = disc(9, 13)
    region = open_region(mask)
    np.testing.assert_array_equal(region.at(9, 13), mask)
    np.testing.assert_array_equal(region.at(27, 39), mask.repeat(3, 0).repeat(3, 1))
    np.testing.assert_array_equal(open_region(mask.repeat(3, 0).repeat(3, 1)).at(9, 13), mask)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (28, 28), (99, 100), (250, 33)])
def test_nothing_of_a_region_is_lost_at_any_size(size: tuple[int, int]) -> None:
    """Each of its pixels alone is still there, within a pixel of where it was."""
    for row, column in ((0, 0), (99, 99), (41, 67)):
        mask = np.zeros((100, 100), bool)
        mask[row, column] = True
        found = np.argwhere(open_region(mask).at(*size))
        assert len(found)
        expected = [(row + 0.5) / 100 * size[0] - 0.5, (column + 0.5) / 100 * size[1] - 0.5]
        assert np.abs(found - expected).max() <= max(1, max(size) / 100)


def test_an_image_is_a_region_where_its_grey_is_not_zero(tmp_path: Path) -> None:
    mask = disc(20, 30)
    grey = np.where(mask, 1, 0).astype(np.uint8)
    files = {
        "grey.png": Image.fromarray(grey),
        "bits.png": Image.fromarray(255 * grey).convert("1"),
        "colour.png": Image.merge("RGB", [Image.fromarray(c * grey) for c in (255, 0, 0)]),
        "clear.png": Image.merge(
            "LA", [Image.new("L", (30, 20), 255), Image.fromarray(255 * grey)]
        ),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
        for given in (tmp_path / name, str(tmp_path / name)):
            assert open_region(given) == open_region(mask), name
    turned = Image.fromarray(255 * grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    assert open_region(tmp_path / "turned.png") == open_region(mask)
    assert open_region(grey) == open_region(mask)
    assert open_region(np.ones((3, 3), bool)).at(5, 5).all()


def test_what_is_no_region_is_one_line_with_the_cure(tmp_path: Path) -> None:
    with mistake("bad-source", "in white"):
        Detector(roi=tmp_path / "none.png")
    with mistake("bad-source", "no such file"):
        Detector(roi=str(tmp_path))
    (tmp_path / "text.png").write_text("hello")
    with mistake("bad-image", "text.png"):
        Detector(roi=tmp_path / "text.png")
    with mistake("bad-option", "nothing would be looked at"):
        Detector(roi=np.zeros((4, 4), bool))
    Image.new("L", (4, 4)).save(tmp_path / "black.png")
    with mistake("bad-option", "black.png"):
        Detector(roi=tmp_path / "black.png")
    wrong = (np.ones((2, 4, 4), bool), np.ones((4, 4)), np.ones((0, 4), bool), 3, [[1], [1, 2]])
    for given in wrong:
        with mistake("bad-option", "(H, W)"):
            Detector(roi=given)  # type: ignore[arg-type]


def png(width: int, height: int, mode: str) -> str:
    packed = io.BytesIO()
    Image.new(mode, (width, height), 1).save(packed, "PNG")
    return base64.b64encode(packed.getvalue()).decode()


def test_a_text_that_was_edited_is_refused() -> None:
    good = open_region(disc(20, 20)).text
    data = bytearray(base64.b64decode(good))
    data[-20] ^= 1
    bomb = bytearray(base64.b64decode(png(4, 4, "1")))
    bomb[16:24] = (60000).to_bytes(4) * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4)
    texts = ["", "mask.png", good[:-8], good + "é", 3, None, png(4, 4, "L"), png(2000, 4, "1")]
    texts += [base64.b64encode(each).decode() for each in (bytes(data), bytes(bomb), b"x" * 99)]
    texts += [base64.b64encode(bytes(1 << 20)).decode()]
    for text in texts:
        with mistake("bad-option", "edited"):
            Region(text)  # type: ignore[arg-type]


# --- images


def test_what_is_outside_becomes_mid_grey_before_anything_else(tmp_path: Path) -> None:
    """At both doors, at the image's own upright size, before colour, frame and reflection."""
    region = open_region(disc(40, 60))
    images = photos(3, 48, 96)
    blank = np.where(region.at(48, 96), images, OUTSIDE).astype(np.uint8)
    for frame in (None, Frame(32, 32), Frame(64, 32)):
        for given, expected in ((images, blank), (encoded(images), encoded(blank))):
            source, other = opened(given).seen(region=region), opened(expected)  # type: ignore[arg-type]
            if frame is not None:
                source, other = source.resized(frame), other.resized(frame)
            np.testing.assert_array_equal(source.read(), other.read())
    for i, image in enumerate(encoded(images)):
        image.save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(opened(tmp_path).seen(region=region).read(), blank)
    some = part_of(opened(tmp_path).seen(region=region), np.array([0, 1, 1], bool), "some")
    np.testing.assert_array_equal(some.read(), blank[1:])
    pages = opened(encoded(images)).seen(region=region)
    np.testing.assert_array_equal(opened(pages, pages=True).read(), blank)


@pytest.mark.parametrize("as_files", [False, True])
def test_colour_outside_makes_no_image_one_in_colour(as_files: bool) -> None:
    mask = disc(12, 12)
    grey = textures(120)[:, None].repeat(3, 1)
    stained = noisy(grey, ~mask)
    given = encoded(stained) if as_files else stained
    assert open_images(given).shape[0] == 3
    detector = Detector("pca", epochs=1, roi=mask).fit(given)
    assert detector.shape == (1, 12, 12)
    new = textures(5, seed=1)[:, None]
    tinted = noisy(new.repeat(3, 1), ~mask)
    same_scores(detector, encoded(tinted) if as_files else tinted, detector, new)


# --- detectors


@pytest.mark.parametrize("encoder", ["pca", "pixels"])
def test_small_images_count_by_their_region_alone(encoder: str) -> None:
    side = 28 if encoder == "pca" else 8
    mask = disc(side, side)
    usual, new = textures(200, side), textures(6, side, seed=1)
    detector = Detector(encoder, epochs=1, roi=mask).fit(usual)
    other = noisy(new, ~mask)
    same_scores(detector, other, detector, new)
    same_maps(detector, other, detector, new)
    same_scores(detector, encoded(other[:, None]), detector, new)
    found = detector.explain(other)
    for surface, peak in zip(found.maps, found.peaks, strict=True):
        np.testing.assert_array_equal(np.isnan(surface), ~mask)
        assert np.nanmax(surface) == pytest.approx(peak, rel=1e-6)
    for row, column in np.argwhere(mask)[::7]:
        changed = new.copy()
        changed[:, row, column] ^= 128
        assert (detector.score(changed).statistic != detector.score(new).statistic).all()
    # What was outside of the images of the fit is not in it either.
    again = Detector(encoder, epochs=1, roi=mask).fit(noisy(usual, ~mask, 1))
    same_scores(again, other, detector, new)
    same_maps(again, other, detector, new)
    assert again.facts.sha256 == detector.facts.sha256


def test_a_gradient_is_smoothed_over_the_region_alone() -> None:
    """Where it is the same everywhere inside, smoothing leaves it, up to the edge."""
    from approxmass.explain.attribution import _smoothed_inside

    mask = disc(40, 40)
    surface = np.where(mask, 3.0, 1e6)
    found = _smoothed_inside(surface, mask)
    np.testing.assert_allclose(found[mask], 3)
    assert (found[~mask] == -np.inf).all()


@pytest.mark.parametrize("shape", [(64, 64), (40, 100)])
def test_with_parts_the_region_alone_counts(tiny: TinyNetwork, shape: tuple[int, int]) -> None:
    """Images of other aspects too, which lie in boxes of the frame."""
    mask = disc(64, 64)
    usual, new = photos(120), photos(5, *shape, seed=1)
    detector = with_parts(mask).fit(usual)
    seen = open_region(mask).at(*shape)
    other = noisy(new, ~seen)
    same_scores(detector, other, detector, new)
    same_maps(detector, other, detector, encoded(new))
    found = detector.explain(other)
    for surface, peak in zip(found.maps, found.peaks, strict=True):
        assert surface.shape == shape
        np.testing.assert_array_equal(np.isnan(surface), ~seen)
        assert np.isfinite(surface[seen]).all()
        assert np.nanmax(surface) <= peak * (1 + 1e-6)
    changed = noisy(new, seen)
    for name, values in detector.score(changed).statistics.items():
        assert (values != detector.score(new).statistics[name]).all(), name


def test_with_parts_a_fit_with_noise_outside_equals_one_without(tiny: TinyNetwork) -> None:
    mask, usual = disc(64, 64), photos(120)
    detector = with_parts(mask).fit(usual)
    again = with_parts(mask).fit(encoded(noisy(usual, ~mask)))
    new = photos(5, seed=1)
    same_scores(detector, new, again, noisy(new, ~mask))
    same_maps(detector, new, again, noisy(new, ~mask))


def test_all_of_an_image_is_the_same_as_no_region(tiny: TinyNetwork) -> None:
    usual, new = photos(120, 40, 100), photos(5, 64, 48, seed=1)
    plain = with_parts().fit(usual)
    whole = with_parts(np.ones((3, 3), bool)).fit(usual)
    same_scores(whole, new, plain, new)
    same_maps(whole, new, plain, new)


def test_a_fit_on_a_single_cell_works(tiny: TinyNetwork) -> None:
    mask = np.zeros((64, 64), bool)
    mask[9, 50] = True
    detector = with_parts(mask).fit(photos(120))
    new = photos(3, 30, 100, seed=1)
    found = detector.explain(new)
    for surface, peak in zip(found.maps, found.peaks, strict=True):
        assert np.nanmax(surface) == pytest.approx(peak, rel=1e-6)
        assert np.isfinite(surface).sum() == open_region(mask).at(30, 100).sum()


def test_places_are_those_that_hold_any_pixel_of_the_region() -> None:
    mask = np.zeros((64, 64), bool)
    mask[7:9, 40] = True  # a pixel each in two cells of 8
    whole = Box(0, 0, 64, 64)
    found = inside_of(whole, (64, 64), (8, 8), open_region(mask))
    assert np.argwhere(found).tolist() == [[0, 5], [1, 5]]
    # In the box of a lying image, rows 16 to 48 of the frame.
    lying = inside_of(box_in(32, 64, Frame(64, 64)), (64, 64), (8, 8), open_region(mask))
    assert np.argwhere(lying).tolist() == [[2, 5]]
    # All of it is in a cell whose middle the image does not cover: it counts all the same.
    edge = np.zeros((20, 64), bool)
    edge[:2] = True
    box = Box(22, 0, 20, 64)
    assert not inside_of(box, (64, 64), (8, 8))[2].any()
    assert inside_of(box, (64, 64), (8, 8), open_region(edge)).any(1).tolist() == [
        row == 2 for row in range(8)
    ]


def test_views_of_another_region_are_others(tiny: TinyNetwork) -> None:
    regions = [None, open_region(disc(64, 64)), open_region(disc(64, 64).T)]
    made = [PooledEncoder(tiny, parts_of=(3, 64, 64), region=region) for region in regions]
    assert len({each.view_digest for each in made}) == 3
    images = torch.full((2, 3, 64, 64), OUTSIDE, dtype=torch.uint8)
    inside = [(each.patches(each.view(images)).places >= 0).numpy() for each in made]
    assert inside[0].all()
    one, other = (each.reshape(2, *made[0].grid) for each in inside[1:])
    np.testing.assert_array_equal(one, other.transpose(0, 2, 1))
    assert not one.all()
    assert (one != other).any()


def test_cells_that_are_not_known_do_not_show_in_those_that_are() -> None:
    surface = np.full((6, 6), -np.inf)
    mask = disc(60, 60)
    region = open_region(mask)
    known = region.cells(Box(0, 0, 60, 60), (60, 60), (6, 6))
    surface[known] = 5.0
    found = as_given(surface, None, (60, 60), (60, 60), region)
    np.testing.assert_array_equal(np.isnan(found), ~mask)
    np.testing.assert_array_equal(found[mask], 5)


def test_a_picture_has_no_heat_outside(tiny: TinyNetwork) -> None:
    mask = disc(64, 64)
    detector = with_parts(mask).fit(photos(120))
    odd = photos(1, seed=1)
    odd[:, :, 20:40, 28:44] = 255 * (np.indices((20, 16)).sum(0) % 2)
    (chunk,) = detector.chunks(odd)
    size = shown_size((64, 64))
    found = detector.explain_pixels(chunk.images, chunk.boxes, [size])
    drawn = np.asarray(overlay(chunk.images[0], None, found, 0)).astype(int)
    outside = ~open_region(mask).at(*size)
    coloured = np.ptp(drawn, axis=2) > 0
    assert not coloured[outside].any()
    assert coloured[~outside].any()


# --- what is kept


def test_a_region_is_kept_with_the_detector(tiny: TinyNetwork, tmp_path: Path) -> None:
    mask = disc(64, 64)
    detector = with_parts(mask).fit(photos(120))
    detector.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    assert loaded.settings == detector.settings
    assert loaded.settings.region == open_region(mask)
    new = photos(5, 40, 100, seed=1)
    other = noisy(new, ~open_region(mask).at(40, 100))
    same_scores(loaded, other, detector, new)
    same_maps(loaded, other, detector, new)
    share = f"Region({mask.mean():.0%} of 64x64)"
    assert f"roi={share}" in repr(loaded)
    assert describe(loaded)["region of interest"] == share
    assert "region of interest" not in describe(Detector(epochs=1).fit(textures(120)))
    json.dumps(loaded.settings.as_dict())
    same_scores(loaded.fit(photos(120)), new, detector, other)


def test_a_run_is_not_resumed_with_another_region(tmp_path: Path) -> None:
    """Not even where the images are blank already, so that their pixels are the same."""
    mask = disc(12, 12)
    blank = np.where(mask, textures(120), OUTSIDE).astype(np.uint8)
    with_one = Detector("pca", epochs=1, roi=mask)
    plain = Detector("pca", epochs=1)
    with_one.fit(blank, checkpoint=tmp_path / "c")
    with pytest.raises(ApproxMassError) as info:
        plain.fit(blank, checkpoint=tmp_path / "c", resume=True)
    assert info.value.code == "other-run"
    assert with_one.facts.sha256 != plain.fit(blank).facts.sha256


def test_a_baseline_sees_the_region_alone() -> None:
    mask = disc(12, 12)
    usual, new = textures(120), textures(5, seed=1)
    detector = Detector(method="nearest-neighbour", roi=mask).fit(noisy(usual, ~mask))
    same_scores(
        detector, noisy(new, ~mask), Detector(method="nearest-neighbour", roi=mask).fit(usual), new
    )


def test_the_command_takes_a_mask(tmp_path: Path) -> None:
    mask = disc(12, 12)
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    np.save(tmp_path / "in.npy", textures(120))
    new = textures(5, seed=1)
    for name, images in (("new", new), ("other", noisy(new, ~mask))):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")

    def run(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.stdout

    folder = tmp_path / "d"
    words = ("fit", tmp_path / "in.npy", "-o", folder, "--epochs", 1)
    assert "region of interest" in run(*words, "--roi", tmp_path / "mask.png")
    (tmp_path / "mask.png").unlink()
    assert f"{mask.mean():.0%} of 12x12" in run("inspect", folder)
    for name in ("new", "other"):
        run("score", folder, tmp_path / name, "-o", tmp_path / f"{name}.csv")
    one, other = ((tmp_path / f"{name}.csv").read_text() for name in ("new", "other"))
    assert one.replace("/new/", "/other/") == other
    expected = Detector(epochs=1, roi=mask).fit(textures(120))
    same_scores(Detector.load(folder), new, expected, new)


def test_the_server_looks_at_the_region_alone() -> None:
    testclient = pytest.importorskip("fastapi.testclient")
    from approxmass.serve import create_app

    mask = disc(12, 12)
    detector = Detector("pca", epochs=1, roi=mask).fit(textures(120))
    client = testclient.TestClient(create_app(detector), base_url="http://localhost:8000")
    new = textures(1, seed=1)
    answers = []
    for image in (new[0], noisy(new, ~mask)[0], noisy(new, mask)[0]):
        packed = io.BytesIO()
        Image.fromarray(image).save(packed, "PNG")
        files = {"image": ("a.png", packed.getvalue())}
        answers.append([client.post(path, files=files).content for path in ("/score", "/explain")])
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[2][0]
    assert answers[0][1] != answers[2][1]
