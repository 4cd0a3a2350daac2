"""One image of any encoding, or a block of an array, to 8-bit pixels.

Every road ends in the same few lines, so that an image has the same pixels whichever it took.
"""

__all__ = [
    "Encoded",
    "UnreadableError",
    "channels_first",
    "decode",
    "resize",
    "to_pillow",
    "to_uint8",
]

import io
import math
import stat
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..arrays import Pixels
from ..errors import Code

try:  # quicker than Pillow, but not there for every system
    import pyspng
except ImportError:
    pyspng = None

# Where Pillow keeps what can hold the orientation of a PNG image.
_ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type APP1"}

_PNG = b"\x89PNG\r\n\x1a\n"
# What follows the size in the header of ordinary PNG images: 8 bits, grey or RGB, rows in order.
_ORDINARY = {b"\x08\x00\x00\x00\x00", b"\x08\x02\x00\x00\x00"}
_PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"IEND"}
_CHUNK = struct.Struct(">I4s")  # the length of its data, its kind
_DAMAGED = "cannot be decoded (truncated, corrupt, or of an unknown kind): replace or remove it"

Encoded = bytes | Path | Image.Image | None


class UnreadableError(Exception):
    """Why an image cannot be used, worded to follow its name.

    Attributes:
        index: Its place in a block.
        code: The kind of mistake, as in `ApproxMassError`.
    """

    def __init__(self, reason: str, *, index: int = 0, code: Code = "bad-image") -> None:
        super().__init__(reason)
        self.index = index
        self.code = code


def to_uint8(block: NDArray[Any]) -> Pixels:
    """8-bit pixels of images; always a new C-ordered array.

    Arguments:
        block: `(k, ...)`: uint8, bool, floats in [0, 1], or other integers in [0, 255].

    Raises:
        UnreadableError: A value is out of range; it carries the image's index.

    Example:
        >>> to_uint8(np.array([[0.0, 0.5, 1.0]]))
        array([[  0, 128, 255]], dtype=uint8)
    """
    kind = block.dtype.kind
    if kind == "b":
        return block.astype(np.uint8, order="C") * np.uint8(255)
    if block.dtype == np.uint8:
        return block.copy(order="C")
    top = 1 if kind == "f" else 255
    # NaN fails every comparison; the slow search for the culprit only runs once there is one.
    if not (block.min() >= 0 and block.max() <= top):
        bad = ~((block >= 0) & (block <= top))
        value = block[bad][0]
        if not np.isfinite(value):
            cure = "replace NaN and infinite values"
        elif value < 0:
            cure = f"bring them to the range 0 to {top}"
        elif kind == "f":
            cure = "float pixels go from 0 to 1, so divide by 255 (or convert to uint8)"
        else:
            cure = "8-bit pixels go from 0 to 255, so rescale them"
        index = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        raise UnreadableError(f"has the value {value:g}: {cure}", index=index)
    return (np.rint(block * 255) if kind == "f" else block).astype(np.uint8, order="C")


def channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """View of `array` as `(N, C, H, W)`, with C = 1 or 3.

    Arguments:
        array: `(H, W)` (one image), `(N, H, W)`, `(N, C, H, W)` or `(N, H, W, C)`; channels
            first wins where both would do.

    Raises:
        UnreadableError: Any other shape, no pixels at all, or a dtype that holds none.

    Example:
        >>> channels_first(np.zeros((5, 28, 30, 3))).shape
        (5, 3, 28, 30)
    """
    if array.dtype.kind == "O":
        raise UnreadableError(
            "holds Python objects, as arrays of mixed sizes do: give one size to all, "
            "or a list of Pillow images and a size"
        )
    if array.dtype.kind not in "buif":
        raise UnreadableError(f"holds {array.dtype} values: give uint8, or floats in [0, 1]")
    shape = array.shape
    if 0 in shape:
        raise UnreadableError(f"holds no images (shape {shape})", code="bad-source")
    if array.ndim == 2:
        return array[None, None]
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and shape[1] in (1, 3):
        return array
    if array.ndim == 4 and shape[3] in (1, 3):
        return np.moveaxis(array, 3, 1)
    raise UnreadableError(
        f"has shape {shape}: give (N,H,W), (N,C,H,W) or (N,H,W,C), with 1 or 3 channels",
        code="wrong-shape",
    )


def decode(item: Encoded, size: int | None = None) -> Pixels:
    """Pixels `(C, H, W)` of one encoded image, upright, resized to `size` x `size` if given.

    Modes 1, L, LA, I;16, I and F become grey (C = 1), all others RGB (C = 3). 16 bits are scaled
    to 8. Call it within `pillow_guard()`.

    Raises:
        UnreadableError: There is no image in it, or too large a one.

    Example:
        >>> decode(Image.new("LA", (4, 2), (7, 255)), size=3).tolist()
        [[[7, 7, 7], [7, 7, 7], [7, 7, 7]]]
    """
    try:
        if isinstance(item, Path):
            if not stat.S_ISREG(item.stat().st_mode):  # a pipe would be waited for, for ever
                raise UnreadableError("is not a file: remove it")
            item = item.read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be opened ({error.strerror})") from error
    if not item:
        raise UnreadableError("is empty (0 bytes): copy it again or remove it")
    try:
        if pyspng is not None and isinstance(item, bytes) and _is_ordinary_png(item):
            pixels: Pixels = pyspng.load(item)
            return _pixels(pixels if size is None else _resized(Image.fromarray(pixels), size))
        image = Image.open(io.BytesIO(item)) if isinstance(item, bytes) else item
        image.load()
        # Looking for an orientation takes as long as decoding a small image, and most have none.
        if image.format != "PNG" or _ORIENTED & image.info.keys():
            with suppress(Exception):  # damaged EXIF data, of which Pillow makes many errors
                image = ImageOps.exif_transpose(image)
        image = _eight_bit(image)
        return _pixels(image if size is None else _resized(image, size))
    except UnreadableError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
        raise UnreadableError(f"has more than {limit}: make it smaller") from error
    # Damaged files make Pillow's readers raise nearly anything, and none of it reads well.
    except Exception as error:
        raise UnreadableError(_DAMAGED) from error


def _is_ordinary_png(data: bytes) -> bool:
    """Whether this is an undamaged PNG image of no more than 8-bit grey or RGB pixels.

    Pillow takes longer for a small one, and holds up the other threads meanwhile. PNG
    loses nothing, so that another decoder finds the same pixels; it does not look at the checksums.
    """
    if data[:16] != _PNG + b"\0\0\0\rIHDR" or data[24:29] not in _ORDINARY:
        return False
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        return False
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        if at + _CHUNK.size > len(data):
            return False
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + _CHUNK.size + length
        checksum = int.from_bytes(data[end : end + 4])
        if kind not in _PLAIN_CHUNKS or zlib.crc32(data[at + 4 : end]) != checksum:
            return False
        at = end + 4
    return True


def resize(images: Pixels, size: int) -> Pixels:
    """Images `(k, C, H, W)` as `(k, C, size, size)`, each by Pillow like the encoded ones.

    Example:
        >>> resize(np.array([[[[0, 100], [0, 100]]]], np.uint8), 3)[0, 0, 0].tolist()
        [0, 50, 100]
    """
    if images.shape[2:] == (size, size):
        return images
    planes = images[:, 0] if images.shape[1] == 1 else np.moveaxis(images, 1, 3)
    result = np.empty((*images.shape[:2], size, size), np.uint8)
    for i, plane in enumerate(planes):
        result[i] = _pixels(_resized(Image.fromarray(plane), size))
    return result


def to_pillow(image: Pixels) -> Image.Image:
    """Pixels `(C, H, W)` as an image, grey or RGB.

    Example:
        >>> to_pillow(np.zeros((3, 2, 5), np.uint8)).size
        (5, 2)
    """
    return Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2))


def _eight_bit(image: Image.Image) -> Image.Image:
    """`image` in mode L or RGB."""
    if image.mode == "F":
        return Image.fromarray(to_uint8(np.asarray(image)))
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableError("has values outside 0 to 65535: save it with 8 or 16 bits")
        # Pillow's own conversion to L clips at 255 instead of scaling.
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _resized(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _pixels(image: Image.Image | Pixels) -> Pixels:
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
