"""Every kind of source gives the same pixels, and every bad one a line that a person can use."""

import gzip
import io
import os
import struct
import sys
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from approxmass.data import ImageSource, open_images
from approxmass.data import source as stream
from approxmass.data.decode import UnreadableError, decode
from approxmass.data.frame import Frame
from approxmass.data.guard import pillow_guard
from approxmass.errors import Code
from conftest import SHARED, mistake, unsquashed

# Neither square nor alike, so that no axis can be taken for another.
IMAGES = {
    "grey": np.random.default_rng(1).integers(0, 256, (12, 1, 9, 7), dtype=np.uint8),
    "RGB": np.random.default_rng(2).integers(0, 256, (12, 3, 9, 7), dtype=np.uint8),
}


def pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_parquet(path: Path, rows: list[bytes | None], paths: list[str | None]) -> Path:
    images = [{"bytes": row, "path": p} for row, p in zip(rows, paths, strict=True)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = '{"info": {"features": {"image": {"_type": "Image"}}}}'
    schema = pa.schema({"image": kind}, metadata={"huggingface": features})
    pq.write_table(pa.table([pa.array(images, kind)], schema), path, row_group_size=5)
    return path


def idx(shape: tuple[int, ...], pixels: bytes, dtype: int = 8) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, dtype, len(shape), *shape) + pixels


def folder(x: np.ndarray, tmp: Path) -> object:
    for i, image in enumerate(x):
        (tmp / "pngs" / str(i // 5)).mkdir(parents=True, exist_ok=True)
        pillow(image).save(tmp / "pngs" / str(i // 5) / f"{i:02}.png")
    return tmp / "pngs"


def npy(x: np.ndarray, tmp: Path) -> object:
    np.save(tmp / "x.npy", x)
    return str(tmp / "x.npy")


def npz(x: np.ndarray, tmp: Path) -> object:
    np.savez(tmp / "x.npz", labels=np.arange(len(x)), images=x)
    return tmp / "x.npz"


def npz_of_one(x: np.ndarray, tmp: Path) -> object:
    np.savez_compressed(tmp / "x.npz", whatever=x)
    return tmp / "x.npz"


def parquet(x: np.ndarray, tmp: Path) -> object:
    rows = [encoded(pillow(image)) for image in x]
    return write_parquet(tmp / "x.parquet", rows, [None] * len(x))


def plain_parquet(x: np.ndarray, tmp: Path) -> object:
    rows = pa.array([encoded(pillow(image), "bmp") for image in x], pa.large_binary())
    pq.write_table(pa.table({"image": rows, "label": pa.array(range(len(x)))}), tmp / "x.parquet")
    return tmp / "x.parquet"


def hub(x: np.ndarray, tmp: Path) -> object:
    (tmp / "set").mkdir()
    parquet(x, tmp / "set")
    return f"hf:{tmp / 'set'}:train"


def idx_file(x: np.ndarray, tmp: Path) -> object:
    shape = x.shape if x.shape[1] == 3 else (len(x), *x.shape[2:])
    (tmp / "images.idx").write_bytes(idx(shape, x.tobytes()))
    return tmp / "images.idx"


def idx_gzip(x: np.ndarray, tmp: Path) -> object:
    last = x.transpose(0, 2, 3, 1)
    (tmp / "t10k-images").write_bytes(gzip.compress(idx(last.shape, last.tobytes())))
    return tmp / "t10k-images"


ROADS: dict[str, Callable[[np.ndarray, Path], object]] = {
    "folder": folder,
    "npy": npy,
    "npz": npz,
    "npz of one array": npz_of_one,
    "parquet": parquet,
    "parquet of plain bytes": plain_parquet,
    "hub": hub,
    "IDX": idx_file,
    "IDX by its magic bytes, in gzip": idx_gzip,
    "array": lambda x, tmp: x,
    "array in Fortran order": lambda x, tmp: np.asfortranarray(x),
    "array, channels last": lambda x, tmp: x.transpose(0, 2, 3, 1),
    "array of floats": lambda x, tmp: x / np.float32(255),
    "array of 16-bit integers": lambda x, tmp: x.astype(np.uint16) * np.uint16(257),
    "array of 32-bit integers": lambda x, tmp: x.astype(np.int32),
    "tensor": lambda x, tmp: torch.from_numpy(x),
    "tensor of floats": lambda x, tmp: torch.from_numpy(x) / 255,
    "list of arrays": lambda x, tmp: list(x),
    "list of tensors": lambda x, tmp: list(torch.from_numpy(x)),
    "list of Pillow images": lambda x, tmp: [pillow(image) for image in x],
    "source": lambda x, tmp: open_images(x),
}


@pytest.fixture(autouse=True)
def _own_hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    import datasets

    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


@pytest.mark.parametrize("size", [None, 5, 16, (11, 6), (4, 15)])
@pytest.mark.parametrize("colours", IMAGES)
@pytest.mark.parametrize("road", ROADS)
def test_every_road_gives_the_same_pixels(
    road: str, colours: str, size: int | tuple[int, int] | None, tmp_path: Path
) -> None:
    x = IMAGES[colours]
    expected = x
    if size:
        sides = (size, size) if isinstance(size, int) else size
        small = [unsquashed(pillow(i), *sides) for i in x]
        expected = np.stack([i[None] if i.ndim == 2 else i.transpose(2, 0, 1) for i in small])
    source = open_images(ROADS[road](x, tmp_path), size=size)
    assert len(source) == 12
    assert (source.shape, source.native_shape) == (expected.shape[1:], x.shape[1:])
    np.testing.assert_array_equal(source.read(), expected)

    chunks = list(source.chunks(5))
    assert [len(chunk.names) for chunk in chunks] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate([c.images for c in chunks]), expected)
    assert all(c.images.flags.c_contiguous and c.images.dtype == np.uint8 for c in chunks)
    assert all(c.errors == [None] * len(c.names) for c in chunks)
    names = [name for chunk in chunks for name in chunk.names]
    if road == "folder":
        assert names == [f"{i // 5}/{i:02}.png" for i in range(12)]
    elif "parquet" in road or road == "hub":
        assert names == [f"row {i}" for i in range(12)]
    else:
        assert names == [str(i) for i in range(12)]


def test_the_name_is_what_the_person_wrote(tmp_path: Path) -> None:
    path = npy(IMAGES["grey"], tmp_path)
    assert open_images(path).name == path
    assert open_images(Path(str(path))).name == path
    assert open_images("sample:mnist").name == "sample:mnist"
    assert open_images(IMAGES["grey"]).name == "array"


def test_resizing_leaves_the_source_it_came_from_alone() -> None:
    source = open_images(IMAGES["RGB"])
    small = source.resized(4)
    assert (source.frame, source.shape) == (None, (3, 9, 7))
    assert (small.frame, small.shape) == (Frame(4, 4, "bilinear"), (3, 4, 4))
    assert small.native_shape == (3, 9, 7)
    assert open_images(small) is small
    assert open_images(small, size=6).shape == (3, 6, 6)
    assert open_images(small, size=(6, 5)).frame == Frame(6, 5)
    wide = open_images(small, size=Frame(6, 5, "lanczos"))
    assert (wide.frame, wide.shape) == (Frame(6, 5, "lanczos"), (3, 6, 5))
    assert (small.frame, source.frame) == (Frame(4, 4), None)


def test_resizing_is_antialiased() -> None:
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = open_images(board, size=8).read()
    assert abs(small.astype(int) - 128).max() <= 16  # plain bilinear sampling leaves 0s and 255s


def test_what_comes_out_is_not_what_went_in() -> None:
    x = IMAGES["grey"].copy()
    next(open_images(x).chunks()).images[:] = 0
    np.testing.assert_array_equal(x, IMAGES["grey"])


def test_two_dimensions_are_one_image() -> None:
    assert open_images(np.zeros((5, 7), bool)).read().shape == (1, 1, 5, 7)
    assert open_images(pillow(IMAGES["RGB"][0])).read().shape == (1, 3, 9, 7)
    assert open_images(np.eye(5, dtype=bool)).read()[0, 0].tolist() == (255 * np.eye(5)).tolist()


@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 5), *[st.integers(4, 7)] * 2, st.sampled_from([1, 3])),
    )
)
def test_any_images_survive_png_and_floats(x: np.ndarray) -> None:
    x = x.transpose(0, 3, 1, 2)
    pngs = [Image.open(io.BytesIO(encoded(pillow(image)))) for image in x]
    mode = "grey" if x.shape[1] == 1 else "rgb"
    np.testing.assert_array_equal(open_images(pngs, mode=mode).read(), x)
    floats = np.ascontiguousarray(x) / 255
    np.testing.assert_array_equal(open_images(floats, mode=mode).read(), x)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_return_to_the_bytes_they_came_from(dtype: type) -> None:
    x = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(open_images((x / 255).astype(dtype)).read()[0, 0], x)
    near = np.array([[0.3, 0.7, 254.4, 254.6]]) / 255
    assert open_images(near.astype(dtype)).read().ravel().tolist() == [0, 1, 254, 255]


@given(
    st.lists(st.integers(0, 65535), min_size=4, max_size=4).filter(lambda v: max(v) > 255),
    st.sampled_from(["png", "tiff"]),
)
def test_sixteen_bits_are_scaled_to_eight(values: list[int], kind: str) -> None:
    image = Image.fromarray(np.array(values, np.uint16).reshape(2, 2))
    with Image.open(io.BytesIO(encoded(image, kind))) as stored:
        pixels = open_images([stored]).read()
    assert pixels.ravel().tolist() == [round(value / 257) for value in values]


def test_each_mode_becomes_grey_or_rgb(tmp_path: Path) -> None:
    grey, colour = (pillow(IMAGES[kind][0]) for kind in ("grey", "RGB"))
    half = Image.new("L", grey.size, 255)
    alpha, solid = (image.copy() for image in (colour, grey))
    alpha.putalpha(half)
    solid.putalpha(half)
    palette = colour.quantize(16)
    wide = Image.fromarray(np.full((9, 7), 255, np.int32))
    real = Image.fromarray(np.full((9, 7), 0.2, np.float32))
    cases = {
        "one.png": (half.point(lambda v: 255).convert("1"), np.full((1, 9, 7), 255)),
        "la.png": (solid, IMAGES["grey"][0]),
        "rgba.png": (alpha, IMAGES["RGB"][0]),
        "palette.png": (palette, np.array(palette.convert("RGB")).transpose(2, 0, 1)),
        "grey_palette.png": (grey.convert("P"), IMAGES["grey"][0]),
        "i.tiff": (wide, np.full((1, 9, 7), 255)),
        "f.tiff": (real, np.full((1, 9, 7), 51)),
        "cmyk.tiff": (Image.new("CMYK", (7, 9), (255, 0, 0, 0)), np.array([0, 255, 255])),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        want = expected[:, None, None] * np.ones((9, 7)) if expected.ndim == 1 else expected
        np.testing.assert_array_equal(open_images(tmp_path / name).read()[0], want, err_msg=name)


def test_a_photo_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter, as phones do
    pillow(IMAGES["RGB"][0]).save(tmp_path / "phone.png", exif=exif)
    expected = np.rot90(IMAGES["RGB"][0], -1, axes=(1, 2))
    np.testing.assert_array_equal(open_images(tmp_path / "phone.png").read()[0], expected)
    with Image.open(tmp_path / "phone.png") as image:
        np.testing.assert_array_equal(open_images([image]).read()[0], expected)
        assert image.size == (7, 9)  # the person's own image is left as it was


def test_damaged_exif_data_leave_an_image_as_it_is() -> None:
    image = pillow(IMAGES["RGB"][0])
    for exif in (b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12"):
        with Image.open(io.BytesIO(encoded(image, exif=exif))) as damaged:
            np.testing.assert_array_equal(open_images([damaged]).read()[0], IMAGES["RGB"][0])


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_images(tmp_path / "a.gif").read()[0, :, 0, 0].tolist() == [255, 0, 0]


def test_a_folder_is_its_images_in_order(tmp_path: Path) -> None:
    png = encoded(pillow(IMAGES["grey"][0]))
    seen = ["B.PNG", "a-b/1.png", "a/1.png", "a/b/c/2.png", "z.jpg"]
    for name in [*seen, ".hidden.png", ".trash/3.png", "a/._1.png", "labels.csv", "notes"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png)
    (tmp_path / "not_a_file.png").mkdir()
    chunk = next(open_images(tmp_path).chunks())
    assert chunk.names == seen
    assert len(chunk.images) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_file_name_that_is_no_text_can_still_be_printed(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(
        encoded(pillow(IMAGES["grey"][0]))
    )
    chunk = next(open_images(tmp_path).chunks())
    assert (chunk.names, chunk.errors) == ([r"caf\xe9.png"], [None])


def test_an_image_needs_no_extension(tmp_path: Path) -> None:
    pillow(IMAGES["RGB"][0]).save(tmp_path / "photo", "png")
    np.testing.assert_array_equal(open_images(tmp_path / "photo").read()[0], IMAGES["RGB"][0])


def test_unreadable_images_are_rows_in_a_stream_and_the_end_of_a_read(tmp_path: Path) -> None:
    good = encoded(pillow(IMAGES["grey"][0]))
    rows = {
        "0.png": b"",
        "1.png": good,
        "2.png": good[: len(good) // 2],
        "3.png": b"no image at all",
        "4.png": encoded(Image.new("L", (32, 30))),
        "5.png": encoded(Image.new("RGB", (7, 9))),
        "6.png": good,
    }
    (tmp_path / "f").mkdir()
    for name, data in rows.items():
        (tmp_path / "f" / name).write_bytes(data)
    write_parquet(tmp_path / "x.parquet", [*rows.values(), None], [*rows, None])
    bad, other = "bad-image", "wrong-shape"
    expected = dict(zip(rows, [bad, None, bad, bad, other, None, None], strict=True))
    for path, more in ((tmp_path / "f", {}), (tmp_path / "x.parquet", {"row 7": bad})):
        source = open_images(path)
        assert source.shape == (1, 9, 7)  # of the first that can be read
        chunks = list(source.chunks(4))
        found = {n: e for c in chunks for n, e in zip(c.names, c.codes, strict=True)}
        assert found == expected | more
        assert [len(chunk.images) for chunk in chunks] == [1, 2]
        np.testing.assert_array_equal(chunks[0].images[0], IMAGES["grey"][0])
        fails(source, bad, f"{path.name}: image 0.png is empty (0 bytes)")
        (whole,) = source.resized(8).chunks()
        assert whole.codes == [bad, None, bad, bad, None, None, None, *more.values()]
        assert [error is None for error in whole.errors] == [code is None for code in whole.codes]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    pillow(IMAGES["grey"][0]).save(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    (chunk,) = open_images(tmp_path).chunks()
    assert chunk.names == ["a.png", "b.png", "c.png"]
    assert chunk.codes == ["bad-image", None, "bad-image"]


def test_no_image_can_be_read(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"broken")
    fails(tmp_path, "bad-image")
    fails(tmp_path / "b.png", "bad-image")


@given(st.integers(1, 10_000), st.sampled_from(["png", "jpeg", "gif", "tiff", "bmp", "webp"]))
def test_a_cut_image_has_a_plain_reason(cut: int, kind: str) -> None:
    data = encoded(pillow(IMAGES["RGB"][0]), kind)
    check_plain(data[: cut % len(data)])


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"]))
def test_noise_has_a_plain_reason(noise: bytes, start: bytes) -> None:
    check_plain(start + noise)


def check_plain(data: bytes) -> None:
    with pillow_guard():
        try:
            decode(data)
        except UnreadableError as error:
            reason = str(error)
        else:
            return  # Pillow made something of it
    assert reason.startswith(
        ("is empty (0 bytes)", "cannot be decoded (truncated", "has more than")
    )


def chunk(kind: bytes, data: bytes | bytearray) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG_EXTRAS = {
    "nothing": b"",
    "a transparent colour": chunk(b"tRNS", b"\0\x07"),
    "a gamma": chunk(b"gAMA", struct.pack(">I", 100_000)),
    "a background": chunk(b"bKGD", b"\0\x07"),
    "a comment": chunk(b"tEXt", b"Comment\0upright"),
}


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["L", "RGB", "LA", "RGBA", "P", "1", "I;16"]),
    st.sampled_from(sorted(PNG_EXTRAS)),
    st.integers(0, 2**32 - 1),
)
def test_png_images_have_the_pixels_that_pillow_gives(
    width: int, height: int, mode: str, extra: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Smooth as well as noisy: the filters of a row are chosen by it.
    noise = np.cumsum(rng.integers(0, 20, (height, width, 4)), axis=rng.integers(2)).astype("u1")
    image = Image.fromarray(noise).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    data = encoded(image)
    if mode == "L":
        data = data[:33] + PNG_EXTRAS[extra] + data[33:]
    expected = image.convert("RGB" if mode in ("RGB", "RGBA", "P") else "L")
    if image.has_transparency_data:
        white = Image.new(expected.mode, image.size, "white")
        expected = Image.composite(expected, white, image.convert("RGBA").getchannel("A"))
    if mode == "L" and extra == "a transparent colour":
        expected = expected.point(lambda v: 255 if v == 7 else v)
    if mode == "I;16":
        expected = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    with pillow_guard():
        np.testing.assert_array_equal(pillow(decode(data).pixels), np.asarray(expected))
        framed = decode(data, Frame(11, 7)).pixels
    np.testing.assert_array_equal(pillow(framed), unsquashed(expected, 11, 7))


def grey_png(header: bytes, pixels: bytes) -> bytes:
    parts = chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


GREY_HEADER = struct.pack(">IIBBBBB", 9, 7, 8, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "rows", [b"\0" * 30, b"\7" + b"\0" * 69], ids=["too few", "no such filter"]
)
def test_a_png_image_without_all_its_pixels_cannot_be_decoded(rows: bytes) -> None:
    with pytest.raises(UnreadableError), pillow_guard():
        decode(grey_png(GREY_HEADER, zlib.compress(rows)))


def test_a_png_image_with_one_wrong_bit_cannot_be_decoded() -> None:
    data = bytearray(grey_png(GREY_HEADER, zlib.compress(bytes(70), 0)))
    with pillow_guard():
        assert not decode(bytes(data)).pixels.any()
        data[70] = 1  # a pixel: it was not compressed
        with pytest.raises(UnreadableError):
            decode(bytes(data))


@given(st.sampled_from(["header", "pixels", "both"]), st.integers(0, 2**32 - 1))
def test_an_altered_png_image_is_refused_or_what_pillow_makes_of_it(where: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    header = bytearray(GREY_HEADER)
    rows = rng.integers(0, 5, (7, 1)), rng.integers(0, 256, (7, 9))
    pixels = bytearray(zlib.compress(np.hstack(rows).astype(np.uint8).tobytes(), 0))
    if where != "pixels":
        header[rng.choice([2, 3, 7, 8, 9, 10, 12])] = rng.integers(256)
    if where != "header":
        pixels[rng.integers(len(pixels))] = rng.integers(256)
        pixels = pixels[: rng.integers(1, 2 * len(pixels))]
    data = grey_png(bytes(header), bytes(pixels))
    with pillow_guard():
        try:
            found = decode(data).pixels
        except UnreadableError:
            return check_plain(data)
        try:
            with Image.open(io.BytesIO(data)) as image:
                expected = np.asarray(image.convert("L" if image.mode in ("L", "LA") else "RGB"))
        except OSError:  # it also looks at the checksum within the compressed data
            return None
    return np.testing.assert_array_equal(pillow(found), expected)


@pytest.mark.parametrize("side", [12, 20])  # Pillow warns above the limit, and raises above twice
def test_a_decompression_bomb_is_an_unreadable_image(
    side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow(IMAGES["grey"][0]).save(tmp_path / "a.png")
    Image.new("L", (side, side)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codes = next(open_images(tmp_path, size=5).chunks()).codes
    assert codes == [None, "bad-image"]


def test_files_are_read_a_few_chunks_before_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "cores", lambda: 2)
    source = open_images(folder(IMAGES["grey"], tmp_path))
    chunks = source.chunks(2)
    next(chunks)  # two more are under way
    (tmp_path / "pngs" / "2" / "11.png").unlink()
    *between, last = chunks
    assert [chunk.errors for chunk in between] == [[None, None]] * 4
    assert last.codes == [None, "bad-image"]


def test_warnings_are_as_before_when_all_threads_have_decoded() -> None:
    before = list(warnings.filters)
    with pillow_guard():
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: next(open_images("sample:mnist").chunks(10)), range(20)))
        with pytest.warns(UserWarning, match="not Pillow's"):
            warnings.warn("not Pillow's", stacklevel=1)
    assert list(warnings.filters) == before


def test_a_stream_that_is_left_early_ends_its_threads(tmp_path: Path) -> None:
    chunks = open_images(folder(IMAGES["grey"], tmp_path)).chunks(1)
    next(chunks)
    chunks.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


def test_a_file_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    source = folder(IMAGES["grey"], tmp_path)
    path = npy(IMAGES["grey"], tmp_path)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    fails(source, "bad-image")
    monkeypatch.setattr(Path, "open", refuse)
    fails(path, "bad-source")
    monkeypatch.setattr("os.scandir", refuse)
    fails(source, "bad-source")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_file_of_rows_stays_on_disk(dtype: type, tmp_path: Path) -> None:
    path = tmp_path / "big.npy"
    np.lib.format.open_memmap(path, "w+", dtype, (60_000, 28, 28))  # sparse: takes no space
    tracemalloc.start()
    try:
        source = open_images(path, size=28)
        assert sum(len(chunk.images) for chunk in source.chunks(500)) == 60_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6  # of 47 MB or 188 MB


def test_a_late_mistake_in_an_array_is_found_and_numbered() -> None:
    x = np.zeros((3000, 2, 2), np.float32)
    x[2500, 1] = 7
    fails(x, "bad-image", "array: image 2500 has the value 7")


def fails(source: object, code: Code, words: str = "") -> None:
    with mistake(code, words) as info:
        (source if isinstance(source, ImageSource) else open_images(source)).read()
    assert " at 0x" not in str(info.value)


def closed() -> Image.Image:
    with Image.open(io.BytesIO(encoded(Image.new("L", (2, 2))))) as image:
        return image


ones = np.ones((2, 4, 4))


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (ones * 255, "bad-image"),
        (-ones, "bad-image"),
        (ones * [[[np.nan]], [[np.inf]]], "bad-image"),
        (ones * [[[1]], [[np.inf]]], "bad-image"),
        (ones.astype(int) * 256, "bad-image"),
        (-ones.astype(np.int8), "bad-image"),
        (ones.astype(complex), "bad-image"),
        (np.array(["a", "b"]), "bad-image"),
        (np.array([ones, ones[1:]], object), "wrong-shape"),
        (np.ones((2, 4, 4, 4)), "wrong-shape"),
        (np.ones((2, 2, 3, 4, 4)), "wrong-shape"),
        (np.ones(5), "wrong-shape"),
        (np.float64(0.5), "wrong-shape"),
        (np.ones((0, 4, 4)), "bad-source"),
        (np.ones((4, 0, 4)), "bad-source"),
        ([], "bad-source"),
        ([ones[0], ones[0], ones[0, 1:]], "wrong-shape"),
        ([ones[0], ones[0].astype(np.uint8)], "bad-image"),
        ([Image.new("L", (2, 2)), ones[0]], "bad-source"),
        ([Image.new("L", (2, 2)), Image.new("L", (3, 2))], "wrong-shape"),
        ([closed()], "bad-image"),
        ([[[0, 1], [0]]], "bad-image"),
        (["a.png", "b.png"], "bad-image"),
        (None, "bad-source"),
        ({"images": ones}, "bad-source"),
        ("no/such/folder", "bad-source"),
        ("sample:cifar", "bad-source"),
        ("hf:", "bad-source"),
        ("hf:/no/such/folder:test", "bad-source"),
    ],
)
def test_what_is_not_a_source_says_so(source: object, code: Code) -> None:
    fails(source, code)


def saved(save: Callable[..., None], *arrays: object, **named: object) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def table(**columns: list[object]) -> bytes:
    return saved(lambda file: pq.write_table(pa.table(columns), file))


mixed = np.array([1, "a"], object)
pixels = idx((3, 4, 4), bytes(48))


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("notes.txt", b"hello", "bad-source"),
        ("empty", b"", "bad-source"),
        ("text.npy", saved(np.save, np.array(["a"])), "bad-image"),
        ("pickle.npy", saved(np.save, mixed), "damaged"),
        ("cut.npy", saved(np.save, ones)[:-9], "damaged"),
        ("zero.npy", b"", "damaged"),
        ("none.npy", saved(np.save, ones[:0]), "bad-source"),
        ("loud.npy", saved(np.save, ones * 9), "bad-image"),
        ("two.npz", saved(np.savez, a=ones, b=ones), "bad-source"),
        ("none.npz", saved(np.savez), "bad-source"),
        ("pickle.npz", saved(np.savez, mixed), "damaged"),
        ("cut.npz", saved(np.savez, ones)[:-30], "damaged"),
        ("really.npz", saved(np.save, ones), "damaged"),
        ("cut.parquet", table(image=[b"a"])[:-9], "damaged"),
        ("zero.parquet", b"", "damaged"),
        ("label.parquet", table(label=[1], text=["a"]), "bad-source"),
        ("number.parquet", table(image=[1]), "bad-source"),
        ("path.parquet", table(image=[{"path": "a"}]), "bad-source"),
        ("none.parquet", table(image=pa.array([], pa.binary())), "bad-source"),
        ("train-labels-idx1-ubyte", idx((3,), b"abc"), "bad-source"),
        ("train-labels", idx((3,), b"abc"), "bad-source"),
        ("flat.idx", idx((3, 4), bytes(12)), "bad-source"),
        ("float.idx", idx((1, 2, 2), bytes(16), dtype=0x0D), "bad-source"),
        ("wrong.idx", b"\x89PNG\r\n\x1a\n", "bad-source"),
        ("short.idx", pixels[:3], "damaged"),
        ("shorter.idx", pixels[:10], "damaged"),
        ("cut.idx", pixels[:-1], "damaged"),
        ("cut.idx.gz", gzip.compress(pixels, mtime=0)[:-4], "damaged"),
        ("damaged.idx.gz", gzip.compress(pixels, mtime=0)[:-8] + bytes(8), "damaged"),
        ("a-images-idx3-ubyte.gz", gzip.compress(pixels[:-1], mtime=0), "damaged"),
        ("none.idx", idx((0, 4, 4), b""), "bad-source"),
        ("deep.idx", idx((3, 4, 4, 4), bytes(192)), "wrong-shape"),
        ("notes.txt.gz", gzip.compress(b"hello", mtime=0), "bad-source"),
        (
            "wide.tiff",
            encoded(Image.fromarray(np.full((2, 2), 65536, np.int32)), "tiff"),
            "bad-image",
        ),
        ("f.tiff", encoded(Image.fromarray(np.full((2, 2), 9.5, np.float32)), "tiff"), "bad-image"),
    ],
)
def test_a_bad_file_is_named(name: str, data: bytes, code: Code, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    fails(tmp_path / name, code, name)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_short_idx_file_is_refused_before_anything_is_read(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / "cut.idx").write_bytes(pack(pixels[:-1]))
    with mistake("damaged"):
        open_images(tmp_path / "cut.idx")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"")
    fails(tmp_path, "bad-source")


def test_a_parquet_file_damaged_inside_breaks_off(tmp_path: Path) -> None:
    path = Path(str(parquet(IMAGES["RGB"], tmp_path)))
    data = bytearray(path.read_bytes())
    data[4:600] = bytes(596)
    path.write_bytes(data)
    fails(path, "damaged")


def test_the_hub_wants_its_package_an_image_column_and_a_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(hub(IMAGES["grey"], tmp_path))
    fails(source.replace(":train", ":test"), "bad-source")
    assert len(open_images(source + "[:4]")) == 4
    assert len(open_images(source.removesuffix(":train"))) == 12
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "train.parquet").write_bytes(table(label=[1, 2]))
    fails(f"hf:{tmp_path}/numbers", "bad-source")
    monkeypatch.setitem(sys.modules, "datasets", None)
    fails(source, "missing-library")


def test_a_dataset_with_several_configurations(tmp_path: Path) -> None:
    configurations = ""
    for name, count in (("cropped", 3), ("full", 5)):
        rows = [encoded(pillow(image)) for image in IMAGES["RGB"][:count]]
        write_parquet(tmp_path / f"{name}.parquet", rows, [None] * count)
        configurations += (
            f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}.parquet\n"
        )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    assert len(open_images(f"hf:{tmp_path}:cropped:test")) == 3
    assert len(open_images(f"hf:{tmp_path}:full:test[:4]")) == 4
    fails(f"hf:{tmp_path}:test", "bad-source")


def test_a_dataset_of_files_keeps_their_paths_and_errors(tmp_path: Path) -> None:
    pngs = folder(IMAGES["RGB"][:2], tmp_path)
    (tmp_path / "pngs" / "0" / "01.png").write_bytes(b"")
    chunk = next(open_images(f"hf:{pngs}").chunks())
    assert [Path(name).name for name in chunk.names] == ["00.png", "01.png"]
    np.testing.assert_array_equal(chunk.images, IMAGES["RGB"][:1])
    assert chunk.codes == [None, "bad-image"]


@pytest.mark.parametrize("bad", [0, -3])
def test_sizes_start_at_one(bad: int) -> None:
    with mistake("bad-option"):
        open_images(IMAGES["grey"], size=bad)
    with mistake("bad-option"):
        next(open_images(IMAGES["grey"]).chunks(bad))


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data, with real datasets, is not here")
@pytest.mark.parametrize(
    ("name", "shape"), [("cats/test", (3, 32, 32)), ("kmnist/test", (1, 28, 28))]
)
def test_real_datasets_open(name: str, shape: tuple[int, int, int]) -> None:
    source = open_images(SHARED / f"{name}.parquet")
    chunk = next(source.chunks(200))
    assert source.shape == shape
    assert chunk.errors == [None] * 200
    assert len(np.unique(chunk.images.reshape(200, -1), axis=0)) > 190
