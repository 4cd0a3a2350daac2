"""Pillow kept quiet and careful, in all threads at once; how large an image may be.

What the header of an image says is held against limits before a pixel of it is decoded.
"""

__all__ = ["LARGEST", "check_header", "pillow_guard", "room_for", "strips"]

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from PIL import Image

from ..runtime.shared import SharedChange
from .unreadable import UnreadableError

# Bytes of an image as Pillow holds it: 64 million pixels in colour. Twice as much is in use at
# most, and what other threads decode meanwhile waits, where it would be more than four times.
LARGEST = 256_000_000
_TOGETHER = 4 * LARGEST
# Pixels that are decoded, of all passes that a file asks for: its scans, the frames of its pages.
_MOST_WORK = 1 << 30
# Bytes of a pixel as Pillow holds it; of all other modes 4.
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_SCAN = b"\xff\xda"  # starts one of a JPEG
# Pixels of a strip of a large image.
_STRIP = 1 << 21


def _guarded() -> Callable[[], None]:
    """Make Pillow refuse decompression bombs, and keep its other warnings to itself."""
    filters = warnings.catch_warnings()
    filters.__enter__()
    warnings.filterwarnings("ignore", module=r"PIL\b")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    return lambda: filters.__exit__(None, None, None)


# What Python's warnings are filtered by is one for all threads.
pillow_guard = SharedChange(_guarded)


def check_header(image: Image.Image, data: bytes | None = None) -> None:
    """Refuse an image that is too large, by its header and, of a JPEG, by the number of its scans.

    Arguments:
        image: Just opened.
        data: The file, where it is at hand.

    Raises:
        UnreadableError: it is.

    Example:
        >>> check_header(Image.new("L", (8000, 8000)))
    """
    pixels = image.width * image.height
    if pixels > (Image.MAX_IMAGE_PIXELS or pixels):
        raise UnreadableError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller")
    if _bytes_of(image) > LARGEST:
        raise UnreadableError(
            f"has {image.width:,} x {image.height:,} pixels of {_BYTES.get(image.mode, 4)} bytes, "
            f"which are more than {LARGEST:,} bytes: make it smaller"
        )
    if image.format in ("JPEG", "MPO") and data is not None:
        scans = data.count(_SCAN)
        if scans * pixels > _MOST_WORK:
            raise UnreadableError(
                f"is a JPEG of {scans:,} scans, each of all its pixels: save it again"
            )


def _bytes_of(image: Image.Image) -> int:
    return image.width * image.height * _BYTES.get(image.mode, 4)


class _Room:
    """Bytes that are decoded at a time by all threads: who finds none left waits."""

    def __init__(self) -> None:
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + count <= _TOGETHER)
            self._taken += count
        try:
            yield
        finally:
            with self._changed:
                self._taken -= count
                self._changed.notify_all()


_room = _Room()


def room_for(image: Image.Image) -> AbstractContextManager[None]:
    """Wait until there is room to decode an image, and hold it meanwhile."""
    return _room.taken(_bytes_of(image))


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image from top to bottom, each strip with its first row; a small one is one strip.

    Example:
        >>> [(top, strip.size) for top, strip in strips(Image.new("L", (2048, 1536)))]
        [(0, (2048, 1024)), (1024, (2048, 512))]
    """
    rows = max(1, _STRIP // max(1, image.width))
    if image.height <= rows:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))
