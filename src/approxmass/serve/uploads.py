"""Bodies of requests, from the wire to pixels: in memory only, and never more than the limits."""

__all__ = [
    "JSON",
    "ImagesInJson",
    "Receiver",
    "Upload",
    "check_compression",
    "check_kind",
    "images_of",
    "kind_of",
    "named",
    "parsed",
    "uploads_of",
]

import asyncio
import base64
import binascii
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from ..data import Chunk
from ..data.guard import pillow_guard
from ..data.source import ImageSource
from ..detector import Detector
from .limits import Limits, RequestRefused

M = TypeVar("M", bound=BaseModel)

# What browsers and cameras make. Pillow knows more kinds, one of which starts another program and
# writes to disk (EPS).
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
JSON, _FORM = "application/json", "multipart/form-data"


@dataclass(frozen=True)
class Upload:
    """One image as it came: its name and its encoded bytes."""

    name: str
    data: bytes


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
                async with asyncio.timeout(self.limits.seconds):
                    async for chunk in request.stream():
                        counted += len(chunk)
                        self.held += len(chunk)
                        self._check(counted)
                        body += chunk
            except TimeoutError:
                raise RequestRefused(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"the body did not arrive within {self.limits.seconds:g} seconds: send fewer "
                    "or smaller images",
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
    """The images in a body that passed `check_kind`, at least one.

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


def parsed(model: type[M], body: bytearray) -> M:
    """A body as JSON of that model.

    Raises:
        RequestRefused: 422, it is not.
    """
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"the JSON is not as it should be: {where + ': ' if where else ''}{first['msg']}"
        raise RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, reason) from None


def named(names: list[str] | None, count: int, limits: Limits, unit: str) -> list[str]:
    """The names of so many images or rows: those given, or their numbers.

    Raises:
        RequestRefused: 413 too many, 422 another number of names.
    """
    _check_count(count, limits, unit)
    if names is None:
        return [str(i) for i in range(count)]
    if len(names) != count:
        raise RequestRefused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"there are {len(names)} names for {count} {unit}s: give one to each",
        )
    return names


def _from_json(body: bytearray, limits: Limits) -> list[Upload]:
    given = parsed(ImagesInJson, body)
    names = named(given.names, len(given.images), limits, "image")
    uploads = []
    for name, text in zip(names, given.images, strict=True):
        try:
            uploads.append(Upload(name, base64.b64decode(text, validate=True)))
        except (binascii.Error, ValueError):
            raise RequestRefused(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"image {name} is not base64: encode its bytes"
            ) from None
    return uploads


def _check_count(count: int, limits: Limits, unit: str = "image") -> None:
    if count > limits.images:
        raise RequestRefused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"more than {limits.images} {unit}s in one request: send them in several",
        )


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
        _check_count(len(self.uploads), self.limits)

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
    """Every image as scoring a folder of them would find it.

    Arguments:
        uploads: The images.
        detector: Says how it sees them.
        limits: How many pixels are too many; looked at before any is decoded.

    Raises:
        RequestRefused: 413 too many pixels, 422 an image that cannot be used, by its name.
    """
    total = 0
    for upload in uploads:
        pixels = _pixels_of(upload, limits)
        total += pixels
        if pixels > limits.pixels:
            raise RequestRefused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"image {upload.name} has more than {limits.pixels:,} pixels: make it smaller",
            )
    if total > limits.request_pixels:
        raise RequestRefused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the images have more than {limits.request_pixels:,} pixels together: send fewer at "
            "once",
        )

    def batches(n: int) -> Iterator[tuple[list[str], list[bytes]]]:
        yield [upload.name for upload in uploads], [upload.data for upload in uploads]

    source = detector.open(ImageSource("upload", len(uploads), batches))
    (chunk,) = source.chunks(len(uploads), shape=detector.shape)
    for name, error in chunk.unreadable:
        raise RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, f"image {name} {error}")
    return chunk


def _pixels_of(upload: Upload, limits: Limits) -> int:
    """Pixels of an image by its header; 0 where decoding will say what is wrong with it."""
    try:
        with pillow_guard():
            image = Image.open(io.BytesIO(upload.data))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return limits.pixels + 1
    except Exception:  # damaged files make Pillow raise nearly anything
        return 0
    if image.format not in _FORMATS:
        kinds = ", ".join(kind for kind in _FORMATS if kind != "MPO")
        raise RequestRefused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"image {upload.name} is of the kind {image.format}: send one of {kinds}",
        )
    return image.width * image.height
