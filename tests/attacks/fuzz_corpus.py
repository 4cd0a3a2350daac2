"""What a fuzzed reader is; what it begins with, made by seed when it runs; how that is spoilt."""

__all__ = [
    "SIDE",
    "Reader",
    "images",
    "mutated",
    "recrc",
    "refusing",
    "spoilt_json",
    "spoilt_text",
]

import contextlib
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from approxmass.data.unreadable import UnreadableError
from approxmass.errors import ApproxMassError
from approxmass.serve.limits import RequestRefused

Spoil = Callable[[bytes, list[bytes], random.Random], bytes]
# Whether an input was read; what is refused raises.
Read = Callable[[bytes, random.Random, Path], bool]
# Of the images.
SIDE = 9


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        name: Of it.
        corpus: What its inputs are made of; empty where this machine lacks a library.
        spoil: Makes an input of one of them.
        read: Reads an input: True, or False or an `ApproxMassError` where it is refused.
        share: Of all inputs, beside 1 of an image format.
        block: Inputs for one process.
    """

    name: str
    corpus: list[bytes]
    spoil: Spoil
    read: Read
    share: float = 1.0
    block: int = 10**9


def refusing(read: Callable[[bytes, random.Random, Path], Any]) -> Read:
    def reading(data: bytes, r: random.Random, folder: Path) -> bool:
        try:
            return read(data, r, folder) is not False
        except (ApproxMassError, UnreadableError, RequestRefused):
            return False

    return reading


_MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "apng": ("L", "RGB", "RGBA", "P"),
    "jpeg": ("L", "RGB", "CMYK"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "gif": ("L", "P", "RGB"),
    "tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB"),
    "webp": ("RGB", "RGBA"),
    "ppm": ("1", "L", "RGB", "I;16", "F"),
    "avif": ("RGB", "RGBA"),
    "jpeg2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "ico": ("RGBA",),
    "icns": ("RGBA",),
    "tga": ("1", "L", "P", "RGB", "RGBA"),
    "pcx": ("1", "L", "P", "RGB"),
    "sgi": ("L", "RGB", "RGBA"),
    "dds": ("RGB", "RGBA"),
    "im": ("1", "L", "RGB", "CMYK"),
    "msp": ("1",),
    "xbm": ("1",),
    "qoi": ("RGB", "RGBA"),
    "heif": ("L", "RGB", "RGBA"),
}
_MORE: dict[str, list[dict[str, Any]]] = {
    "jpeg": [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}],
    "tiff": [
        {"compression": kind}
        for kind in (None, "tiff_lzw", "tiff_deflate", "packbits", "group4", "jpeg", "zstd")
    ],
    "gif": [{}, {"interlace": 1}],
    "webp": [{}, {"lossless": True}],
    "tga": [{}, {"compression": "tga_rle"}],
}
_SEVERAL = ("apng", "gif", "tiff", "webp", "avif")
_WIDTHS = (1, 2, 4, 8)
_EXTREME = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1,
            2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
_WORDS = (
    "NaN", "Infinity", "-Infinity", "null", "true", "{}", "[]", "[[", "]]", '"', "\\", "\\ud800",
    "1e999", "-1e999", "1e-999", "-0", "9" * 400, "[" * 3000, '{"a":' * 500, "\0", "\ufeff", ",",
    ":", "\n", "\r\n", ";", "\t", "'", "0x10", "1_000", "é", "\U0001f600", "../", "/", "data:",
)  # fmt: skip


def _picture(seed: int, mode: str, side: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    height = int(rng.integers(1, side + 1))
    noise = Image.fromarray(rng.integers(0, 256, (height, side, 4), dtype=np.uint8))
    if mode in ("I;16", "I"):
        return Image.fromarray(rng.integers(0, 65536, (height, side)).astype(
            np.uint16 if mode == "I;16" else np.int32))  # fmt: skip
    if mode == "F":
        return Image.fromarray(rng.random((height, side), dtype=np.float32))
    if mode == "LAB":
        return Image.frombytes("LAB", noise.size, noise.convert("RGB").tobytes())
    return noise.convert("RGB").convert(mode) if mode not in ("RGBA", "LA") else noise.convert(mode)


def images(kind: str) -> list[bytes]:
    """Small images of a kind, in all its modes; none where this machine cannot write it."""
    found = []
    exif = Image.Exif()
    exif[0x0112] = 6
    for seed, mode in enumerate(_MODES[kind]):
        for more in _MORE.get(kind, [{}]):
            for several in (False, True) if kind in _SEVERAL else (False,):
                side = 16 if kind in ("ico", "icns") else SIDE
                frames = [_picture(seed + 50 * k, mode, side) for k in range(3)]
                frames = [each.resize((side, side)) for each in frames]
                options = dict(more)
                if several:
                    options |= {"save_all": True, "append_images": frames[1:]}
                if kind in ("png", "apng", "jpeg", "webp", "tiff") and seed % 2:
                    options["exif"] = exif
                data = io.BytesIO()
                try:
                    _save(frames[0], data, kind, options)
                except Exception:  # a mode with a compression that it does not go with
                    continue
                found.append(data.getvalue())
    return found


def _save(image: Image.Image, data: io.BytesIO, kind: str, options: dict[str, Any]) -> None:
    if kind == "heif":
        import pillow_heif

        pillow_heif.from_pillow(image).save(data, quality=50)
    else:
        image.save(data, {"apng": "png"}.get(kind, kind), **options)


def mutated(data: bytes, others: list[bytes], r: random.Random) -> bytes:
    """Spoilt a little: bits, lengths, pieces; the same for the same state of `r`."""
    found = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 2, 3, 6))):
        if not found:
            return bytes(found)
        place, what = r.randrange(len(found)), r.random()
        if what < 0.25:
            found[place] ^= 1 << r.randrange(8)
        elif what < 0.35:
            found[place] = r.choice((0, 1, 127, 128, 255, r.randrange(256)))
        elif what < 0.65:  # a number, as often as not in the header
            width = r.choice(_WIDTHS)
            place = r.randrange(min(len(found), 64)) if r.random() < 0.5 else place
            number = r.choice(_EXTREME) % (1 << 8 * width)
            found[place : place + width] = number.to_bytes(width, r.choice(("big", "little")))
        elif what < 0.73:
            del found[place:]
        elif what < 0.8:
            del found[place : place + r.randrange(1, 40)]
        elif what < 0.88:
            found[place:place] = found[place : place + r.randrange(1, 40)] * r.choice((1, 2, 30))
        elif what < 0.94:
            other = r.choice(others)
            found[place:] = other[r.randrange(len(other) + 1) :]
        else:
            found[place:place] = r.randbytes(r.randrange(1, 20))
    return bytes(found)


def recrc(data: bytes, r: random.Random) -> bytes:
    """A PNG whose checksums are made right again, and whose rows may be packed anew."""
    found, at = data[:8], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind == b"IDAT" and r.random() < 0.5:
            with contextlib.suppress(zlib.error):
                body = zlib.compress(mutated(zlib.decompress(body), [b"\0" * 40], r))
        found += struct.pack(">I", len(body)) + kind + body
        found += struct.pack(">I", zlib.crc32(kind + body))
        at += 12 + length
    return found


def spoilt_text(data: bytes, others: list[bytes], r: random.Random) -> bytes:
    """Text with words put in that a parser may stumble over, or bytes as of any other file."""
    if r.random() < 0.4:
        return mutated(data, others, r)
    found = bytearray(data)
    for _ in range(r.choice((1, 1, 2, 4))):
        place = r.randrange(len(found) + 1)
        word = r.choice(_WORDS).encode(errors="surrogatepass")
        found[place : place + r.choice((0, 0, 1, 8))] = word
    return bytes(found)


def spoilt_json(value: Any, r: random.Random) -> Any:
    """A value of JSON, in one place of which is another, or nothing."""
    value = json.loads(json.dumps(value))
    at, key, here = None, None, value
    while isinstance(here, dict | list) and here and (at is None or r.random() < 0.85):
        at, key = here, r.choice(list(here) if isinstance(here, dict) else range(len(here)))
        here = at[key]
    if at is None:
        return value
    if r.random() < 0.2:
        del at[key]
        return value
    at[key] = r.choice(
        (None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 0.5, 1e308, float("nan"), float("inf"),
         "", "x", "auto", "\ud800", [], [[]], {}, {"x": 1}, [here], {"x": here}, str(here))
    )  # fmt: skip
    return value
