"""The readers that are fuzzed: what each begins with, how that is spoilt, and how it is read."""

__all__ = ["readers", "versions"]

import functools
import gzip
import importlib.metadata
import io
import os
import random
import shutil
import struct
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuzz_corpus import SIDE, Reader, images, mutated, recrc, refusing, spoilt_text
from fuzz_ours import readers_of_ours
from PIL import Image

from approxmass.cli.score import names_in
from approxmass.data import open_images, open_labels
from approxmass.data.decode import How, decode, stored_grey, stored_size
from approxmass.data.frame import Frame
from approxmass.data.frames import Page, count_pages
from approxmass.data.guard import pillow_guard
from approxmass.data.open_region import open_region
from approxmass.data.shapes import NEEDED
from approxmass.data.vectors import holds_vectors, open_vectors


def versions() -> dict[str, str]:
    known = (
        "approxmass",
        "pillow",
        "pillow-heif",
        "pyspng",
        "numpy",
        "pyarrow",
        "pydantic",
        "torch",
    )
    found = {"python": sys.version.split()[0]}
    for name in known:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


# --- images


def _image(data: bytes, r: random.Random, folder: Path) -> bool:
    way = r.random()
    with pillow_guard():
        if way < 0.65:
            how = How(
                channels=r.choice((None, 1, 3)),
                luminance=r.random() < 0.5,
                needed=((1, SIDE, SIDE), NEEDED) if r.random() < 0.2 else None,
            )
            decode(data, Frame(SIDE, SIDE) if r.random() < 0.5 else None, how, [])
            return True
        if way < 0.75:
            stored_grey(data)
            for number in count_pages(data)[:3]:
                decode(Page(data, number))
            try:
                stored_size(data)
            except Exception:  # as `sizes_of`, which takes the others
                return False
            return True
    path = folder / "x.png"
    path.write_bytes(data)
    source = open_images(path if way < 0.9 else [data], pages=r.random() < 0.3)
    return _streamed(source if r.random() < 0.5 else source.resized(SIDE), r)


def _streamed(source: Any, r: random.Random) -> bool:
    shape = (r.choice((1, 3)), SIDE, SIDE) if r.random() < 0.3 else None
    found = [chunk.errors for chunk in source.chunks(16, shape=shape)]
    source.sizes()
    source.remarks()
    return any(error is None for errors in found for error in errors)


def _png(data: bytes, others: list[bytes], r: random.Random) -> bytes:
    found = mutated(data, others, r)
    return recrc(found, r) if r.random() < 0.6 else found


def _image_readers() -> Iterator[Reader]:
    rare = ("ico", "icns", "tga", "pcx", "sgi", "dds", "im", "msp", "xbm", "qoi")
    for kind in ("png", "apng", "jpeg", "bmp", "gif", "tiff", "webp", "ppm", "avif", "jpeg2000"):
        spoil = _png if kind in ("png", "apng") else mutated
        share = 0.3 if kind in ("avif", "jpeg2000") else 1.0
        yield Reader(kind, images(kind), spoil, refusing(_image), share)
    others = [data for kind in rare for data in images(kind)]
    yield Reader("other images", others, mutated, refusing(_image))
    try:
        yield Reader("heif", images("heif"), mutated, refusing(_image), 0.3)
    except ImportError:
        yield Reader("heif", [], mutated, refusing(_image))


# --- files of arrays, tables and names


def _opened(suffix: str, *, rows: bool = True, labels: bool = True) -> Any:
    def read(data: bytes, r: random.Random, folder: Path) -> bool:
        path = folder / f"x{suffix}"
        path.write_bytes(data)
        name = str(path) + (r.choice((":train", ":a", ":image", ":")) if r.random() < 0.1 else "")
        if labels and r.random() < 0.2:
            open_labels(name)
            return True
        if rows and (r.random() < 0.3 or holds_vectors(name)):
            source: Any = open_vectors(name, r.choice((None, None, ["a", "b"])))
            return any(e is None for chunk in source.chunks(16) for e in chunk.errors)
        return _streamed(open_images(name), r)

    return refusing(read)


def _arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = ((3, 8, 8), (2, 3, 8, 8), (2, 8, 8, 3), (8, 8), (5, 4), (7,), (7, 1))
    kinds = ("u1", "<u2", ">u2", "<f4", "<f8", ">f4", "<i4", "?", "<f2", "<c8")
    return [rng.integers(0, 2, shape).astype(kind) for shape in shapes for kind in kinds]


def _npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def _zipped(members: Sequence[tuple[str, bytes]], how: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", how) as file:
        for name, content in members:
            file.writestr(name, content)
    return data.getvalue()


def _spoilt_npz(data: bytes, others: list[bytes], r: random.Random) -> bytes:
    """A zip whose arrays are spoilt and whose checksums are right, or a spoilt zip."""
    if r.random() < 0.4:
        return mutated(data, others, r)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    which = r.randrange(len(members))
    members[which] = (members[which][0], mutated(members[which][1], [data], r))
    return _zipped(members, r.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _npzs() -> list[bytes]:
    some = _arrays()
    named = [["images"], ["a", "b"], ["train_images", "train_labels"], ["x", "y"], ["arr_0"]]
    return [
        _zipped([(f"{name}.npy", _npy(some[k + i])) for i, name in enumerate(names)], how)
        for k, names in enumerate(named)
        for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]


def _idx(shape: tuple[int, ...]) -> bytes:
    values = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + values.tobytes()


def _gzipped(data: bytes, others: list[bytes], r: random.Random) -> bytes:
    if r.random() < 0.4:
        return mutated(data, others, r)
    return gzip.compress(mutated(gzip.decompress(data), [b"\0" * 40], r), 1)


def _parquets() -> list[bytes]:
    pictures = images("png")[:3]
    struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(pictures)]
    numbers = np.random.default_rng(5).random((3, 4))
    tables = [
        pa.table({"image": pa.array(rows, struct_type), "label": [0, 1, 2]}),
        pa.table({"image": pa.array(pictures, pa.binary()), "y": ["a", "b", "c"]}),
        pa.table({"a": numbers[:, 0], "b": numbers[:, 1].astype(np.float32), "c": [1, 2, None]}),
        pa.table({"a": pa.array([list(each) for each in numbers])}),
        pa.table({"a": pa.array(["x", "y", "x"]).dictionary_encode(), "b": [True, False, None]}),
    ]
    found = []
    for table in tables:
        for how in ("none", "snappy", "zstd"):
            data = io.BytesIO()
            pq.write_table(table, data, compression=how, row_group_size=2)
            found.append(data.getvalue())
    return found


_CSV = (
    b"a,b,c\n1,2,3\n4,5,6\n7,8,9\n",
    b'"a","b"\n1.5,-2e3\n,4\n"5",nan\n',
    b"a;b\n1;2\n",
    "á,b\r\n1,2\r\n3,4\r\n".encode(),
    b"a\n1\n",
)


def _names(data: bytes, r: random.Random, folder: Path) -> bool:
    (folder / "a.png").write_bytes(images_png()[0])
    os.chdir(folder)
    return _streamed(open_images(names_in(io.BytesIO(data))), r)


@functools.cache
def images_png() -> list[bytes]:
    return images("png")


def _region(data: bytes, r: random.Random, folder: Path) -> bool:
    (folder / "x.png").write_bytes(data)
    region = open_region(folder / "x.png")
    region.blanked(np.zeros((1, SIDE, SIDE), np.uint8))
    return True


def _hub(data: bytes, r: random.Random, folder: Path) -> bool:
    place = folder / f"hub{r.randrange(10**9)}"
    place.mkdir()
    try:
        name = r.choice(("x.parquet", "x.csv", "README.md", "x.jsonl", "dataset_infos.json"))
        (place / "a.parquet").write_bytes(_parquets()[0])
        (place / name).write_bytes(data)
        return _streamed(open_images(f"hf:{place}"), r)
    finally:
        shutil.rmtree(place)


def _card() -> list[bytes]:
    text = b"---\nconfigs:\n- config_name: default\n  data_files: '*.parquet'\n---\n"
    return [*_parquets(), *_CSV, text, b'{"image": "a", "label": 1}\n', b'{"default": {}}']


def _file_readers() -> Iterator[Reader]:
    arrays = [_npy(each) for each in _arrays()]
    idx = [_idx(shape) for shape in ((3, 8, 8), (2, 8, 8, 3), (4,), (2, 2), (1, 1, 1))]
    yield Reader("npy", arrays, mutated, _opened(".npy"))
    yield Reader("npz", _npzs(), _spoilt_npz, _opened(".npz"))
    yield Reader("idx", idx, mutated, _opened("-idx3-ubyte", rows=False))
    packed = [gzip.compress(data) for data in idx]
    yield Reader("idx.gz", packed, _gzipped, _opened("-idx3-ubyte.gz", rows=False))
    yield Reader("parquet", _parquets(), mutated, _opened(".parquet"))
    yield Reader("csv", list(_CSV), spoilt_text, _opened(".csv", labels=False))
    lists = [b"a.png\nb.png\n", b"a.png\0a.png\0", b"a.png\r\n./a.png", "é.png\n".encode()]
    yield Reader("list of names", lists, spoilt_text, refusing(_names), 0.5)
    yield Reader("region of interest", images_png(), _png, refusing(_region), 0.3)
    yield Reader("hub folder", _card(), mutated, refusing(_hub), 0.002, 50)


def readers(folder: Path) -> list[Reader]:
    """All of them; detectors and caches that they need are put into a folder."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_CACHE"] = str(folder / "hub")
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    torch.set_num_threads(1)
    Image.init()
    return [*_image_readers(), *_file_readers(), *readers_of_ours(folder)]
