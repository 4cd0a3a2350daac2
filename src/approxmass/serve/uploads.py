"""Bodies of requests, from the wire to pixels: in memory only, and never more than the limits."""

__all__ = [
    "ImagesInJson",
    "Receiver",
    "Upload",
    "check_compression",
    "check_kind",
    "images_of",
    "kind_of",
    "of_all",
    "require_some",
    "uploads_of",
]

import base64
import binascii
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from ..data import Chunk
from ..data.formats import opened
from ..data.guard import pillow_guard
from ..data.source import ImageSource
from ..detector import Detector
from .json_body import JSON, check_count, named, parsed
from .limits import Limits, RequestRefused

# What browsers and cameras make. Pillow knows more kinds, one of which starts another program and
# writes to disk (EPS).
_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_FORM = "multipart/form-data"


@dataclass(frozen=True)
class Upload:
    """One image as it came: its name, its encoded bytes, and why there are none."""

    name: str
    data: bytes
    error: str | None = None


class Receiver:
    """Receives bodies and knows how much all of them hold."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytearray]:
        """The whole body, counted as it comes whatever its header says of it.

        Raises:
            RequestRefused: 408 too slow or broken off, 413 too large, 429 too much held already.
        """
        body = bytearray()
        counted = 0
        claimed = request.headers.get("content-length", "")
        if claimed.isdecimal():  # a large one need not be read to be refused
            self._check(int(claimed[:20]))
        try:
            try:
                async for chunk in request.stream():
                    counted += len(chunk)
                    self.held += len(chunk)
                    self._check(counted)
                    body += chunk
            except TimeoutError:  # the gate's, who knows when it began
                raise RequestRefused(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"the body did not arrive within {self.limits.seconds:g} seconds, or came with "
                    f"less than {self.limits.rate:,} bytes a second: send fewer or smaller images",
                ) from None
            except ClientDisconnect:
                raise RequestRefused(
                    HTTPStatus.REQUEST_TIMEOUT, "the body broke off: send it again"
                ) from None
            yield body
        finally:
            self.held -= counted

    def _check(self, counted: int) -> None:
        if counted > self.limits.body_bytes:
            raise RequestRefused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body is larger than {self.limits.body_bytes:,} bytes: send fewer or smaller "
                "images",
            )
        if self.held > self.limits.held_bytes:
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many large requests at once: try again in a second",
            )


class ImagesInJson(BaseModel):
    """Images as JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)
    images: list[str] = Field(min_length=1, description="Encoded images (PNG, JPEG...) in base64.")
    names: list[str] | None = Field(None, description="A name for each image.")


def check_kind(headers: Headers) -> None:
    """Look at what a body claims to be, before it is read.

    Raises:
        RequestRefused: 415, neither of the two kinds, or compressed.
    """
    if kind_of(headers.get("content-type", "")) not in (JSON, _FORM):
        raise RequestRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f'send images as files in {_FORM}, or as {JSON}: {{"images": ["<base64>"]}}',
        )
    check_compression(headers)


def check_compression(headers: Headers) -> None:
    """Refuse, 415, a body that would have to be unpacked."""
    if headers.get("content-encoding", "identity") != "identity":
        raise RequestRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body uncompressed")


def kind_of(content_type: str) -> str:
    """What a body claims to be, without parameters and in small letters."""
    return content_type.partition(";")[0].strip().lower()


def uploads_of(body: bytearray, content_type: str, limits: Limits) -> list[Upload]:
    """The images in a body that passed `check_kind`, at least one; each may be none after all.

    Raises:
        RequestRefused: 413 too many images, 422 not what its kind says.
    """
    if kind_of(content_type) == JSON:
        uploads = _from_json(body, limits)
    else:
        uploads = _from_form(body, content_type, limits)
    if not uploads:
        raise RequestRefused(
            HTTPStatus.UNPROCESSABLE_ENTITY, "the body holds no image: send at least one"
        )
    return uploads


def _from_json(body: bytearray, limits: Limits) -> list[Upload]:
    given = parsed(ImagesInJson, body, limits, 1)
    names = named(given.names, len(given.images), limits, "image")
    return [_decoded(name, text) for name, text in zip(names, given.images, strict=True)]


def _decoded(name: str, text: str) -> Upload:
    try:
        return Upload(name, base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return Upload(name, b"", "is not base64: encode its bytes")


@dataclass
class _Form:
    """Gathers the files of a multipart body; Starlette's own parser puts large ones on disk."""

    limits: Limits
    uploads: list[Upload] = field(default_factory=list)
    ended: bool = False
    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    disposition: bytes = b""
    typed: bool = False
    data: bytearray = field(default_factory=bytearray)

    def on_part_begin(self) -> None:
        self.disposition, self.typed, self.data = b"", False, bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def on_header_end(self) -> None:
        if self.header.lower() == b"content-disposition":
            self.disposition = bytes(self.value)
        self.typed |= self.header.lower() == b"content-type"
        self.header, self.value = bytearray(), bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.data += data[start:end]

    def on_part_end(self) -> None:
        _, options = parse_options_header(self.disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        if b"filename" not in options and not self.typed:
            raise RequestRefused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"the field {name!r} is text, not a file: with curl, write -F {name}=@FILE",
            )
        file = options.get(b"filename", b"").decode(errors="replace")
        self.uploads.append(Upload(file or str(len(self.uploads)), bytes(self.data)))
        check_count(len(self.uploads), self.limits)

    def on_end(self) -> None:
        self.ended = True


def _from_form(body: bytearray, content_type: str, limits: Limits) -> list[Upload]:
    _, options = parse_options_header(content_type)
    form = _Form(limits)
    try:
        parser = MultipartParser(
            options.get(b"boundary", b""),
            {
                "on_part_begin": form.on_part_begin,
                "on_header_field": form.on_header_field,
                "on_header_value": form.on_header_value,
                "on_header_end": form.on_header_end,
                "on_part_data": form.on_part_data,
                "on_part_end": form.on_part_end,
                "on_end": form.on_end,
            },
        )
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError:
        form.ended = False
    if not form.ended or not options.get(b"boundary"):
        raise RequestRefused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "the multipart body is damaged or breaks off: send it again",
        )
    return form.uploads


def images_of(uploads: Sequence[Upload], detector: Detector, limits: Limits) -> Chunk:
    """Every image as scoring a folder of them would find it; what cannot be used has its reason.

    Arguments:
        uploads: The images.
        detector: Says how it sees them.
        limits: How many pixels are too many; looked at before any is decoded.

    Raises:
        RequestRefused: 413 too many pixels together, 422 not one image that can be used.
    """
    errors, total = [], 0
    for upload in uploads:
        pixels, error = _by_its_header(upload, limits)
        total += pixels
        errors.append(error)
    if total > limits.request_pixels:
        raise RequestRefused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the images have more than {limits.request_pixels:,} pixels together: send fewer at "
            "once",
        )
    names = [upload.name for upload in uploads]
    good = [upload for upload, error in zip(uploads, errors, strict=True) if error is None]
    require_some(names, errors, "image")

    def batches(n: int) -> Iterator[tuple[list[str], list[bytes]]]:
        yield [upload.name for upload in good], [upload.data for upload in good]

    source = detector.open(ImageSource("upload", len(good), batches))
    (chunk,) = source.chunks(len(good), shape=detector.shape)
    return of_all(chunk, names, errors)


def require_some(names: list[str], errors: list[str | None], unit: str) -> None:
    """Refuse, 422, where nothing can be used, with the first reason."""
    if None not in errors:
        raise RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, f"{unit} {names[0]} {errors[0]}")


def of_all(chunk: Chunk, names: list[str], errors: list[str | None]) -> Chunk:
    """A chunk of those without an error, as one of all.

    Raises:
        RequestRefused: 422, none of them can be used after all.
    """
    found = iter(zip(chunk.errors, chunk.codes, strict=True))
    pairs = [next(found) if error is None else (error, "bad-image") for error in errors]
    reasons = [error for error, _ in pairs]
    require_some(names, reasons, chunk.unit)
    return replace(chunk, names=names, errors=reasons, codes=[code for _, code in pairs])


def _by_its_header(upload: Upload, limits: Limits) -> tuple[int, str | None]:
    """Pixels of an image that are to be decoded, and why it cannot be used, as far as that shows.

    Where nothing shows, decoding it says what is wrong with it.
    """
    if upload.error is not None:
        return 0, upload.error
    try:
        with pillow_guard():
            image = opened(upload.data)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return 0, _too_large(limits)
    except Exception:  # damaged files make Pillow raise nearly anything
        return 0, None
    if image.format not in _FORMATS:
        kinds = ", ".join(kind for kind in _FORMATS if kind != "MPO")
        return 0, f"is of the kind {image.format}: send one of {kinds}"
    if image.width * image.height > limits.pixels:
        return 0, _too_large(limits)
    return image.width * image.height, None


def _too_large(limits: Limits) -> str:
    return f"has more than {limits.pixels:,} pixels: make it smaller"
