"""Pillow kept quiet and careful, in all threads at once; how large an image may be.

What the header of an image says is held against limits before a pixel of it is decoded.
"""

__all__ = ["LARGEST", "check_header", "check_size", "pillow_guard", "room_for", "strips"]

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from PIL import Image

from ..runtime.shared import SharedChange
from .unreadable import UnreadableError

# Bytes that decoding an image and making it 8-bit may take. All threads together take no more than
# twice as many: who finds no room waits.
LARGEST = 512_000_000
_TOGETHER = 2 * LARGEST
# Bytes of a pixel as Pillow holds it, of other modes 4; of a large image two such are held at most,
# and more by what decodes these formats (measured).
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_TAKEN = {"AVIF": 10, "GIF": 14, "HEIF": 10, "JPEG2000": 20, "PROGRESSIVE": 10, "WEBP": 17}
# What these make of few bytes takes a microsecond or more a pixel, or is bounded by nothing.
_SLOW = {"MSP", "bmp_rle", "qoi"}
_MOST_SLOW = 1 << 21
_UNBOUNDED = {"fits_gzip"}
# Pixels that a JPEG asks for in all its scans.
_MOST_SCANNED = 1 << 30
_SCAN = b"\xff\xda"  # starts one
# Pixels of a strip of a large image.
_STRIP = 1 << 19


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
    """Refuse an image whose header says that decoding it takes too much memory or time.

    Arguments:
        image: Just opened.
        data: The file, where it is at hand: of a JPEG its scans are counted.

    Raises:
        UnreadableError: it does.

    Example:
        >>> check_header(Image.new("L", (8000, 8000)))
    """
    check_size(image.width, image.height, _taken_by(image), image.format)
    pixels = image.width * image.height
    codecs = {tile[0] for tile in getattr(image, "tile", None) or ()}
    if codecs & _UNBOUNDED or (codecs & _SLOW and pixels > _MOST_SLOW):
        raise UnreadableError("is packed in a way that is slow to undo: save it as PNG")
    if image.format in ("JPEG", "MPO") and data is not None:
        scans = data.count(_SCAN)
        if scans * pixels > _MOST_SCANNED:
            raise UnreadableError(
                f"is a JPEG of {scans:,} scans, each of all pixels: save it again"
            )


def check_size(width: int, height: int, taken: int, kind: str | None) -> None:
    """Refuse an image of so many pixels.

    Arguments:
        width: In pixels.
        height: In pixels.
        taken: Bytes that decoding takes, a pixel.
        kind: Its format.

    Raises:
        UnreadableError: they are too many.
    """
    pixels = width * height
    if pixels > (Image.MAX_IMAGE_PIXELS or pixels):
        raise UnreadableError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller")
    if pixels * taken > LARGEST:
        raise UnreadableError(
            f"has {width:,} x {height:,} pixels, for which decoding {kind or 'it'} takes more than "
            f"{LARGEST // 10**6} MB: make it smaller"
        )


def _taken_by(image: Image.Image) -> int:
    """Bytes that decoding an image takes a pixel, at most."""
    stored, kind = _STORED.get(image.mode, 4), image.format or ""
    if image.info.get("progressive"):
        kind = "PROGRESSIVE"
    taken = max(2 * stored, stored + 4 * (image.mode == "P"))
    if stored == 4 or kind != "GIF":
        taken = max(taken, _TAKEN.get(kind, 0))
    return taken


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
    return _room.taken(image.width * image.height * _taken_by(image))


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image from top to bottom, each strip with its first row; a small one is one strip.

    Example:
        >>> [(top, strip.size) for top, strip in strips(Image.new("L", (2048, 384)))]
        [(0, (2048, 256)), (256, (2048, 128))]
    """
    rows = max(1, _STRIP // max(1, image.width))
    if image.height <= rows:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))
