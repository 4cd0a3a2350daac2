"""Every row of docs/images.md is what happens."""

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from approxmass.data import open_images
from conftest import mistake

TEXT = (Path(__file__).parents[1] / "docs" / "images.md").read_text()
ROWS = {
    cells[0]: cells[1:]
    for line in TEXT.splitlines()
    if line.startswith("| ") and len(cells := [c.strip() for c in line.strip("|").split("|")]) == 3
}
del ROWS["kind"]

GREY = np.random.default_rng(1).integers(1, 256, (9, 7), dtype=np.uint8)
RGB = np.random.default_rng(2).integers(1, 256, (9, 7, 3), dtype=np.uint8)
CLEAR = np.arange(63).reshape(9, 7) % 2 == 0


def again(image: Image.Image, kind: str = "png", **options: Any) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def turned() -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = 6
    return again(Image.fromarray(GREY), exif=exif)


def palette() -> Image.Image:
    image = Image.fromarray(CLEAR.astype(np.uint8), "P")
    image.putpalette([1, 90, 3, 40, 50, 60])
    return image


def glass(alpha: np.ndarray) -> Image.Image:
    return again(Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(alpha))))


def twelve_bits() -> Image.Image:
    tags = [
        (256, 2),
        (257, 1),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, 3),
    ]
    data = (
        b"II*\0"
        + struct.pack("<I", 12)
        + bytes([0x00, 0x0F, 0xFF, 0])
        + struct.pack("<H", len(tags))
    )
    data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    return Image.open(io.BytesIO(data))


def sixteen(values: np.ndarray) -> Image.Image:
    return again(Image.fromarray(values))


def animation() -> Image.Image:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    return again(frames[0], "tiff", save_all=True, append_images=frames[1:])


def rgb_of(grey: np.ndarray) -> np.ndarray:
    return np.dstack([grey] * 3)


OPAQUE = np.full((9, 7), 255, np.uint8)
WHITE = np.where(CLEAR, 255, GREY)
COLOURS = np.where(CLEAR[..., None], [40, 50, 60], [1, 90, 3])
LUMINANCE = np.asarray(Image.fromarray(RGB).convert("L"))

# What is opened, and the first image that comes out of it: (H, W), or (H, W, 3).
SAME: dict[str, Callable[[], tuple[Any, Any]]] = {
    "8-bit grey or RGB": lambda: ([Image.fromarray(RGB)], RGB),
    "EXIF orientation": lambda: ([turned()], np.rot90(GREY, -1)),
    "CMYK": lambda: (
        [Image.new("CMYK", (7, 9), (255, 0, 0, 0))],
        np.full((9, 7, 3), [0, 255, 255]),
    ),
    "palette": lambda: ([again(palette())], COLOURS),
    "black and white (1 bit)": lambda: ([again(Image.fromarray(CLEAR))], CLEAR * 255),
    "alpha channel": lambda: ([glass(np.where(CLEAR, 0, 255).astype(np.uint8))], WHITE),
    "transparent colour or palette entry": lambda: (
        [again(palette(), transparency=1)],
        np.where(CLEAR[..., None], 255, [1, 90, 3]),
    ),
    "opaque alpha channel": lambda: ([glass(OPAQUE)], GREY),
    "16-bit grey": lambda: (
        [sixteen(GREY.astype(np.uint16) * 16)],
        np.rint(GREY.astype(int) * 16 / 257),
    ),
    "32-bit or signed integers": lambda: ([Image.fromarray(GREY.astype(np.int32))], GREY),
    "floats": lambda: ([Image.fromarray(GREY / np.float32(255))], GREY),
    "several frames or pages": lambda: ([animation()], GREY),
    "grey stored as RGB": lambda: ([Image.fromarray(rgb_of(GREY))], GREY),
    "colour among grey": lambda: (
        [Image.fromarray(RGB)] + [Image.fromarray(GREY)] * 9,
        LUMINANCE,
    ),
    "grey among colour": lambda: (
        [Image.fromarray(GREY)] + [Image.fromarray(RGB)] * 9,
        rgb_of(GREY),
    ),
    "12-bit TIFF": lambda: ([twelve_bits()], np.array([[0, 255]])),
}
REFUSED: dict[str, Callable[[], Any]] = {
    "8-bit values in 16 bits": lambda: [sixteen(GREY.astype(np.uint16))],
    "masked array": lambda: np.ma.masked_greater(GREY, 9),
}


@pytest.mark.parametrize("kind", SAME)
def test_a_row_that_is_read(kind: str) -> None:
    given, expected = SAME[kind]()
    source = open_images(given)
    found = source.read()[0]
    np.testing.assert_array_equal(
        found[0] if len(found) == 1 else found.transpose(1, 2, 0), expected
    )
    assert bool(source.remarks()) == bool(ROWS[kind][1]), source.remarks()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_row_that_is_refused(kind: str) -> None:
    assert "refused" in ROWS[kind][0]
    with mistake("bad-image"):
        open_images(REFUSED[kind]()).read()


def test_colours_of_16_bits(tmp_path: Path) -> None:
    values = (RGB.astype(int) * 256 + 200).astype(">u2")
    header = b"P6 7 9 65535\n"
    (tmp_path / "a.ppm").write_bytes(header + values.tobytes())
    found = open_images(tmp_path / "a.ppm").read()[0].transpose(1, 2, 0)
    assert abs(found.astype(int) - RGB).max() <= 1
    assert "upper 8 bits" in ROWS["16-bit colour"][0]


def test_a_damaged_file_and_one_without_a_suffix(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "photo", "png")
    Image.fromarray(GREY).save(tmp_path / "a.png")
    np.testing.assert_array_equal(open_images(tmp_path / "photo").read()[0, 0], GREY)
    folder = open_images(tmp_path)
    assert len(folder) == 1
    assert "(no suffix 1)" in folder.remarks()[0]
    data = bytearray((tmp_path / "photo").read_bytes())
    data[-14] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with mistake("bad-image"):
        folder.read()
    assert "refused" in ROWS["damaged"][0]


def test_no_row_is_forgotten() -> None:
    # HEIC: test_images_table.py.
    others = {"16-bit colour", "damaged", "no suffix, or one of no image", "HEIC"}
    # These have tests of their own: test_region.py, test_masks.py.
    elsewhere = {name for name in ROWS if "region of interest" in name or "MVTec AD" in name}
    assert len(elsewhere) == 2
    assert set(ROWS) == {*SAME, *REFUSED, *others, *elsewhere}


def test_the_options_are_those_of_open_images() -> None:
    import inspect

    (line,) = re.findall(r"open_images\(source, (.*)\)$", TEXT, re.MULTILINE)
    parameters = list(inspect.signature(open_images).parameters.values())[1:]
    assert line.replace('"', "'") == ", ".join(f"{p.name}={p.default!r}" for p in parameters)
