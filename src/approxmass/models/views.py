"""What a model sees in the images of a fit: made as they stream by, and taken from the cache."""

__all__ = ["Gathered", "Seen", "gathered", "views_of"]

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arrays import Pixels, Shape
from ..data import ImageSource
from ..data.chunk import chunk_size
from ..data.copies import pixel_digests
from ..data.frame import Box
from ..data.options import row_of_each
from ..data.skipping import FoundUnreadable, Skips
from ..runtime.machine import processes
from ..runtime.progress import TrainingBar
from ..storage.cache import cache_key
from ..storage.spool import Spool
from ..storage.view_cache import ViewCache
from .base import Model

# Images that are decoded and seen together: of those that a network sees, few are held at once.
_IMAGES, _SEEN_BY_A_NETWORK = 1024, 32


class Seen(NamedTuple):
    """Some images, where in the frame each lies, or None, their views, and places in the source."""

    images: Pixels
    boxes: list[Box] | None
    views: Tensor
    places: NDArray[np.int64]


def views_of(
    model: Model,
    source: ImageSource,
    *,
    device: torch.device,
    threads: int | None,
    bar: TrainingBar | None = None,
    shape: Shape | None = None,
    digest: "hashlib._Hash | None" = None,
    skips: Skips | None = None,
    whole: bool = False,
) -> Iterator[Seen]:
    """Some images at a time with their views, in the order of the source.

    Arguments:
        model: Sees them; prepared.
        source: The images.
        device: Where the model computes.
        threads: The most that decode at once.
        bar: Shows how far it is.
        shape: `(C, H, W)` that every image must have; None for that of the source.
        digest: Updated with the pixels.
        skips: Takes note of images that are unreadable, or of another shape; None to refuse them.
        whole: None may be missing: as soon as one is, the others are only tried.

    Raises:
        ApproxMassError: an image is unreadable, or of another shape, or more than may be skipped.
    """
    named, done = model.view_digest, 0
    most = _IMAGES if named is None else _SEEN_BY_A_NETWORK
    at_once = min(most, chunk_size(source.shape if shape is None else shape))
    with _cache(named, device) as cache:
        started = time.monotonic()
        for chunk in source.chunks(at_once, shape=shape, threads=threads):
            if skips is None:
                chunk.require_readable(source.name)
            else:
                skips.take(chunk)
            places = done + np.flatnonzero([error is None for error in chunk.errors])
            done += len(chunk.names)
            if not len(places) or (skips is not None and whole and skips.any):
                continue
            if digest is not None:
                digest.update(chunk.images.data)
            views = _seen(model, cache, chunk.images, chunk.boxes)
            yield Seen(chunk.images, chunk.boxes, views, places)
            if bar is not None:
                rate = done / (time.monotonic() - started)
                bar.show(done, len(source), f"{done:,} images  {rate:,.0f} images/s")


@dataclass(frozen=True, eq=False)
class Gathered:
    """What a fit keeps of images.

    Attributes:
        kept: What `Model.kept` left of the view of each, a row each.
        whole: Whole views of some of them.
        boxes: Where in the frame those lie whose views were spooled; None for all over.
        sha256: Of the region of the source, if it has one, and of all pixels.
        digests: Of the pixels of each image, `(N,)`, in the order of the source.
    """

    kept: Tensor
    whole: Tensor
    boxes: list[Box] | None
    sha256: str
    digests: NDArray[np.int64]


def gathered(
    model: Model,
    source: ImageSource,
    order: NDArray[np.int64],
    *,
    whole: NDArray[np.int64],
    spooled: slice,
    views_spool: Spool,
    images_spool: Spool,
    device: torch.device,
    threads: int | None,
    skips: Skips,
    progress: bool = False,
) -> Gathered:
    """What a fit keeps of all images, in an order of their own.

    Of the images themselves only a few are held at a time, unless they are what the model keeps.

    Arguments:
        model: Sees them; prepared.
        source: The images.
        order: `(N,)`, each of 0 to N-1 once: image `order[r]` becomes row `r`.
        whole: Rows of which the whole view is kept too.
        spooled: Rows of which the whole views go to
        views_spool: this, and the images to
        images_spool: this.
        device: Where the model computes.
        threads: The most that decode at once.
        skips: Takes note of images that are unreadable, or of another shape.
        progress: Show a bar on standard error, where a network sees the images.

    Raises:
        ApproxMassError: more images are unreadable than may be.
        FoundUnreadable: some are.
    """
    places, sha256 = row_of_each(source.name, order, len(source)), hashlib.sha256()
    if source.region is not None:  # the same pixels may be blank for two reasons
        sha256.update(source.region.text.encode())
    kept, some, begun = torch.empty(0), torch.empty(0), False
    where: dict[int, Box] = {}
    digests = np.empty(len(source), np.int64)
    place_of = np.full(len(source), -1)
    place_of[whole] = np.arange(len(whole))
    bar = TrainingBar("images") if progress and model.view_digest is not None else None
    with bar or contextlib.nullcontext():
        for images, boxes, views, where_from in views_of(
            model, source, device=device, threads=threads, bar=bar, digest=sha256, skips=skips,
            whole=True,
        ):  # fmt: skip
            rows = places[where_from]
            digests[where_from] = pixel_digests(images)
            fewer = model.kept(views, rows.tolist(), len(source))
            if not begun:
                begun = True
                kept = torch.empty((len(source), *fewer.shape[1:]), dtype=fewer.dtype)
                some = torch.empty((len(whole), *views.shape[1:]), dtype=views.dtype)
            kept[torch.from_numpy(rows)] = fewer
            wanted = place_of[rows] >= 0
            some[torch.from_numpy(place_of[rows][wanted])] = views[torch.from_numpy(wanted)]
            later = np.flatnonzero((rows >= spooled.start) & (rows < spooled.stop))
            those = (rows[later] - spooled.start).tolist()
            views_spool.put(those, views[torch.from_numpy(later)])
            images_spool.put(those, torch.from_numpy(images)[torch.from_numpy(later)])
            if boxes is not None:
                where |= {row: boxes[i] for row, i in zip(those, later.tolist(), strict=True)}
    if skips.any:
        raise FoundUnreadable(skips)
    found = [where[row] for row in range(len(where))] or None
    return Gathered(kept, some, found, sha256.hexdigest(), digests)


def _seen(
    model: Model, cache: ViewCache | None, images: Pixels, boxes: Sequence[Box] | None
) -> Tensor:
    if cache is None:
        return model.view(torch.from_numpy(images), boxes)
    where: Sequence[Box | None] = [None] * len(images) if boxes is None else boxes
    keys = [
        hashlib.sha256(f"{image.shape} {box}".encode() + image.tobytes()).digest()
        for image, box in zip(images, where, strict=True)
    ]
    found = cache.get(keys)
    new = [place for place, row in enumerate(found) if row is None]
    if new:
        some = None if boxes is None else [boxes[place] for place in new]
        made = model.view(torch.from_numpy(images[new]), some).numpy()
        cache.put([keys[place] for place in new], made)
        for place, row in zip(new, made, strict=True):
            found[place] = row
    return torch.from_numpy(np.stack([row for row in found if row is not None]))


@contextlib.contextmanager
def _cache(digest: str | None, device: torch.device) -> Iterator[ViewCache | None]:
    # Processes that train together see each image once anyway, and must not differ in what is new.
    if digest is None or processes() > 1:
        yield None
        return
    # The last digits are those of a version on a device.
    name = cache_key({"digest": digest, "torch": torch.__version__, "device": device.type})
    with ViewCache(name) as cache:
        yield cache
