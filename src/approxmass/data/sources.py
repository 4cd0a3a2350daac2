"""Everything that holds images, opened by one function."""

__all__ = [
    "as_array",
    "hub_dataset",
    "image_files",
    "is_idx",
    "maybe_gzip",
    "open_files",
    "open_images",
    "reading",
    "shown_name",
]

import functools
import gzip
import io
import math
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ApproxMassError
from .decode import (
    Encoded,
    Pixels,
    UnreadableError,
    channels_first,
    decode,
    pillow_guard,
    to_uint8,
)
from .sample import sample_path
from .stream import ImageSource

KINDS = (
    "an array, a list of arrays or of Pillow images, a folder of images, an image file, "
    "a .npy, .npz, .parquet or IDX file, hf:NAME[:[CONFIG:]SPLIT], or sample:NAME"
)


def open_images(source: object, *, size: int | None = None) -> ImageSource:
    """Open anything that holds images.

    Arguments:
        source: One of

            - an array (or anything that turns into one, such as a tensor) `(N, H, W)`,
              `(N, C, H, W)`, `(N, H, W, C)` or `(H, W)`, with C = 1 or 3: uint8, bool, floats in
              [0, 1] or integers in [0, 255]; a list of such images, or of Pillow images;
            - the path of a folder (every image in it and below, sorted by path; hidden files and
              links to folders are left out), of an image, or of a `.npy`, `.npz`, `.parquet`
              (column `image`) or IDX file;
            - `hf:NAME[:[CONFIG:]SPLIT]`, a dataset of the Hugging Face hub or a local folder of
              one;
            - `sample:NAME`, images that come with the library;
            - an `ImageSource`.
        size: Resize every image to `size` x `size` pixels.

    Raises:
        ApproxMassError: There is no such thing, or it holds no images.

    Example:
        >>> images = open_images("sample:fashion_mnist/test", size=32)
        >>> len(images), images.shape, images.native_shape
        (2000, (1, 32, 32), (1, 28, 28))
    """
    opened = _open(source)
    return opened if size is None else opened.resized(size)


def _open(source: object) -> ImageSource:
    if isinstance(source, ImageSource):
        return source
    if isinstance(source, str) and not source:
        raise ApproxMassError(f"the name of the source is empty: give {KINDS}")
    if isinstance(source, str) and source.startswith("sample:"):
        return _from_idx(source, sample_path(source.removeprefix("sample:")))
    if isinstance(source, str) and source.startswith("hf:"):
        return _from_hub(source)
    if isinstance(source, str | os.PathLike):
        return _from_path(os.fspath(source), Path(source))
    if isinstance(source, Image.Image):
        return _from_list("array", [source])
    if isinstance(source, list | tuple):
        return _from_list("array", source)
    if hasattr(source, "__array__"):
        return _from_array("array", as_array("array", source))
    raise ApproxMassError(f"{type(source).__name__}: not a source of images; give {KINDS}")


def _from_path(name: str, path: Path) -> ImageSource:
    if not os.path.lexists(path):
        raise ApproxMassError(f"{name}: there is no such file or folder; give {KINDS}")
    if path.is_dir():
        return _from_folder(name, path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with reading(name, "a .npy file of numbers: save it again with numpy.save"):
            array = np.lib.format.open_memmap(path, mode="r")
        return _from_array(name, array)
    if suffix == ".npz":
        return _from_npz(name, path)
    if suffix == ".parquet":
        return _from_parquet(name, path)
    if re.search(r"(-idx\d-ubyte|\.idx)(\.gz)?$", path.name) or is_idx(name, path):
        return _from_idx(name, path)
    if suffix not in _image_suffixes():
        with pillow_guard():
            try:
                decode(path)
            except UnreadableError:
                raise ApproxMassError(f"{name}: not a file of images; give {KINDS}") from None
    return open_files(name, path.parent, [path.name])


def _from_folder(name: str, folder: Path) -> ImageSource:
    found = image_files(name, folder)
    if not found:
        raise ApproxMassError(f"{name}: no image in this folder; give {KINDS}")
    return open_files(name, folder, found)


def image_files(name: str, folder: Path) -> list[str]:
    """Images in a folder and below, as paths from there, in the order in which they are read."""
    suffixes = _image_suffixes()
    found = []
    with reading(name, "a folder of images"):
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [each for each in folders if not each.startswith(".")]
            below = Path(parent).relative_to(folder).as_posix()
            prefix = "" if below == "." else f"{below}/"  # a Path for each file takes far longer
            found += [
                prefix + each
                for each in files
                if not each.startswith(".") and os.path.splitext(each)[1].lower() in suffixes
            ]
    return sorted(found)


def open_files(name: str, folder: Path, files: list[str]) -> ImageSource:
    """Image files, as paths from `folder`, in this order; `name` is what an error calls them."""

    def batches(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        for i in range(0, len(files), n):
            some = files[i : i + n]
            yield [shown_name(file) for file in some], [folder / file for file in some]

    return ImageSource(name, len(files), batches)


def shown_name(file: str) -> str:
    """A file name as text: it need not be, but whoever prints or stores it expects that."""
    return os.fsencode(file).decode(errors="backslashreplace")


def _from_array(name: str, array: NDArray[Any]) -> ImageSource:
    try:
        view = channels_first(np.asarray(array))  # plain, where it was a memory map
    except UnreadableError as error:
        raise ApproxMassError(f"{name}: {error}") from None

    def batches(n: int) -> Iterator[tuple[list[str], Pixels]]:
        for i in range(0, len(view), n):
            try:
                pixels = to_uint8(view[i : i + n])
            except UnreadableError as error:
                raise ApproxMassError(f"{name}: image {i + error.index} {error}") from None
            yield _numbers(i, len(pixels)), pixels

    next(batches(1024))  # what is wrong with the values mostly shows in the first
    return ImageSource(name, len(view), batches)


def _from_list(name: str, items: Sequence[Any]) -> ImageSource:
    if any(isinstance(item, str | os.PathLike) for item in items):
        raise ApproxMassError(f"{name}: a list of paths is not a source of images; give {KINDS}")
    if not any(isinstance(item, Image.Image) for item in items):
        arrays = [as_array(f"{name}: image {i}", item) for i, item in enumerate(items)]
        for i, array in enumerate(arrays):
            if (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
                raise ApproxMassError(
                    f"{name}: image {i} is {array.dtype} {array.shape}, but the first is "
                    f"{arrays[0].dtype} {arrays[0].shape}: give all the same shape and dtype"
                )
        return _from_array(name, np.stack(arrays) if arrays else np.empty(0))
    for i, item in enumerate(items):
        if not isinstance(item, Image.Image):
            raise ApproxMassError(
                f"{name}: image {i} is {type(item).__name__}, others are Pillow images: "
                "give only arrays or only Pillow images"
            )

    def batches(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        for i in range(0, len(items), n):
            yield _numbers(i, len(items[i : i + n])), items[i : i + n]

    return ImageSource(name, len(items), batches)


def _from_npz(name: str, path: Path) -> ImageSource:
    with (
        reading(name, "a .npz file of numbers: save it again with numpy.savez"),
        path.open("rb") as file,
    ):
        arrays = np.load(file, allow_pickle=False)
        keys = list(arrays.keys())
        key = next((k for k in ("images", "x", "arr_0") if k in keys), keys[0] if keys else "")
        if len(keys) != 1 and key not in ("images", "x", "arr_0"):
            raise ApproxMassError(
                f"{name}: holds the arrays {', '.join(keys) or '(none)'}: call one of them images"
            )
        array = arrays[key]
    return _from_array(name, array)


def _from_parquet(name: str, path: Path) -> ImageSource:
    import pyarrow as pa
    import pyarrow.parquet as pq

    damaged = "a Parquet file: copy it again"
    with reading(name, damaged):
        file = pq.ParquetFile(path)
        schema, count = file.schema_arrow, file.metadata.num_rows
    if "image" not in schema.names:
        raise ApproxMassError(
            f"{name}: has no column image, only {', '.join(schema.names) or 'an empty schema'}: "
            "rename the one that holds the images"
        )
    kind = schema.field("image").type
    data = kind.field("bytes").type if _has_field(kind, "bytes") else kind
    if not (pa.types.is_binary(data) or pa.types.is_large_binary(data)):
        raise ApproxMassError(
            f"{name}: the column image is {kind}: give encoded images as binary or struct<bytes>"
        )

    def batches(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        done = 0
        with reading(name, damaged):
            for batch in file.iter_batches(n, columns=["image"]):
                column = batch.column(0)
                paths: list[str | None] = [None] * len(column)
                if _has_field(kind, "path"):
                    paths = column.field("path").to_pylist()
                encoded = column.field("bytes") if pa.types.is_struct(kind) else column
                yield _stored(paths, done), encoded.to_pylist()
                done += len(column)

    return ImageSource(name, count, batches)


def _from_idx(name: str, path: Path) -> ImageSource:
    damaged = "an IDX file of images: download it again"
    with reading(name, damaged), maybe_gzip(path) as file:
        zeros, dtype, ndim = struct.unpack(">HBB", file.read(4))
        if zeros == 0 and ndim == 1:
            raise ApproxMassError(
                f"{name}: holds labels, not images: give the file called ...-images-idx3-ubyte"
            )
        if zeros or dtype != 8 or ndim not in (3, 4):
            raise ApproxMassError(
                f"{name}: not an IDX file of 8-bit images (magic 0x0803 or 0x0804)"
            )
        shape = struct.unpack(f">{ndim}I", file.read(4 * ndim))
        start, total = file.tell(), math.prod(shape)
        if file.seek(0, os.SEEK_END) < start + total:
            raise ApproxMassError(f"{name}: is truncated: download it again")
    try:
        channels_first(np.broadcast_to(np.uint8(0), shape))
    except UnreadableError as error:
        raise ApproxMassError(f"{name}: {error}") from None

    def batches(n: int) -> Iterator[tuple[list[str], Pixels]]:
        with reading(name, damaged), maybe_gzip(path) as file:
            file.seek(start)
            for i in range(0, shape[0], n):
                k = min(n, shape[0] - i)
                data = np.frombuffer(file.read(k * (total // shape[0])), np.uint8)
                yield _numbers(i, k), to_uint8(channels_first(data.reshape(k, *shape[1:])))

    return ImageSource(name, shape[0], batches)


def hub_dataset(name: str) -> Any:
    """The dataset that `hf:NAME[:[CONFIG:]SPLIT]` names; `train` where no split is named."""
    try:
        import datasets
    except ImportError:
        raise ApproxMassError(
            f"{name}: the datasets package is missing: pip install 'approxmass[hub]'"
        ) from None
    # A split may carry a slice, train[:100], so the last colon alone does not find it.
    match = re.fullmatch(r"hf:(.+?)(?:(?::([\w.+-]+))?:([\w.+-]+(?:\[.*\])?))?", name)
    if not match:
        raise ApproxMassError(f"{name}: no dataset named: give hf:NAME or hf:NAME:SPLIT")
    try:
        return datasets.load_dataset(match[1], match[2], split=match[3] or "train")
    except Exception as error:  # of many kinds, by the loader and by the network
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise ApproxMassError(
            f"{name}: cannot be loaded ({reason}): check the name, the split and the network"
        ) from error


def _from_hub(name: str) -> ImageSource:
    data = hub_dataset(name)
    import datasets

    columns = [c for c, kind in data.features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        raise ApproxMassError(
            f"{name}: has no image column, only {', '.join(data.features)}: give a set of images"
        )
    data = data.select_columns(columns[:1]).cast_column(columns[0], datasets.Image(decode=False))

    def batches(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        for i in range(0, len(data), n):
            rows = [row or {"bytes": None, "path": None} for row in data[i : i + n][columns[0]]]
            yield (
                _stored([row["path"] for row in rows], i),
                [row["bytes"] or (row["path"] and Path(row["path"])) for row in rows],
            )

    return ImageSource(name, len(data), batches)


def as_array(name: str, source: object) -> NDArray[Any]:
    """Anything that can be one as an array; `name` is what an error calls it."""
    try:
        return np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:  # tensors on a GPU, ragged lists
        reason = str(error).partition("\n")[0]
        raise ApproxMassError(f"{name}: cannot be turned into a NumPy array: {reason}") from error


def _numbers(start: int, count: int) -> list[str]:
    return [str(i) for i in range(start, start + count)]


def _stored(paths: list[str | None], start: int) -> list[str]:
    return [path or f"row {i}" for i, path in enumerate(paths, start)]


@functools.cache
def _image_suffixes() -> frozenset[str]:
    return frozenset(s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def _has_field(kind: Any, field: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind) and kind.get_field_index(field) >= 0)


def maybe_gzip(path: Path) -> io.BufferedIOBase:
    """Open a file to read, unpacked where it is gzip'ed."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")


def is_idx(name: str, path: Path) -> bool:
    """Whether a file begins as the IDX format of 8-bit values does."""
    with reading(name, "a file of images"), maybe_gzip(path) as file:
        return file.read(3) == b"\0\0\x08"


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def reading(name: str, wanted: str) -> Iterator[None]:
    """Name the file in whatever its reader raises; `wanted` says what it should be, and a cure."""
    try:
        yield
    except ApproxMassError:
        raise
    except Exception as error:  # zip, zlib, NumPy and Arrow have one kind each, and more
        if isinstance(error, OSError) and error.strerror:
            raise ApproxMassError(f"{name}: cannot be opened: {error.strerror}") from error
        raise ApproxMassError(f"{name}: is truncated or not {wanted}") from error
