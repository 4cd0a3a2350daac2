"""Which formats of image files are opened; of those that are none, what they are."""

__all__ = ["image_suffixes", "opened", "what_it_is"]

import functools
import io
import stat
from pathlib import Path

from PIL import Image

from ..runtime.extras import has_extra
from .unreadable import DAMAGED, UnreadableError

# Of the formats that Pillow knows, those that are not opened: EPS, for which Ghostscript runs a
# program, WMF, which only Windows draws, and what Pillow knows by name but cannot decode.
_LEFT_OUT = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "WMF"}
_HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_LOOKED_AT = 256
# What files that are called like images begin with, and what they are.
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript program"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1a\x45\xdf\xa3", "a video"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
)
_DICOM_AT = 128
_SAVE = "save it as PNG or JPEG, or leave it out"


@functools.cache
def image_suffixes() -> frozenset[str]:
    """What names of images end in, in small letters."""
    known = Image.registered_extensions().items()  # which loads what reads them
    read = {suffix for suffix, kind in known if kind in Image.OPEN and kind not in _LEFT_OUT}
    return frozenset(read | _HEIF_SUFFIXES)


def opened(item: bytes | Path) -> Image.Image:
    """An encoded image of which only the header has been read.

    Raises:
        UnreadableError: it is HEIC, and the extra `heif` is not there.
        OSError: there is no image in it; Pillow's readers raise others too.
    """
    if isinstance(item, Path) and not stat.S_ISREG(item.stat().st_mode):
        raise OSError(f"{item} is not a file")  # a pipe would be waited for, for ever
    try:
        return _by_pillow(item)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise
    except Exception:
        if _is_heif(_start_of(item)):
            return _heif(item)
        raise


def _by_pillow(item: bytes | Path) -> Image.Image:
    Image.init()
    formats = [kind for kind in Image.ID if kind not in _LEFT_OUT]
    image = Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=formats)
    if isinstance(item, Path):
        image.filename = ""  # by which Pillow maps what is not packed: cut short, it would end us
    return image


def _heif(item: bytes | Path) -> Image.Image:
    if not has_extra("heif"):
        raise UnreadableError(
            "is HEIC, which needs pillow-heif: pip install pillow-heif, or save it as JPEG",
            code="missing-library",
        )
    from pillow_heif import HeifImageFile

    # Pillow itself is left as the caller has it: nothing is registered.
    image: Image.Image = HeifImageFile(  # type: ignore[no-untyped-call]
        io.BytesIO(item) if isinstance(item, bytes) else item
    )
    return image


def what_it_is(item: object) -> str:
    """Why what cannot be decoded cannot be used, worded to follow its name.

    Example:
        >>> what_it_is(b"%PDF-1.7")
        'is a PDF document, not an image: save it as PNG or JPEG, or leave it out'
    """
    start = _start_of(item) if isinstance(item, bytes | Path) else b""
    if start[_DICOM_AT : _DICOM_AT + 4] == b"DICM":
        return f"is DICOM, which is not read: {_SAVE}"
    if start[4:8] == b"ftyp" and start[8:11] in (b"mp4", b"iso", b"qt ", b"M4V", b"3gp"):
        return f"is a video, not an image: {_SAVE}"
    head = start.lstrip().lower()
    known = [what for sign, what in _OTHERS if head.startswith(sign.lower())]
    return f"is {known[0]}, not an image: {_SAVE}" if known else DAMAGED


def _is_heif(start: bytes) -> bool:
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def _start_of(item: bytes | Path) -> bytes:
    if isinstance(item, bytes):
        return item[:_LOOKED_AT]
    with item.open("rb") as file:
        return file.read(_LOOKED_AT)
