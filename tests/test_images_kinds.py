"""What becomes of each kind of image: one policy, whatever holds it."""

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from approxmass.data import ImageSource, check_labels, checked_png, open_images, open_labels
from approxmass.data.decode import UnreadableError, decode
from approxmass.data.frames import Page
from approxmass.data.guard import pillow_guard
from conftest import mistake

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
OPAQUE = np.where(np.arange(63).reshape(9, 7) % 3 == 0, 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def again(image: Image.Image, kind: str = "png", **options: Any) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, kind, **options)))


def pixels(source: object, **options: Any) -> np.ndarray:
    return open_images(source, **options).read()[0]


def as_rows(*data: bytes) -> ImageSource:
    """Encoded images as a source of their own."""

    def batches(n: int):  # type: ignore[no-untyped-def]
        for i in range(0, len(data), n):
            yield [f"image {k}" for k in range(i, min(i + n, len(data)))], data[i : i + n]

    return ImageSource("rows", len(data), batches)


# Transparency


def hidden(mode: str, below: int) -> Image.Image:
    """An image whose colours where it is transparent are `below`."""
    if mode == "LA":
        values = np.where(OPAQUE > 0, GREY, below).astype(np.uint8)
        return Image.merge("LA", (Image.fromarray(values), Image.fromarray(OPAQUE)))
    values = np.where(OPAQUE[..., None] > 0, RGB, below).astype(np.uint8)
    return Image.fromarray(np.dstack([values, OPAQUE]))


@pytest.mark.parametrize("ground", [255, 0, 99])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", ["png", "tiff", "webp", "memory"])
def test_hidden_colours_never_show(kind: str, mode: str, ground: int) -> None:
    images = [hidden(mode, below) for below in (0, 71, 255)]
    if kind != "memory":
        images = [
            again(image, kind, **({"lossless": True} if kind == "webp" else {})) for image in images
        ]
    for size in (None, 4, 16):
        found = open_images(images, size=size, background=ground, mode="rgb").read()
        assert (found == found[0]).all()
    expected = np.where(OPAQUE[..., None] > 0, np.asarray(images[0].convert("RGB")), ground)
    np.testing.assert_array_equal(
        pixels(images[:1], background=ground, mode="rgb"), expected.transpose(2, 0, 1)
    )


def keyed(mode: str, **options: Any) -> tuple[Image.Image, np.ndarray]:
    """An image with one transparent colour in the file, and where that is."""
    if mode == "P":
        image = Image.fromarray((np.arange(63).reshape(9, 7) % 5).astype(np.uint8), "P")
        image.putpalette([c for i in range(5) for c in (i * 40, 200 - i * 30, i)])
        return again(image, transparency=2, **options), np.asarray(image) == 2
    if mode == "P bytes":
        image = Image.fromarray((np.arange(63).reshape(9, 7) % 5).astype(np.uint8), "P")
        image.putpalette([c for i in range(5) for c in (i * 40, 200 - i * 30, i)])
        return again(image, transparency=bytes([255, 0, 255, 0, 255])), np.asarray(image) % 2 == 1
    if mode == "1":
        return again(Image.fromarray(GREY > 128), transparency=0), GREY <= 128
    if mode == "I;16":
        values = GREY.astype(np.uint16) * 257
        return again(Image.fromarray(values), transparency=int(values[2, 2])), values == values[
            2, 2
        ]
    if mode == "L":
        return again(Image.fromarray(GREY), transparency=int(GREY[2, 2])), GREY[2, 2] == GREY
    return (
        again(Image.fromarray(RGB), transparency=tuple(map(int, RGB[2, 2]))),
        (RGB[2, 2] == RGB).all(axis=2),
    )


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "P bytes", "I;16"])
def test_a_transparent_colour_or_palette_entry_is_the_ground(mode: str) -> None:
    image, clear = keyed(mode)
    source = open_images([image], background=77, mode="rgb")
    found = source.read()[0].transpose(1, 2, 0)
    assert clear.any()
    assert (found[clear] == 77).all()
    assert (found[~clear] != 77).any(axis=-1).all() or mode in ("L", "I;16")
    assert any("transparent" in line for line in source.remarks())


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_transparent_grey_of_few_bits(bits: int) -> None:
    """Two grey pixels of a PNG, 0 and the brightest, which is transparent."""
    top = (1 << bits) - 1
    row = bytes([0, top << (8 - 2 * bits)])
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", top)),
        (b"IDAT", zlib.compress(row)),
        (b"IEND", b""),
    ]
    data = checked_png.SIGNATURE + b"".join(png_chunk(*part) for part in parts)
    with pillow_guard():
        assert decode(data).pixels.ravel().tolist() == [0, 255]
    with Image.open(io.BytesIO(data)) as image:
        assert pixels([image], background=9).ravel().tolist() == [0, 9]


def test_glass_is_mixed_with_the_ground_before_the_image_is_resized() -> None:
    image = Image.merge("LA", (Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 51)))
    assert set(pixels([image]).ravel()) == {204}
    assert set(pixels([image], background=0).ravel()) == {0}
    drawing = hidden("LA", 0)
    flat = Image.composite(
        drawing.getchannel("L"), Image.new("L", drawing.size, 255), drawing.getchannel("A")
    )
    np.testing.assert_array_equal(pixels([drawing], size=5), pixels([flat], size=5))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "RGBa"])
def test_an_opaque_alpha_changes_nothing(mode: str) -> None:
    if mode in ("PA", "LA"):
        image = Image.fromarray(GREY).convert(mode)
        expected = Image.fromarray(GREY)
    else:
        image = Image.fromarray(np.dstack([RGB, np.full((9, 7), 255, np.uint8)])).convert(mode)
        expected = Image.fromarray(RGB)
    source = open_images([image])
    np.testing.assert_array_equal(source.read()[0], pixels([expected]))
    assert not any("transparent" in line for line in source.remarks())


# Integers and floats


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.int64, np.uint64, np.int8])
def test_integers_without_a_range_are_8_bit_values_with_a_remark(dtype: type) -> None:
    values = (GREY // 2).astype(dtype)
    source = open_images(values)
    np.testing.assert_array_equal(source.read()[0, 0], GREY // 2)
    assert any("does not say its range" in line for line in source.remarks())
    if values.itemsize > 1:
        with mistake("bad-image", "0 to 255"):
            open_images(values * dtype(3)).read()


@pytest.mark.parametrize("road", ["memory", "tiff"])
def test_mode_i_is_as_the_same_array(road: str) -> None:
    for values, good in (
        (GREY, True),
        (GREY.astype(int) * 257, False),
        (GREY.astype(int) - 9, False),
    ):
        image = Image.fromarray(values.astype(np.int32))
        source = open_images([image if road == "memory" else again(image, "tiff")])
        if not good:
            with mistake("bad-image"):
                source.read()
            continue
        np.testing.assert_array_equal(source.read()[0, 0], values)
        assert any("do not say their range" in line for line in source.remarks())


def test_16_bits_are_scaled_alike_whatever_holds_them(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (9, 7), dtype=np.uint16)
    image = Image.fromarray(values)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.tiff")
    (tmp_path / "a.pgm").write_bytes(b"P5 7 9 65535\n" + values.astype(">u2").tobytes())
    np.save(tmp_path / "a.npy", values)
    expected = np.rint(values / 257).astype(np.uint8)
    for source in (values, values.astype(">u2"), [values], [image], *sorted(tmp_path.iterdir())):
        opened = open_images(source)
        np.testing.assert_array_equal(opened.read()[0, 0], expected, err_msg=str(source))
        assert opened.remarks() == []


def test_one_image_has_the_same_pixels_whatever_its_neighbours() -> None:
    dark, bright = np.full((2, 9, 7), 4000, np.uint16)
    bright = bright * np.uint16(16)
    alone, together = open_images([dark]).read(), open_images([dark, bright]).read()
    np.testing.assert_array_equal(alone[0], together[0])


@pytest.mark.parametrize("road", ["array", "Pillow", "png", "tiff"])
def test_fewer_bits_in_16_are_said(road: str) -> None:
    values = GREY.astype(np.uint16) * 16
    image = Image.fromarray(values)
    items: Any = {"array": values, "Pillow": [image]}.get(road)
    source = open_images(items if items is not None else [again(image, road)])
    found = source.read()
    assert len(np.unique(found)) <= 17
    (line,) = source.remarks()
    assert "16 bits" in line
    assert f"{values.max():,}" in line
    # 8 bits in 16 would be black.
    with mistake("bad-image", "black"):
        open_images([Image.fromarray(GREY.astype(np.uint16))]).read()
    with mistake("bad-image", "black"):
        open_images(GREY.astype(np.uint16)).read()


def test_colours_of_16_bits_that_use_fewer_are_said() -> None:
    def wide(values: np.ndarray) -> bytes:
        rows = np.hstack(
            [np.zeros((9, 1), np.uint8), values.astype(">u2").reshape(9, -1).view(np.uint8)]
        )
        header = struct.pack(">IIBBBBB", 7, 9, 16, 2, 0, 0, 0)
        parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")
        return checked_png.SIGNATURE + b"".join(png_chunk(*part) for part in parts)

    full, low = (
        as_rows(wide(RGB.astype(np.uint16) * 257)),
        as_rows(wide(RGB.astype(np.uint16) * 16)),
    )
    np.testing.assert_array_equal(full.read()[0], RGB.transpose(2, 0, 1))
    assert full.remarks() == []
    low.read()
    assert "16 bits" in low.remarks()[0]


def test_a_tiff_of_12_bits_says_so() -> None:
    values = RNG.integers(0, 4096, (4, 6))
    packed = bytearray()
    for a, b in values.reshape(-1, 2):
        packed += bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
    tags = [
        (256, 6),
        (257, 4),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 4),
        (279, len(packed)),
    ]
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags))
    data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    source = as_rows(data)
    np.testing.assert_array_equal(source.read()[0, 0], np.rint(values * 255 / 4095))
    assert source.remarks() == []


# Damage


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


PNGS: dict[str, Callable[[], bytes]] = {
    "grey": lambda: encoded(Image.fromarray(np.kron(GREY, np.ones((8, 8), np.uint8)))),
    "RGB": lambda: encoded(Image.fromarray(RGB)),
    "RGBA": lambda: encoded(hidden("RGBA", 3)),
    "palette": lambda: encoded(Image.fromarray(RGB).quantize(5)),
    "16 bits": lambda: encoded(Image.fromarray(GREY.astype(np.uint16) * 257)),
    "one bit": lambda: encoded(Image.fromarray(GREY > 99)),
    "animated": lambda: encoded(
        Image.fromarray(RGB), save_all=True, append_images=[Image.fromarray(RGB[::-1])]
    ),
    "several chunks": lambda: encoded(Image.fromarray(RNG.integers(0, 256, (300, 300), np.uint8))),
}


def verdicts(data: bytes, monkeypatch: pytest.MonkeyPatch, fast: bool) -> bool:
    with monkeypatch.context() as patch, pillow_guard():
        if not fast:
            patch.setattr(checked_png, "pyspng", None)
        try:
            decode(data)
        except UnreadableError:
            return False
        return True


@pytest.mark.parametrize("kind", PNGS)
def test_a_png_with_a_wrong_bit_is_refused_with_and_without_pyspng(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PNGS[kind]()
    for fast in (True, False):
        assert verdicts(data, monkeypatch, fast)
        assert verdicts(data + b"what a camera adds", monkeypatch, fast)
        for place in np.random.default_rng(1).integers(8, len(data), 60):
            wrong = bytearray(data)
            wrong[place] ^= 1 << int(place % 8)
            assert not verdicts(bytes(wrong), monkeypatch, fast), place
        for cut in (len(data) - 1, len(data) - 12, len(data) // 2, 40, 20):
            assert not verdicts(data[:cut], monkeypatch, fast)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", ["grey", "RGB", "RGBA", "16 bits"])
def test_wrong_checksums_within_are_refused(
    kind: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = chunks_of(PNGS[kind]())
    stream = b"".join(data for name, data in parts if name == b"IDAT")
    rows = zlib.decompress(stream)
    header = [part for part in parts if part[0] == b"IHDR"]

    def made(compressed: bytes, *more: tuple[bytes, bytes]) -> bytes:
        all_parts = [*header, *more, (b"IDAT", compressed), (b"IEND", b"")]
        return checked_png.SIGNATURE + b"".join(png_chunk(*part) for part in all_parts)

    assert verdicts(made(stream), monkeypatch, fast)
    for bad in (
        stream[:-1] + bytes([stream[-1] ^ 1]),  # the adler32
        stream[:-4],
        zlib.compress(rows[: len(rows) // 2]),
        zlib.compress(rows + rows),
        b"",
    ):
        assert not verdicts(made(bad), monkeypatch, fast)
    ancillary = bytearray(made(stream, (b"tEXt", b"Comment\0words")))
    ancillary[33 + 15] ^= 1
    assert not verdicts(bytes(ancillary), monkeypatch, fast)


def test_interlaced_images_are_held_to_account_as_well() -> None:
    for width, height in ((1, 1), (2, 1), (1, 2), (5, 5), (9, 7), (8, 8), (17, 3)):
        values = RNG.integers(0, 256, (height, width), dtype=np.uint8)
        rows = b""
        for column, row, right, down in checked_png._PASSES:
            for line in values[row::down, column::right]:
                rows += b"\0" + line.tobytes() if len(line) else b""
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
        parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
        data = checked_png.SIGNATURE + b"".join(png_chunk(*part) for part in parts)
        with pillow_guard():
            np.testing.assert_array_equal(decode(data).pixels[0], values)


def test_a_damaged_png_that_a_person_opened_is_refused() -> None:
    data = bytearray(PNGS["grey"]())
    data[-20] ^= 1
    with Image.open(io.BytesIO(data)) as image, mistake("bad-image"):
        open_images([image]).read()


# Frames and pages


def stack(kind: str, count: int = 3) -> bytes:
    frames = [
        Image.fromarray(np.full((9, 7, 3), 80 * i, np.uint8) + RGB // 8) for i in range(count)
    ]
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff"])
def test_the_first_of_several_frames_or_all(kind: str, tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.{kind}").write_bytes(stack(kind))
    (tmp_path / "z.png").write_bytes(encoded(Image.fromarray(RGB)))
    first = open_images(tmp_path)
    assert len(first) == 3
    plain = first.read()
    (line,) = [line for line in first.remarks() if line.startswith("frames")]
    assert line.startswith("frames: 2 images have several")
    assert first.read() is not None
    assert line in first.remarks()

    every = open_images(tmp_path, pages=True)
    (chunk,) = every.chunks()
    assert len(every) == 7
    a, b = f"0.{kind}", f"1.{kind}"
    assert chunk.names == [a, f"{a}#2", f"{a}#3", b, f"{b}#2", f"{b}#3", "z.png"]
    np.testing.assert_array_equal(chunk.images[[0, 3, 6]], plain)
    means = chunk.images[:3].mean(axis=(1, 2, 3))
    assert (np.diff(means) > 50).all()
    assert not any("frames" in line for line in every.remarks())
    assert [len(c.names) for c in every.chunks(2)] == [2, 2, 2, 1]


def test_pages_from_every_road(tmp_path: Path) -> None:
    data = stack("tiff")
    pq.write_table(pa.table({"image": [data, data], "label": [4, 5]}), tmp_path / "x.parquet")
    source = open_images(tmp_path / "x.parquet", pages=True, size=5)
    assert (len(source), source.shape) == (6, (3, 5, 5))
    np.testing.assert_array_equal(source.labels(), [4, 4, 4, 5, 5, 5])
    (chunk,) = source.chunks()
    assert chunk.names[:4] == ["row 0", "row 0#2", "row 0#3", "row 1"]
    with Image.open(io.BytesIO(data)) as image:
        listed = open_images([image], pages=True, size=5)
        np.testing.assert_array_equal(listed.read(), chunk.images[:3])
        assert image.tell() == 0
    assert len(open_images(GREY, pages=True)) == 1
    (tmp_path / "broken.gif").write_bytes(b"GIF89a and no more")
    assert len(open_images(tmp_path / "broken.gif", pages=True)) == 1


def test_small_copies_in_a_tiff_are_no_pages() -> None:
    big, small = Image.fromarray(GREY), Image.fromarray(GREY[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    data = encoded(big, "tiff", save_all=True, append_images=[small])
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        assert image.tag_v2[254] == 1
    source = as_rows(data)
    source.read()
    assert source.remarks() == []
    assert len(open_images(source, pages=True)) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_has_no_pages(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    Image.fromarray(GREY).save(tmp_path / "b.png")
    (chunk,) = open_images(tmp_path, pages=True).chunks()
    assert chunk.codes == ["bad-image", None]


# Grey and colour


def rgb(grey: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([grey] * 3))


def many(count: int, colour: int) -> list[Image.Image]:
    """Images of which every so-many-th is in colour."""
    images = []
    for i in range(count):
        rng = np.random.default_rng(i)
        values = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        images.append(Image.fromarray(values) if i % colour == colour - 1 else rgb(values[..., 0]))
    return images


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "memory"])
def test_grey_saved_as_rgb_is_grey(kind: str) -> None:
    smooth = np.add.outer(np.arange(40), 3 * np.arange(30)).astype(np.uint8)
    images = [rgb(smooth), rgb(smooth[::-1].copy())]
    source = open_images(images if kind == "memory" else [again(i, kind) for i in images])
    assert source.shape == (1, 40, 30)
    found = source.read()
    assert abs(found[0, 0].astype(int) - smooth).mean() < 4
    (line,) = source.remarks()
    assert "stored as RGB but grey" in line
    kept = open_images(images, mode="rgb")
    assert kept.shape == (3, 40, 30)
    assert kept.remarks() == []


def test_arrays_follow_the_same_rule() -> None:
    values = RNG.integers(0, 256, (8, 9, 7), dtype=np.uint8)
    for stored in (
        np.stack([values] * 3, 1),
        np.stack([values] * 3, 3),
        np.stack([values] * 3, 3) / 255,
    ):
        source = open_images(stored)
        assert source.shape == (1, 9, 7)
        np.testing.assert_array_equal(source.read()[:, 0], values)
    # Blank images say nothing.
    assert open_images(np.zeros((4, 3, 9, 7), np.uint8)).shape == (3, 9, 7)


@pytest.mark.parametrize(("every", "channels"), [(2, 3), (3, 3), (10, 1), (10_000, 1)])
def test_a_source_is_of_one_kind(every: int, channels: int) -> None:
    images = many(100, every)
    source = open_images(images)
    assert source.shape[0] == channels
    found = source.read()
    assert found.shape == (100, channels, 9, 7)
    assert source.remarks()[0].startswith("mode: ")
    for i, image in enumerate(images):
        alone = np.asarray(image.convert("L") if channels == 1 else image)
        np.testing.assert_array_equal(
            found[i], alone[None] if channels == 1 else alone.transpose(2, 0, 1)
        )
    strays = [line for line in source.remarks() if "by luminance" in line]
    assert len(strays) == (every == 10)


@pytest.mark.parametrize("grey_first", [True, False])
def test_one_grey_photo_among_colour_ones_stops_nothing(grey_first: bool) -> None:
    images = [Image.fromarray(RGB)] * 200
    images[0 if grey_first else 150] = Image.fromarray(GREY)
    source = open_images(images)
    assert source.read().shape == (200, 3, 9, 7)
    assert any(line.startswith("mode: 1 image in grey became RGB") for line in source.remarks())


def test_a_grey_detector_takes_grey_rgb_and_refuses_colour() -> None:
    images = [Image.fromarray(GREY), rgb(GREY), Image.fromarray(RGB)]
    (chunk,) = open_images(images).chunks(shape=(1, 9, 7))
    assert chunk.codes == [None, None, "wrong-shape"]
    np.testing.assert_array_equal(chunk.images[0], chunk.images[1])
    (chunk,) = open_images(images, mode="grey").chunks(shape=(1, 9, 7))
    assert chunk.codes == [None] * 3
    (chunk,) = open_images(images, size=5).chunks(shape=(3, 5, 5))
    assert chunk.codes == [None] * 3
    stored = np.stack([np.dstack([GREY] * 3), RGB])
    with mistake("wrong-shape", "image 1 is 7x9 RGB"):
        open_images(stored).read(shape=(1, 9, 7))
    np.testing.assert_array_equal(open_images(stored[:1]).read(shape=(1, 9, 7))[0, 0], GREY)


def test_what_one_image_becomes_does_not_depend_on_the_others() -> None:
    images = many(30, 3)
    for shape in ((1, 9, 7), (3, 9, 7)):
        (together,) = open_images(images).chunks(shape=shape)
        alone = [next(open_images([image]).chunks(shape=shape)) for image in images]
        assert together.codes == [each.codes[0] for each in alone]
        np.testing.assert_array_equal(together.images, np.concatenate([c.images for c in alone]))


def test_modes_and_grounds_that_there_are_not() -> None:
    with mistake("bad-option", "auto, grey, rgb"):
        open_images(GREY, mode="colour")  # type: ignore[arg-type]
    for bad in (-1, 256, "white", 0.5):
        with mistake("bad-option"):
            open_images(GREY, background=bad)  # type: ignore[arg-type]


# Two readings


@pytest.mark.parametrize(
    "shape",
    [
        (28, 28, 1),
        (28, 28, 3),
        (64, 48, 3),
        (3, 28, 30),
        (1, 9, 3),
        (5, 3, 9, 1),
        (5, 1, 9, 3),
        (2, 3, 5, 3),
    ],
)
def test_a_shape_with_two_readings_is_refused(shape: tuple[int, ...]) -> None:
    with mistake("wrong-shape", "is it ") as info:
        open_images(np.zeros(shape, np.uint8))
    assert ", or " in str(info.value)


@pytest.mark.parametrize(
    "shape", [(40, 784), (1, 784), (1000, 784), (1797, 64), (50, 3072), (100, 1024), (9, 12288)]
)
def test_flattened_images_are_refused(shape: tuple[int, int]) -> None:
    with mistake("wrong-shape", "flattened") as info:
        open_images(np.zeros(shape, np.uint8))
    said = str(info.value)
    array = np.zeros(shape, np.uint8)
    cure = re.search(r"array\.reshape\([^)]*\)", said)
    assert cure is not None
    assert len(open_images(eval(cure[0]))) == shape[0]
    assert len(open_images(array[None])) == 1


@pytest.mark.parametrize(
    "shape", [(28, 28), (480, 640), (768, 1024), (256, 256), (784, 784), (1, 5), (5, 1)]
)
def test_two_dimensions_stay_one_image(shape: tuple[int, int]) -> None:
    assert open_images(np.zeros(shape, np.uint8)).shape == (1, *shape)


def test_what_the_refusal_proposes_works() -> None:
    x = RNG.integers(0, 256, (28, 30, 3), dtype=np.uint8)
    assert open_images(x[None]).shape == (3, 28, 30)
    assert len(open_images(list(x))) == 28
    first = x.transpose(2, 0, 1)
    assert open_images(first[None]).shape == (3, 28, 30)
    assert len(open_images(list(first))) == 3
    assert len(open_images(GREY[None])) == 1


# Masks, labels, splits


def test_masked_pixels_are_refused() -> None:
    masked = np.ma.masked_greater(GREY, 200)
    for source in (masked, [masked], [GREY, masked]):
        with mistake("bad-image", "masked"):
            open_images(source)
    np.testing.assert_array_equal(pixels(np.ma.masked_array(GREY))[0], GREY)
    with mistake("bad-labels", "masked"):
        open_labels(np.ma.masked_equal([0, 1, 1], 1))
    with mistake("bad-labels", "masked"):
        check_labels(np.ma.masked_equal([0, 1, 1], 1), 3, "energy", each=1)


@pytest.mark.parametrize("names", [("{}_images", "{}_labels"), ("x_{}", "y_{}")])
def test_a_npz_of_splits(names: tuple[str, str], tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (6, 9, 7), dtype=np.uint8)
    y = np.arange(6)[:, None] % 2
    image, label = names
    np.savez(tmp_path / "one.npz", **{image.format("train"): x, label.format("train"): y})
    source = open_images(tmp_path / "one.npz")
    np.testing.assert_array_equal(source.read()[:, 0], x)
    for labels in (source.labels(), open_labels(tmp_path / "one.npz")):
        np.testing.assert_array_equal(labels, y[:, 0])
    arrays = {of.format(s): v for s in ("train", "test") for of, v in ((image, x), (label, y))}
    np.savez(tmp_path / "two.npz", **arrays)
    with mistake("bad-source", "two.npz:train"):
        open_images(tmp_path / "two.npz")
    chosen = open_images(f"{tmp_path}/two.npz:test")
    assert len(chosen) == 6
    np.testing.assert_array_equal(open_labels(f"{tmp_path}/two.npz:test"), y[:, 0])
    with mistake("bad-source", "no split val"):
        open_images(f"{tmp_path}/two.npz:val")
    np.save(tmp_path / "y.npy", y)
    np.testing.assert_array_equal(open_labels(tmp_path / "y.npy"), y[:, 0])
    np.testing.assert_array_equal(check_labels(y, 6, "energy", each=1), y[:, 0])


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["L", "RGB", "LA", "RGBA", "P", "1"]))
def test_a_source_gives_what_decoding_each_alone_gives(seed: int, mode: str) -> None:
    rng = np.random.default_rng(seed)
    images = [
        Image.fromarray(rng.integers(0, 256, (6, 5, 4), dtype=np.uint8)).convert(mode)
        for _ in range(3)
    ]
    data = [encoded(image) for image in images]
    np.testing.assert_array_equal(as_rows(*data).read(), open_images(images).read())
    assert Page(data[0], 0).number == 0
