"""Everything that holds images, opened by one function."""

__all__ = ["open_images"]

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ApproxMassError
from .frame import Frame
from .options import check_seen
from .pages import every_page
from .readers import reader_of
from .readers.array import as_array, open_array
from .readers.common import KINDS, label_name
from .readers.hub import is_dataset, open_dataset, open_hub
from .readers.items import is_pair
from .readers.listed import open_list
from .readers.once import open_once
from .readers.remote import is_url, open_remote
from .readers.sample import open_sample
from .readers.shards import image_column
from .readers.tables import frame_columns, is_frame
from .source import ImageSource


def open_images(
    source: object,
    *,
    size: int | tuple[int, int] | Frame | None = None,
    mode: str = "auto",
    background: int = 255,
    pages: bool = False,
) -> ImageSource:
    """Open anything that holds images.

    What becomes of each kind of image (transparent, 16 bits, animated, ...) is in docs/images.md;
    what is done unasked is in `ImageSource.remarks()`.

    Arguments:
        source: One of

            - an array or tensor `(N, H, W)`, `(N, C, H, W)`, `(N, H, W, C)` or `(H, W)`, with
              C = 1 or 3: uint8, bool, uint16 (0 to 65535), floats in [0, 1] or other integers in
              [0, 255]; wherever a tensor is, and whether it requires a gradient or not;
            - a list, an array or a Series of such images, of paths, of Pillow images, or of the
              bytes of image files, all of one kind; or one Pillow image, or the bytes of one;
            - the path of a folder (every image in it and below, sorted by path; hidden files and
              links to folders are left out), of an image, or of a `.npy`, `.npz`, `.parquet` or
              IDX file; a folder of Parquet files (all as one, sorted by path); a pattern such as
              `photos/**/*.jpg`; `FILE.npz:SPLIT` for the arrays of one split;
            - the URL of a folder of images or of Parquet files, or of one, in a store that fsspec
              knows: `s3://`, `gs://`, ...;
            - `hf:NAME[:[CONFIG:]SPLIT]`, a dataset of the Hugging Face hub or a local folder of
              one; a `datasets.Dataset`, `IterableDataset`, or a column of one; a frame of pandas
              or polars, or a table of Arrow. Of a table the column `image`, or the only one that
              says that it holds images; `FILE.parquet:COLUMN`, `hf:NAME:CONFIG:SPLIT:COLUMN`,
              `data[COLUMN]` take another;
            - a torch Dataset or DataLoader, a generator, or anything else that gives images one by
              one, in batches `(N, C, H, W)`, as tuples whose first entry is the image, or in dicts
              under `image`. It is read now, once and whole, and kept on disk, for it may end,
              shuffle or alter: see docs/images.md;
            - `sample:NAME`, images that come with the library;
            - an `ImageSource`, whose own options stay where none is given here.
        size: Bring every image to `size` x `size` pixels, or to a height and width, unsquashed:
            what it leaves free is filled by its reflection.
        mode: "grey" or "rgb" for all images; "auto" takes what most are, by the pixels of up to 64
            of them: images stored as RGB whose channels are equal are grey.
        background: The grey, 0 (black) to 255 (white), of the ground under transparent images.
        pages: Read all frames of an animation and all pages of a stack, not the first alone.

    Raises:
        ApproxMassError: There is no such thing, it holds no images, or images of a shape or dtype
            that none can have, or of a shape that can be read in two ways; no such mode or
            background. Values out of range show when the stream comes to them.

    Example:
        >>> images = open_images("sample:fashion_mnist/test", size=32)
        >>> len(images), images.shape, images.native_shape
        (2000, (1, 32, 32), (1, 28, 28))
    """
    opened = _open(source)
    check_seen(opened.name, mode, background)
    if pages:
        opened = every_page(opened)
    if mode != "auto" or background != 255:
        opened = opened.seen(
            mode=None if mode == "auto" else mode,
            background=None if background == 255 else background,
        )
    return opened if size is None else opened.resized(size)


def _open(source: object) -> ImageSource:
    if isinstance(source, ImageSource):
        return source
    if isinstance(source, str):
        return _open_named(source)
    if isinstance(source, os.PathLike):
        return _open_path(os.fspath(source), Path(source))
    if isinstance(source, Image.Image | bytes | bytearray | memoryview):
        return open_list("image", [source])
    if isinstance(source, list | tuple):
        pairs = len(source) > 0 and is_pair(source[0], texts=True)
        return open_once("list", source) if pairs else open_list("list", source)
    if is_dataset(source):
        return open_dataset(source)
    if is_frame(source):
        return _open_frame(source)
    if hasattr(source, "to_pylist") or hasattr(source, "to_list"):  # a column of a frame
        return open_list("list", _listed(source))
    if hasattr(source, "__array__"):
        array = as_array("array", source)
        # Of paths, bytes or arrays.
        lists = (array.ndim and array.dtype.kind in "SU") or (
            array.ndim == 1 and array.dtype.kind == "O"
        )
        return open_list("list", array.tolist()) if lists else open_array("array", array)
    return _open_iterable(source)


def _open_frame(frame: Any) -> ImageSource:
    """Images of the column `image` of a frame."""
    known = frame_columns(frame)
    images = frame[image_column("table", known, [], "frame['{}']")]
    label = label_name(known)
    labels = None if label is None else np.asarray(_listed(frame[label]))
    return open_list("table", _listed(images), lambda: labels)


def _listed(column: Any) -> list[Any]:
    """A column of pandas, polars or Arrow as a list."""
    found: list[Any] = column.to_pylist() if hasattr(column, "to_pylist") else column.to_list()
    return found


def _open_iterable(source: Any) -> ImageSource:
    """Images of a data set or a loader of torch, of a generator, or of whatever gives some."""
    name = type(source).__name__
    if isinstance(source, Mapping):
        listed = ", ".join(map(str, source)) or "nothing"
        raise ApproxMassError(
            f"{name}: a dict of {listed} is not a source of images: give one of them, such as "
            f"data[{next(iter(source), 'train')!r}]",
            code="bad-source",
        )
    if isinstance(source, Iterable):
        items: Iterable[Any] = source
    elif hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        items = (source[i] for i in range(len(source)))
    else:
        raise ApproxMassError(f"{name}: not a source of images; give {KINDS}", code="bad-source")
    # A loader of torch says so; what else gives batches, gives arrays of four axes.
    return open_once(name, items, batched=getattr(source, "batch_sampler", None) is not None)


def _open_named(name: str) -> ImageSource:
    if not name:
        raise ApproxMassError(f"the name of the source is empty: give {KINDS}", code="bad-source")
    if name.startswith("sample:"):
        return open_sample(name)
    if name.startswith("hf:"):
        return open_hub(name)
    if is_url(name):
        return open_remote(name)
    return _open_path(name, Path(name))


def _open_path(name: str, path: Path) -> ImageSource:
    reader = reader_of(name, path)
    if reader is None:
        raise ApproxMassError(
            f"{name}: there is no such file or folder; give {KINDS}", code="bad-source"
        )
    return reader.images(name, path)
