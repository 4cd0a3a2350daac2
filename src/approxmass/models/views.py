"""What a model keeps of all images of a fit: made as they stream by, and taken from the cache."""

__all__ = ["views_of"]

import contextlib
import hashlib
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arrays import Pixels, Shape
from ..data import ImageSource
from ..data.options import row_of_each
from ..runtime.machine import processes
from ..runtime.progress import TrainingBar
from ..storage.cache import cache_key
from ..storage.view_cache import ViewCache
from .base import Model

# Images that are decoded and seen together: of those that a network sees, few are held at once.
_IMAGES, _SEEN_BY_A_NETWORK = 1024, 32


def views_of(
    model: Model,
    source: ImageSource,
    order: NDArray[np.int64],
    *,
    device: torch.device,
    threads: int | None,
    progress: bool = False,
    shape: Shape | None = None,
) -> tuple[Tensor, str]:
    """A row an image, in an order of their own, and the SHA-256 of all pixels.

    Of the images themselves only a few are held at a time, unless they are what the model keeps.

    Arguments:
        model: Sees them; prepared.
        source: The images.
        order: `(N,)`, each of 0 to N-1 once: image `order[r]` becomes row `r`.
        device: Where the model computes.
        threads: The most that decode at once.
        progress: Show a bar on standard error, where a network sees the images.
        shape: `(C, H, W)` that every image must have; None for that of the source.

    Raises:
        ApproxMassError: an image is unreadable, or of another shape.
    """
    places, sha256 = row_of_each(source.name, order, len(source)), hashlib.sha256()
    rows, done = torch.empty(0), 0
    digest = model.view_digest
    at_once = _IMAGES if digest is None else _SEEN_BY_A_NETWORK
    bar = TrainingBar("images") if progress and digest is not None else None
    with _cache(digest, device) as cache, bar or contextlib.nullcontext():
        started = time.monotonic()
        for chunk in source.chunks(at_once, shape=shape, threads=threads):
            chunk.require_readable(source.name)
            sha256.update(chunk.images.data)
            views = _seen(model, cache, chunk.images)
            if done == 0:
                rows = torch.empty((len(source), *views.shape[1:]), dtype=views.dtype)
            rows[torch.from_numpy(places[done : done + len(views)])] = views
            done += len(views)
            if bar is not None:
                rate = done / (time.monotonic() - started)
                bar.show(done, len(source), f"{done:,} images  {rate:,.0f} images/s")
    return rows, sha256.hexdigest()


def _seen(model: Model, cache: ViewCache | None, images: Pixels) -> Tensor:
    if cache is None:
        return model.view(torch.from_numpy(images))
    keys = [
        hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest() for image in images
    ]
    found = cache.get(keys)
    new = [place for place, row in enumerate(found) if row is None]
    if new:
        made = model.view(torch.from_numpy(images[new])).numpy()
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
