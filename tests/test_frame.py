"""The frame that images are brought into: its choice, and what becomes of an image in it."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from approxmass import Detector, open_images
from approxmass.data.frame import Box, Frame, Resample, box_in, chosen_frame, placed
from approxmass.data.framing import framed
from conftest import mistake, textures, unsquashed

SIDES = [(1, 1), (1, 9), (9, 1), (3, 100), (64, 64), (48, 64), (65, 40), (400, 533), (77, 76)]
FRAMES = [Frame(32, 32), Frame(24, 40), Frame(40, 24), Frame(1, 7), Frame(96, 64)]
FILTERS: dict[Resample, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("sides", SIDES)
def test_the_box_is_the_largest_of_the_aspect_of_the_image_in_the_middle(
    sides: tuple[int, int], frame: Frame
) -> None:
    height, width = sides
    box = box_in(height, width, frame)
    assert 1 <= box.height <= frame.height
    assert 1 <= box.width <= frame.width
    # One side fills the frame; the other is within half a pixel of the aspect, or a pixel.
    assert box.height == frame.height or box.width == frame.width
    scale = min(frame.height / height, frame.width / width)
    assert abs(box.height - max(1, scale * height)) <= 0.5 + 1e-9
    assert abs(box.width - max(1, scale * width)) <= 0.5 + 1e-9
    # In the middle: what is free above is what is free below, or a pixel less.
    assert frame.height - box.height - 2 * box.top in (0, 1)
    assert frame.width - box.width - 2 * box.left in (0, 1)


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("sides", SIDES)
def test_an_image_is_scaled_into_the_middle_and_reflected_outwards(
    sides: tuple[int, int], frame: Frame, resample: Resample
) -> None:
    frame = frame._replace(resample=resample)
    for pixels in (noise(*sides), noise(*sides, 3)):
        image = Image.fromarray(pixels)
        expected = unsquashed(image, frame.height, frame.width, FILTERS[resample])
        np.testing.assert_array_equal(np.asarray(placed(image, frame)), expected)
        source = open_images([image], size=frame, mode="grey" if pixels.ndim == 2 else "rgb")
        planes = expected[None] if pixels.ndim == 2 else expected.transpose(2, 0, 1)
        np.testing.assert_array_equal(source.read()[0], planes)


def test_an_image_of_the_size_of_the_frame_stays_as_it_is() -> None:
    for sides in SIDES:
        image = Image.fromarray(noise(*sides, 3))
        found = np.asarray(placed(image, Frame(*sides)))
        np.testing.assert_array_equal(found, np.asarray(image))


@pytest.mark.parametrize("frame", [Frame(32, 32), Frame(32, 64), Frame(64, 32), Frame(50, 90)])
@pytest.mark.parametrize("sides", [(64, 64), (60, 90), (90, 60), (40, 160), (160, 40)])
def test_nothing_of_an_image_is_lost(sides: tuple[int, int], frame: Frame) -> None:
    height, width = sides
    marked = np.full((height, width), 100, np.uint8)
    side = min(height, width) // 2  # so large that scaling blurs no corner away
    corners = {(0, 0): 0, (0, 1): 60, (1, 0): 180, (1, 1): 250}
    for (down, right), value in corners.items():
        rows = slice(height - side, height) if down else slice(0, side)
        columns = slice(width - side, width) if right else slice(0, side)
        marked[rows, columns] = value
    found = np.asarray(placed(Image.fromarray(marked), frame))
    box = box_in(height, width, frame)
    for (down, right), value in corners.items():
        row = box.top + (box.height - 1 if down else 0)
        column = box.left + (box.width - 1 if right else 0)
        assert found[row, column] == value


@pytest.mark.parametrize("sides", [(80, 40), (40, 80), (33, 100), (64, 64)])
def test_an_image_is_not_squashed(sides: tuple[int, int]) -> None:
    rows, columns = np.mgrid[0 : sides[0], 0 : sides[1]]
    center = (sides[0] - 1) / 2, (sides[1] - 1) / 2
    disc = 255 * ((rows - center[0]) ** 2 + (columns - center[1]) ** 2 < 15**2)
    found = np.asarray(placed(Image.fromarray(disc.astype(np.uint8)), Frame(64, 64))) > 127
    box = box_in(*sides, Frame(64, 64))
    inside = found[box.top : box.top + box.height, box.left : box.left + box.width]
    high, wide = inside.any(1).sum(), inside.any(0).sum()
    assert abs(int(high) - int(wide)) <= 1
    assert high == pytest.approx(30 * min(64 / sides[0], 64 / sides[1]), abs=1.5)


@pytest.mark.parametrize("sides", [(40, 100), (100, 40), (30, 31)])
def test_there_is_no_seam_at_the_border_of_an_image(sides: tuple[int, int]) -> None:
    height, width = sides
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = (128 + 60 * np.sin(rows / 9) + 60 * np.sin(columns / 11)).astype(np.uint8)
    found = np.asarray(placed(Image.fromarray(smooth), Frame(64, 64))).astype(int)
    box = box_in(height, width, Frame(64, 64))
    assert box != Box(0, 0, 64, 64)
    inside = found[box.top : box.top + box.height, box.left : box.left + box.width]
    for axis in (0, 1):
        steepest = abs(np.diff(inside, axis=axis)).max()
        assert abs(np.diff(found, axis=axis)).max() <= steepest
    # No grey level that the image does not have.
    assert set(np.unique(found)) == set(np.unique(inside))


@pytest.mark.parametrize("stride", [1, 8, 32])
@pytest.mark.parametrize("side", [64, 128, 256])
@pytest.mark.parametrize("aspect", [0.2, 0.5, 0.75, 1.0, 4 / 3, 3.0])
def test_a_chosen_frame_has_the_area_and_the_aspect_up_to_its_multiples(
    aspect: float, side: int, stride: int
) -> None:
    frame = chosen_frame([(round(1000 * aspect), 1000)], side, stride)
    assert frame.height % stride == frame.width % stride == 0
    assert abs(frame.height - side * math.sqrt(aspect)) <= stride / 2 + 0.5
    assert abs(frame.width - side / math.sqrt(aspect)) <= stride / 2 + 0.5
    if stride == 1:
        assert frame.height * frame.width == pytest.approx(side**2, rel=0.03)
        assert frame.height / frame.width == pytest.approx(aspect, rel=0.03)
    turned = chosen_frame([(1000, round(1000 * aspect))], side, stride)
    assert (turned.height, turned.width) == (frame.width, frame.height)


def test_a_chosen_frame_follows_the_median_aspect_whatever_the_sizes() -> None:
    upright, wide = (400, 300), (30, 40)
    assert chosen_frame([upright, wide, upright], 96, 8) == chosen_frame([upright], 96, 8)
    assert chosen_frame([wide, (3000, 4000), upright], 96, 8) == chosen_frame([wide], 96, 8)
    assert chosen_frame([(1, 5000)], 64, 32) == Frame(32, 192)  # never nothing, nor endless
    assert chosen_frame([upright], 96, 8, "lanczos").resample == "lanczos"


def mixed_folder(folder: Path, count: int = 8) -> Path:
    """Images of many sizes and aspects."""
    folder.mkdir()
    sizes = [(60, 80), (90, 120), (45, 60), (80, 60), (200, 30), (75, 100), (33, 44), (64, 64)]
    for i in range(count):
        image = Image.fromarray(noise(*sizes[i % 8], 3, seed=i))
        image.save(folder / f"{i:03}.png")
    return folder


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_sizes_are_those_of_the_upright_images(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(30, 50, 3)).save(tmp_path / f"a.{kind}", exif=exif)
    source = open_images(tmp_path)
    expected = (50, 30) if orientation >= 5 else (30, 50)
    assert source.sizes() == [expected] == [source.native_shape[1:]]
    assert framed(source, 40, stride=1)[0].frame == chosen_frame([expected], 40, 1)


def test_sizes_are_read_from_headers_alone_and_leave_out_what_cannot_be_read(
    tmp_path: Path,
) -> None:
    mixed_folder(tmp_path / "f")
    (tmp_path / "f" / "000.png").write_bytes(b"broken")
    (tmp_path / "f" / "001.png").write_bytes(b"")
    whole = (tmp_path / "f" / "002.png").read_bytes()
    (tmp_path / "f" / "002.png").write_bytes(whole[:200])  # its header is there
    assert open_images(tmp_path / "f").sizes() == [
        (45, 60),
        (80, 60),
        (200, 30),
        (75, 100),
        (33, 44),
        (64, 64),
    ]


def test_sizes_decode_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(30, 50, 3)).save(tmp_path / "a.png")
    Image.fromarray(noise(30, 50, 3)).save(tmp_path / "b.jpg")
    Image.fromarray(noise(30, 50, 3)).save(tmp_path / "c.tiff")

    def refuse(*_: object) -> None:
        raise AssertionError("an image is decoded")

    source = open_images(tmp_path)
    for kind in (PngImageFile, JpegImageFile, TiffImageFile):
        monkeypatch.setattr(kind, "load", refuse)
    assert source.sizes() == [(30, 50)] * 3


def test_sizes_of_arrays_and_lists() -> None:
    assert set(open_images(noise(5, 9, 7)).sizes()) == {(9, 7)}
    images = [Image.fromarray(noise(9, 7)), Image.fromarray(noise(5, 6))]
    assert open_images(images).sizes() == [(9, 7), (5, 6)]
    many = [Image.fromarray(noise(3, 4))] * 1200
    assert open_images(many).sizes() == [(3, 4)] * 1000


def test_framed_chooses_by_the_images_or_is_the_square(tmp_path: Path) -> None:
    source = open_images(mixed_folder(tmp_path / "f"))
    some, note = framed(source, 64, stride=8)
    assert some.frame == chosen_frame(source.sizes(), 64, 8) == Frame(56, 72)
    assert "72x56" in note
    assert "one is 80x60" in note
    square, note = framed(source, 64, stride=8, square=True, resample="bicubic")
    assert square.frame == Frame(64, 64, "bicubic")
    assert "64x64" in note
    assert source.frame is None


def test_a_folder_of_mixed_sizes_gives_one_shape(tmp_path: Path) -> None:
    source = framed(open_images(mixed_folder(tmp_path / "f")), 64, stride=8)[0]
    images = source.read()
    assert images.shape == (8, 3, 56, 72)
    for i, path in enumerate(sorted((tmp_path / "f").iterdir())):
        with Image.open(path) as image:
            expected = unsquashed(image, 56, 72)
        np.testing.assert_array_equal(images[i], expected.transpose(2, 0, 1))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """Fitted on a folder of mixed sizes and aspects."""
    folder = tmp_path_factory.mktemp("mixed")
    sizes = [(70, 90), (90, 120), (140, 180), (90, 70)]
    for i, image in enumerate(textures(120, side=180)):
        height, width = sizes[i % 4]
        Image.fromarray(image[:height, :width]).save(folder / f"{i:03}.png")
    return Detector("pca", epochs=1).fit(folder)


def test_a_detector_with_a_frame_scores_images_of_any_size(
    detector: Detector, tmp_path: Path
) -> None:
    assert detector.shape == (1, 56, 73)
    images = [Image.fromarray(noise(*sides)) for sides in SIDES]
    expected = np.stack([unsquashed(image, 56, 73) for image in images])
    scores = detector.score(images)
    np.testing.assert_array_equal(scores.statistic, detector.score(expected).statistic)
    one_by_one = np.concatenate([detector.score([image]).statistic for image in images])
    np.testing.assert_allclose(one_by_one, scores.statistic, rtol=1e-5)
    backwards = detector.score(images[::-1]).statistic
    np.testing.assert_allclose(backwards[::-1], scores.statistic, rtol=1e-5)
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(detector.score(tmp_path).statistic, scores.statistic)


def test_the_frame_comes_back_with_the_detector(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    images = [Image.fromarray(noise(33, 99)), Image.fromarray(noise(99, 33))]
    assert loaded.open(images).frame == detector.open(images).frame == Frame(56, 73)
    np.testing.assert_array_equal(loaded.open(images).read(), detector.open(images).read())
    np.testing.assert_array_equal(loaded.score(images).statistic, detector.score(images).statistic)


def test_open_gives_the_images_as_the_detector_sees_them(detector: Detector) -> None:
    colour = Image.fromarray(noise(50, 60, 3))
    grey = np.asarray(Image.fromarray(noise(50, 60)))
    assert detector.open([grey]).shape == detector.shape
    np.testing.assert_array_equal(
        detector.open([grey]).read()[0, 0], unsquashed(Image.fromarray(grey), 56, 73)
    )
    with mistake("wrong-shape"):
        detector.score([colour])
    as_grey = Detector("pca", epochs=1, mode="grey").fit(textures(120))
    assert as_grey.open([colour.resize((12, 12))]).shape == (1, 12, 12)
    assert len(as_grey.score([colour.resize((12, 12))]).p_value) == 1


@pytest.mark.parametrize("size", [0, (0, 4), (4, 0), (-1, 4)])
def test_a_side_below_one_is_refused(size: object) -> None:
    with mistake("bad-option"):
        open_images(noise(2, 5, 5), size=size)  # type: ignore[arg-type]
