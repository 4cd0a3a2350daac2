"""PNG files held against the checksums in them, and the ordinary ones decoded quickly.

Neither decoder looks at all of them: Pillow passes over some, pyspng over all.
"""

__all__ = ["SIGNATURE", "PngHeader", "check_png", "ordinary_pixels", "png_header"]

import math
import struct
import zlib
from typing import NamedTuple

from PIL import Image

from ..arrays import Pixels
from .unreadable import DAMAGED, UnreadableError

try:  # quicker than Pillow, but not there for every system
    import pyspng
except ImportError:
    pyspng = None

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START = SIGNATURE + b"\0\0\0\rIHDR"
_END = b"\0\0\0\0IEND\xaeB`\x82"
# Up to the first chunk's data: start, width, height, bits, colours, three methods, checksum of
# the header, then the length and the kind of that chunk.
_HEADER = struct.Struct(">16sIIBBBBBII4s")
_CHUNK = struct.Struct(">I4s")  # the length of its data, its kind
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each kind of colours
_PLAIN = {b"IHDR", b"IDAT", b"IEND"}
# After the rows: two checksums, of them and of the chunk, that pyspng does not look at.
_TAIL = bytes(8) + _END
_SMALL = 4096  # unpacked, these many bytes are 4 MB at most
_LARGE = (
    1 << 25
)  # rows of more bytes are checked but not kept: Pillow decodes them with less memory
_AT_ONCE = 1 << 20
_STORED = 65535  # bytes of an uncompressed block, at most
_STORED_BLOCK = struct.Struct("<BHH")  # whether it is the last, its length, the same inverted
# Of an interlaced image, the seven passes: first column and row, steps between them.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


class PngHeader(NamedTuple):
    """What a PNG says of itself: sides in pixels, bits of a number, and its kind of colours."""

    width: int
    height: int
    bits: int
    colours: int

    @property
    def grey(self) -> bool:
        """With or without transparency."""
        return self.colours in (0, 4)

    @property
    def stored(self) -> int:
        """Bytes of a pixel as Pillow holds it."""
        if self.colours in (2, 4, 6):
            return 4
        return 2 if self.bits == 16 else 1


def png_header(data: bytes) -> PngHeader | None:
    """The header of a PNG; None of any other file.

    Example:
        >>> png_header(b"GIF89a") is None
        True
    """
    if len(data) < len(_START) + 10 or not data.startswith(_START):
        return None
    return PngHeader(*struct.unpack_from(">IIBB", data, len(_START)))


def ordinary_pixels(data: bytes) -> Pixels | None:
    """Pixels `(H, W)` or `(H, W, 3)` of an 8-bit grey or RGB PNG; None for any other file.

    Pillow takes longer for a small one, and holds up the other threads meanwhile. PNG
    loses nothing, so that another decoder finds the same pixels.

    Raises:
        UnreadableError: It is damaged, whatever its kind.

    Example:
        >>> ordinary_pixels(b"GIF89a") is None
        True
    """
    if not data.startswith(SIGNATURE):
        return None
    rows = _simple_rows(data)
    if rows is None:
        plain, rows = _walk(data)
        if not plain:
            return None
    if pyspng is None or rows is None:
        return None
    try:
        pixels: Pixels = pyspng.load(_uncompressed(data, rows))
    except Exception as error:  # a filter that there is not
        raise UnreadableError(DAMAGED) from error
    return pixels


def check_png(data: bytes) -> None:
    """Refuse a PNG file whose checksums show damage, or that breaks off.

    Raises:
        UnreadableError: It is damaged.
    """
    if _simple_rows(data) is None:
        _walk(data)


def _simple_rows(data: bytes) -> bytes | None:
    """Rows of an undamaged image whose pixels are in one chunk, as nearly all small ones are."""
    if len(data) < _HEADER.size:
        return None
    start, width, height, bits, colours, packed, filtered, laced, checksum, length, kind = (
        _HEADER.unpack_from(data)
    )
    end = _HEADER.size + length
    if (
        start != _START
        or kind != b"IDAT"
        or bits != 8
        or colours not in (0, 2)
        or packed | filtered | laced
        or data[end + 4 :] != _END
        or zlib.crc32(data[12:29]) != checksum
        or zlib.crc32(data[37:end]) != int.from_bytes(data[end : end + 4])
        or width * height > (Image.MAX_IMAGE_PIXELS or math.inf)
    ):
        return None
    return _inflated(data[_HEADER.size : end], height * (1 + width * _CHANNELS[colours]))


def _walk(data: bytes) -> tuple[bool, bytes | None]:
    """Whether an undamaged file is ordinary, and its rows; no rows where it is too large."""
    kinds, compressed = set(), []
    at, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        if at + _CHUNK.size > len(data):
            raise UnreadableError(DAMAGED)
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + _CHUNK.size + length
        if zlib.crc32(data[at + 4 : end]).to_bytes(4) != data[end : end + 4]:
            raise UnreadableError(DAMAGED)
        kinds.add(kind)
        if kind == b"IDAT":
            compressed.append(data[at + _CHUNK.size : end])
        at = end + 4
    if data[: len(_START)] != _START:
        raise UnreadableError(DAMAGED)
    width, height, bits, colours, *methods = struct.unpack_from(">IIBBBBB", data, len(_START))
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        return False, None
    if colours not in _CHANNELS or methods[2] > 1:
        raise UnreadableError(DAMAGED)
    size = _rows_size(width, height, bits * _CHANNELS[colours], bool(methods[2]))
    rows = _inflated(b"".join(compressed), size)
    plain = kinds <= _PLAIN and bits == 8 and colours in (0, 2) and not any(methods)
    return plain, rows


def _rows_size(width: int, height: int, bits: int, laced: bool) -> int:
    """Bytes of all rows, each with the filter before it."""
    if not laced:
        return height * (1 + (width * bits + 7) // 8)
    total = 0
    for column, row, right, down in _PASSES:
        across = (width - column + right - 1) // right
        rows = (height - row + down - 1) // down
        total += rows * (1 + (across * bits + 7) // 8) if across > 0 and rows > 0 else 0
    return total


def _inflated(compressed: bytes, size: int) -> bytes | None:
    """Rows of so many bytes, and not one more or fewer; their checksum is looked at.

    None of many bytes, which are looked at in the same way.
    """
    try:
        if len(compressed) < _SMALL:  # so that what comes out is not much either
            rows, whole = zlib.decompress(compressed), True
        else:
            unpacking = zlib.decompressobj()
            if size > _LARGE:
                _check_large(unpacking, compressed, size)
                return None
            rows = unpacking.decompress(compressed, size + 1)
            whole = unpacking.eof
    except zlib.error as error:
        raise UnreadableError(DAMAGED) from error
    if not whole or len(rows) != size:
        raise UnreadableError(DAMAGED)
    return rows


def _check_large(unpacking: "zlib._Decompress", compressed: bytes, size: int) -> None:
    """As `_inflated`, of which nothing is kept."""
    found, rest = 0, compressed
    while not unpacking.eof and found <= size:
        some = len(unpacking.decompress(rest, _AT_ONCE))
        found, rest = found + some, unpacking.unconsumed_tail
        if not some and not rest:
            break
    if not unpacking.eof or found != size:
        raise UnreadableError(DAMAGED)


def _uncompressed(data: bytes, rows: bytes) -> bytes:
    """The file with its rows uncompressed, so that they are unpacked once and not twice."""
    if len(rows) <= _STORED:
        body = _STORED_BLOCK.pack(1, len(rows), len(rows) ^ _STORED)
        chunk = _CHUNK.pack(len(rows) + 11, b"IDAT")
        return b"".join((data[:33], chunk, b"\x78\x01", body, rows, _TAIL))
    blocks = [b"\x78\x01"]
    for start in range(0, len(rows), _STORED):
        block = rows[start : start + _STORED]
        last = start + _STORED >= len(rows)
        blocks += (_STORED_BLOCK.pack(last, len(block), len(block) ^ _STORED), block)
    body = b"".join(blocks)
    return b"".join((data[:33], _CHUNK.pack(len(body) + 4, b"IDAT"), body, _TAIL))
