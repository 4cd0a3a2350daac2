"""Files that change, or that hold more than they seem to, while they are read."""

import gzip
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from approxmass import Detector, open_images
from approxmass.cli.main import app
from approxmass.data.chunk import chunk_size
from approxmass.data.frames import opened
from approxmass.data.labels import open_labels
from approxmass.data.readers.npy import NpyRows
from approxmass.data.vectors import open_vectors
from approxmass.errors import Code
from conftest import mistake

MiB = 1 << 20


def peak(work: Callable[[], object]) -> int:
    """Bytes that Python takes, at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- .npy


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f8", "?", "<u2", "<i8"])
def test_rows_are_those_of_the_array(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.random.default_rng(0).random((7, 5, 3)).astype(dtype)
    np.save(tmp_path / "x.npy", np.asarray(array, order=order))  # type: ignore[call-overload]
    file = NpyRows("x", tmp_path / "x.npy")
    assert (file.like.shape, file.like.dtype, len(file)) == (array.shape, array.dtype, 7)
    for start, stop in ((0, 7), (0, 1), (3, 5), (6, 99), (7, 9)):
        np.testing.assert_array_equal(file.rows(start, stop), array[start:stop])


@pytest.mark.parametrize("shape", [(9, 6), (40, 6, 6), (40, 3, 6, 6), (40, 6, 6, 3)])
def test_a_file_is_the_array_in_it(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.save(tmp_path / "x.npy", array)
    np.testing.assert_array_equal(open_images(tmp_path / "x.npy").read(), open_images(array).read())


def images_of(path: Path) -> None:
    for _ in open_images(path).chunks(8):
        pass


def rows_of(path: Path) -> None:
    for _ in open_vectors(path).chunks(8):
        pass


@pytest.mark.parametrize("kind", ["images", "rows"])
@pytest.mark.parametrize("how", ["cut", "emptied", "replaced", "written to", "cut in the header"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, kind: str, how: str) -> None:
    array = np.zeros((40, 64, 64) if kind == "images" else (40, 4096), np.float64)
    path = tmp_path / "x.npy"
    np.save(path, array)
    source = open_images(path) if kind == "images" else open_vectors(path)
    chunks = iter(source.chunks(8))
    next(chunks)
    if how == "written to":
        with path.open("r+b") as file:
            file.seek(-8, 2)
            file.write(b"12345678")
        os.utime(path, ns=(1, 1))  # whatever the clock resolves
    elif how == "replaced":
        np.save(tmp_path / "y.npy", array + 1)
        os.replace(tmp_path / "y.npy", path)
    else:
        os.truncate(path, {"cut": 200_000, "emptied": 0, "cut in the header": 20}[how])
    with mistake("damaged", "changed or cut short while it was read"):
        for _ in chunks:
            pass


def test_the_command_says_it_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8)
    Detector(method="gaussian").fit(array).save(tmp_path / "d")
    np.save(tmp_path / "x.npy", array)
    rows = NpyRows.rows

    def cut(self: NpyRows, start: int, stop: int) -> NDArray[np.uint8]:
        os.truncate(tmp_path / "x.npy", 1000)
        return rows(self, start, stop)

    monkeypatch.setattr(NpyRows, "rows", cut)
    words = ["score", str(tmp_path / "d"), str(tmp_path / "x.npy"), "-o", str(tmp_path / "s.csv")]
    found = CliRunner().invoke(app, words)
    assert getattr(found.exception, "code", "") == "damaged"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "x.npy"]


@pytest.mark.parametrize("shape", [(10**6, 28, 28), (2**40, 2**20), (-1, 28, 28), (2**62, 4, 4)])
def test_a_header_that_says_too_much(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"0" * 100)
    with mistake("damaged"):
        open_images(tmp_path / "x.npy")


def test_nothing_packed_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.zeros((300, 300), np.uint16)).save(path)  # of which Pillow makes a map
    image = opened(path)
    image.load()
    assert "x.tif" not in Path("/proc/self/maps").read_text()


# --- chunks by bytes


def test_a_chunk_of_large_images_is_small(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, "w+", np.float64, (200, 512, 512)).flush()  # sparse: 400 MiB
    source = open_images(path)
    assert peak(lambda: [len(chunk.names) for chunk in source.chunks(1024)]) < 100 * MiB
    assert sum(len(chunk.names) for chunk in source.chunks()) == 200


def test_a_table_of_large_images_comes_in_small_batches(tmp_path: Path) -> None:
    rows = [{"bytes": os.urandom(MiB), "path": f"{i}.png"} for i in range(48)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "x.parquet")
    batches = open_images(tmp_path / "x.parquet").parts()[0]
    counts = [len(names) for names, _ in batches(1024)]
    assert sum(counts) == 48
    assert max(counts) <= 16


def test_what_is_decoded_together_is_bounded() -> None:
    for shape in ((1, 28, 28), (3, 256, 256), (3, 1000, 1000), (3, 8000, 8000)):
        assert chunk_size(shape) == 1 or chunk_size(shape) * int(np.prod(shape)) <= 16 * MiB


# --- IDX


def idx(shape: tuple[int, ...], data: bytes) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + data


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((0, 2**32 - 1, 2**32 - 1), "bad-source"),
        ((0, 28, 28), "bad-source"),
        ((0, 0, 0), "bad-source"),
        ((5, 0, 2**32 - 1), "bad-source"),
        ((2**32 - 1, 2**32 - 1, 2**32 - 1), "bad-image"),
        ((1, 2**16, 2**16), "bad-image"),
        ((2**32 - 1, 28, 28), "damaged"),
        ((2, 3, 2**32 - 1, 2**32 - 1), "bad-image"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_of_idx(tmp_path: Path, shape: tuple[int, ...], code: Code, packed: bool) -> None:
    data = idx(shape, b"0" * 1000)
    (tmp_path / "x.idx").write_bytes(gzip.compress(data) if packed else data)
    with mistake(code):
        open_images(tmp_path / "x.idx")


def test_a_packed_file_is_unpacked_as_far_as_its_header_says(tmp_path: Path) -> None:
    data = idx((4, 64, 64), bytes(4 * 64 * 64))
    with gzip.open(tmp_path / "x.idx.gz", "wb", compresslevel=1) as file:
        file.write(data)
        for _ in range(300):  # 300 MiB more
            file.write(bytes(MiB))
    assert peak(lambda: images_of(tmp_path / "x.idx.gz")) < 2 * MiB
    assert len(open_images(tmp_path / "x.idx.gz")) == 4


def test_large_images_of_a_packed_file_come_a_few_at_a_time(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "x.idx.gz", "wb", compresslevel=1) as file:
        file.write(idx((100, 1024, 1024), b""))
        for _ in range(100):
            file.write(bytes(MiB))
    assert peak(lambda: images_of(tmp_path / "x.idx.gz")) < 64 * MiB


# --- .npz


def test_an_array_that_is_shorter_than_it_says(tmp_path: Path) -> None:
    import zipfile

    for name, shape in (("x", (10**6, 28, 28)), ("labels", (10**12,))):
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with (tmp_path / "one").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as archive:
            archive.writestr(f"{name}.npy", (tmp_path / "one").read_bytes() + b"0" * 100)
    with mistake("damaged"):
        open_images(tmp_path / "x.npz")
    with mistake("damaged"):
        open_labels(tmp_path / "labels.npz")
