"""A pass over a source: each image converted once, rows in any order, so many threads, a digest."""

import hashlib
import io
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from approxmass.data import ImageSource, open_images
from approxmass.data import checked_png as decoding
from approxmass.data import source as stream
from approxmass.data.decode import Encoded, How, UnreadableError, decode
from approxmass.data.frame import Frame
from approxmass.data.guard import pillow_guard
from approxmass.data.readers import array, idx
from approxmass.data.remarks import Note
from conftest import mistake, write_images

IMAGES = np.random.default_rng(3).integers(0, 256, (40, 9, 7), dtype=np.uint8)


def folder(tmp: Path) -> Path:
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp / f"{i:02}.png")
    return tmp


def parquet(tmp: Path) -> Path:
    write_images(tmp / "x.parquet", IMAGES, np.zeros(len(IMAGES), np.int64))
    return tmp / "x.parquet"


def idx_file(tmp: Path) -> Path:
    header = struct.pack(">HBB3I", 0, 8, 3, *IMAGES.shape)
    (tmp / "images-idx3-ubyte").write_bytes(header + IMAGES.tobytes())
    return tmp / "images-idx3-ubyte"


def file_without_extension(tmp: Path) -> Path:
    Image.fromarray(IMAGES[0]).save(tmp / "photo", "png")
    return tmp / "photo"


ROADS: dict[str, Callable[[Path], object]] = {
    "array": lambda tmp: IMAGES,
    "floats": lambda tmp: IMAGES / 255,
    "folder": folder,
    "file": file_without_extension,
    "Parquet": parquet,
    "IDX": idx_file,
    "Pillow": lambda tmp: [Image.fromarray(image) for image in IMAGES],
}


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images converted, call by call."""
    counts: list[int] = []
    to_uint8 = array.to_uint8

    def count_one(
        item: Encoded, frame: Frame | None, how: How, notes: list[Note]
    ) -> NDArray[np.uint8]:
        counts.append(1)
        return decode(item, frame, how, notes)

    def count_rows(block: NDArray[np.uint8]) -> NDArray[np.uint8]:
        counts.append(len(block))
        return to_uint8(block)

    monkeypatch.setattr(stream, "decode", count_one)
    for reader in (array, idx):
        monkeypatch.setattr(reader, "to_uint8", count_rows)
    return counts


@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("road", ROADS)
def test_each_image_is_converted_once(
    road: str, size: int | None, tmp_path: Path, converted: list[int]
) -> None:
    source = open_images(ROADS[road](tmp_path))
    assert source.native_shape == (1, 9, 7)
    if size:
        source = source.resized(size)
    images = source.read()
    assert sum(converted) == len(source) == len(images)
    # The next pass starts anew.
    np.testing.assert_array_equal(source.read(), images)
    assert sum(converted) == 2 * len(source)


def test_the_image_that_told_the_shape_is_not_the_first(
    tmp_path: Path, converted: list[int]
) -> None:
    folder(tmp_path)
    for i in range(20):
        (tmp_path / f"{i:02}.png").write_bytes(b"broken")
    source = open_images(tmp_path)
    assert source.native_shape == (1, 9, 7)
    assert len(converted) == 21
    images = np.concatenate([chunk.images for chunk in source.chunks(8)])
    np.testing.assert_array_equal(images[:, 0], IMAGES[20:])
    assert len(converted) == 21 + 39


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    "frame", [*[Frame(s, s) for s in (1, 5, 7, 9, 16)], Frame(4, 11), Frame(11, 4, "lanczos")]
)
def test_its_pixels_are_resized_as_those_of_the_others(
    frame: Frame, tmp_path: Path, converted: list[int]
) -> None:
    rng = np.random.default_rng(4)
    square = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (13, 7, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [
        saved(Image.fromarray(IMAGES[0]), tmp_path / "grey.png"),
        saved(square, tmp_path / "square.png"),
        saved(colour.convert("RGB"), tmp_path / "turned.png", exif=exif),
        saved(colour.convert("RGB"), tmp_path / "photo.jpg"),
        saved(colour, tmp_path / "alpha.png"),
        saved(colour.convert("RGB").quantize(9), tmp_path / "palette.gif"),
        saved(Image.fromarray(IMAGES[0].astype(np.uint16) * 250), tmp_path / "wide.png"),
        saved(Image.fromarray(IMAGES[0] / np.float32(255)), tmp_path / "real.tiff"),
        saved(Image.fromarray(IMAGES[0] > 99), tmp_path / "one.png"),
    ]
    for path in paths:
        source = open_images(path)
        assert source.native_shape
        converted.clear()
        with pillow_guard():
            expected = decode(path, frame).pixels
        np.testing.assert_array_equal(source.resized(frame).read()[0], expected, err_msg=path.name)
        assert not converted


@pytest.mark.parametrize("road", ["array", "folder", "Parquet"])
def test_rows_in_another_order_and_the_digest_of_the_source(road: str, tmp_path: Path) -> None:
    source = open_images(ROADS[road](tmp_path))
    plain = source.read()
    order = np.random.default_rng(5).permutation(len(source))
    digest = hashlib.sha256()
    np.testing.assert_array_equal(source.read(order=order, digest=digest), plain[order])
    assert digest.hexdigest() == hashlib.sha256(plain.tobytes()).hexdigest()


def test_of_several_chunks() -> None:
    source = open_images("sample:fashion_mnist/test")
    plain = source.read()
    order = np.random.default_rng(5).permutation(len(source))
    digest, of_plain = hashlib.sha256(), hashlib.sha256()
    np.testing.assert_array_equal(source.read(order=order, digest=digest), plain[order])
    source.read(digest=of_plain)
    assert digest.digest() == of_plain.digest() == hashlib.sha256(plain.tobytes()).digest()


@pytest.mark.parametrize(
    "order", [np.arange(39), np.arange(1, 41), np.zeros(40, int), np.zeros((40, 1), int)]
)
def test_an_order_names_each_image_once(order: NDArray[np.int64]) -> None:
    with mistake("bad-option"):
        open_images(IMAGES).read(order=order)


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_no_more_threads_decode_than_asked_for(
    threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    together = threading.Barrier(threads or 3)

    def note(item: Encoded, frame: Frame | None, how: How, notes: list[Note]) -> NDArray[np.uint8]:
        if threading.current_thread() is not threading.main_thread():
            if threading.get_ident() not in seen:
                seen.add(threading.get_ident())
                together.wait(20)  # until all of them are at work
            assert len(seen) <= (threads or 3)
        return decode(item, frame, how, notes)

    monkeypatch.setattr(stream, "cores", lambda: 3)
    monkeypatch.setattr(stream, "decode", note)
    source = open_images(folder(tmp_path))
    chunks = list(source.chunks(3, threads=threads))
    np.testing.assert_array_equal(np.concatenate([c.images for c in chunks])[:, 0], IMAGES)
    assert len(seen) == (threads or 3)
    if threads == 1:
        seen.clear()
        np.testing.assert_array_equal(source.read(threads=1)[:, 0], IMAGES)
        assert len(seen) == 1
    with mistake("bad-option"):
        source.read(threads=0)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def piece(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_pillow_gives_the_same_pixels_without_pyspng(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspng")
    colour = Image.fromarray(np.random.default_rng(6).integers(0, 256, (9, 7, 4), dtype=np.uint8))
    items = [png(colour.convert(mode)) for mode in ("L", "RGB", "RGBA", "LA", "P", "1")]
    frames = (None, Frame(5, 5), Frame(6, 9, "bicubic"))
    with pillow_guard():
        fast = [decode(item, frame).pixels for item in items for frame in frames]
        monkeypatch.setattr(decoding, "pyspng", None)
        plain = [decode(item, frame).pixels for item in items for frame in frames]
    for one, other in zip(fast, plain, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("fast", [True, False])
def test_damaged_png_images_are_refused_with_and_without_pyspng(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setattr(decoding, "pyspng", None)
    header = piece(b"IHDR", struct.pack(">IIBBBBB", 9, 7, 8, 0, 0, 0, 0))
    good = bytearray(b"\x89PNG\r\n\x1a\n" + header)
    good += piece(b"IDAT", zlib.compress(bytes(70), 0)) + piece(b"IEND", b"")
    flipped = good.copy()
    flipped[70] = 1  # a pixel: it was not compressed
    no_such_filter, too_few = (
        good[:33] + piece(b"IDAT", zlib.compress(rows)) + good[-12:]
        for rows in (b"\7" + bytes(69), bytes(30))
    )
    damaged = [flipped, good[:-30], no_such_filter, too_few]
    with pillow_guard():
        assert not decode(bytes(good)).pixels.any()
        for data in damaged:
            with pytest.raises(UnreadableError):
                decode(bytes(data))


@pytest.mark.parametrize("without", ["torch", "pyspng", "datasets"])
def test_images_open_where_a_library_is_missing(without: str, tmp_path: Path) -> None:
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    program = (
        f"import sys; sys.modules[{without!r}] = None; import approxmass.data as data; "
        f"print(data.open_images({str(tmp_path)!r}).read().sum())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == [str(IMAGES[0].sum())], done.stderr


def test_a_source_may_be_made_of_pixels() -> None:
    def batches(n: int) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
        for i in range(0, len(IMAGES), n):
            some = IMAGES[i : i + n, None]
            yield [f"mine {i + k}" for k in range(len(some))], some

    source = ImageSource("mine", len(IMAGES), batches, labels=lambda: np.arange(len(IMAGES)))
    assert source.shape == (1, 9, 7)
    np.testing.assert_array_equal(source.read()[:, 0], IMAGES)
    np.testing.assert_array_equal(source.labels(), np.arange(len(IMAGES)))
