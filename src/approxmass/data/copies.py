"""Which images are copies of others, by content, and what belongs together."""

__all__ = ["among", "folds_of", "pixel_digests", "stored_digests", "times_of", "units_of"]

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..arrays import Pixels
from .decode import Encoded
from .frames import Page
from .source import ImageSource

Digests = NDArray[np.int64]


def pixel_digests(images: Pixels) -> Digests:
    """Eight bytes of each image `(N, C, H, W)` that tell it from others, `(N,)`.

    Of 60,000 different images any two share a digest with a chance of 1 in 10 billion.

    Example:
        >>> digests = pixel_digests(np.array([0, 7, 0], np.uint8).reshape(3, 1, 1, 1))
        >>> bool(digests[0] == digests[2] != digests[1])
        True
    """
    return np.array([_digest(np.ascontiguousarray(image).data) for image in images], np.int64)


def stored_digests(source: ImageSource) -> Digests:
    """Of each image eight bytes of what is stored of it, `(N,)`: no image is decoded.

    Copies of a file have one digest, whatever they are called, and so have equal arrays. A picture
    that was encoded anew, resized or altered has another. Of files only those are read whose
    length another file has, too.

    Raises:
        ApproxMassError: as `ImageSource.chunks`.

    Example:
        >>> from approxmass.data import open_images
        >>> images = np.zeros((5, 8, 8), np.uint8)
        >>> images[1] = 7
        >>> units_of(stored_digests(open_images(images)))
        array([0, 1, 0, 0, 0])
    """
    batches, region = source.parts()[0], source.region
    found: list[int] = []
    files: dict[int, Path] = {}
    for _, items in batches(1024):
        if isinstance(items, np.ndarray):
            pixels = items if region is None else region.blanked(items)
            found += pixel_digests(pixels).tolist()
            continue
        for item in items:
            if isinstance(item, Path):
                files[len(found)] = item
            found.append(_of_item(item, len(found)))
    lengths = {place: _length(path) for place, path in files.items()}
    counts = Counter(lengths.values())
    for place, path in files.items():
        if lengths[place] >= 0 and counts[lengths[place]] > 1:
            found[place] = _of_file(path, place)
    return np.array(found, np.int64)


def units_of(*labels: NDArray[Any]) -> NDArray[np.int64]:
    """Images that share any label belong together, and so do those that both belong to a third.

    Arguments:
        *labels: `(N,)` each, at least one.

    Returns:
        The unit of each image, `(N,)`: 0, 1, ... in the order of their first images.

    Example:
        >>> units_of(np.array([5, 6, 5, 8]), np.array([1, 2, 3, 3]))
        array([0, 1, 0, 0])
    """
    count = len(labels[0])
    rows, columns, nodes = [], [], count
    for each in labels:
        names, inverse = np.unique(each, return_inverse=True)
        rows.append(np.arange(count))
        columns.append(nodes + inverse)
        nodes += len(names)
    edges = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_array((np.ones(len(edges[0]), np.int8), edges), shape=(nodes, nodes))
    return _numbered(connected_components(graph, directed=False)[1][:count])


def times_of(units: NDArray[np.int64] | None) -> float:
    """How many rows there are of a row's unit, on average.

    Example:
        >>> times_of(np.array([0, 0, 0, 1])), times_of(None)
        (2.5, 1.0)
    """
    if units is None:
        return 1.0
    sizes = np.unique(units, return_counts=True)[1]
    return float((sizes.astype(float) ** 2).sum() / len(units))


def among(units: NDArray[np.int64] | None, rows: Tensor) -> NDArray[np.int64] | None:
    """The units of some rows; None where each is by itself.

    Example:
        >>> among(np.array([4, 4, 7]), torch.tensor([2, 0]))
        array([7, 4])
    """
    return None if units is None else units[rows.numpy()]


def folds_of(
    rows: Tensor, units: NDArray[np.int64] | None, folds: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows held and the other ones, for each fold: by turns, and all of a unit in one.

    Arguments:
        rows: Places of images, `(n,)`.
        units: Of all images, by their place; None for each by itself.
        folds: How many.

    Example:
        >>> for held, others in folds_of(torch.arange(4), np.array([7, 3, 7, 5]), 2):
        ...     held.tolist(), others.tolist()
        ([0, 2, 3], [1])
        ([1], [0, 2, 3])
    """
    turns = np.arange(len(rows)) if units is None else _numbered(units[rows.numpy()])
    of = [rows[torch.from_numpy(np.flatnonzero(turns % folds == k))] for k in range(folds)]
    for fold, held in enumerate(of):
        if len(held):
            yield held, torch.cat([some for k, some in enumerate(of) if k != fold])


def _numbered(units: NDArray[Any]) -> NDArray[np.int64]:
    """UnitOf renamed 0, 1, ... in the order in which they first come."""
    _, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[first.argsort()] = np.arange(len(first))
    return number[inverse]


def _digest(*data: Any) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for each in data:
        digest.update(each)
    return int.from_bytes(digest.digest(), "little", signed=True)


def _of_item(item: Encoded, place: int) -> int:
    """Of an encoded image that is no file; a file has one of its own until it is read."""
    if isinstance(item, bytes):
        return _digest(item)
    if isinstance(item, Page):
        inner = item.item
        whole = _of_file(inner, place) if isinstance(inner, Path) else _of_item(inner, place)
        return _digest(f"page {item.number} of {whole}".encode())
    if item is None or isinstance(item, Path):
        return _digest(f"image {place}".encode())
    try:
        return _digest(f"{item.mode} {item.size}".encode(), item.tobytes())
    except Exception:  # it cannot be decoded, which the stream will say
        return _digest(f"image {place}".encode())


def _of_file(path: Path, place: int) -> int:
    try:
        return _digest(path.read_bytes())
    except OSError:  # the stream will say why
        return _digest(f"image {place}".encode())


def _length(path: Path) -> int:
    try:
        known = os.stat(path)
        return known.st_size if stat.S_ISREG(known.st_mode) else -1  # a pipe is not to be read
    except OSError:
        return -1
