"""Bodies that are wrong: of other types, too large once decoded, damaged."""

__all__ = ["damaged_bodies", "headers", "wrong_json"]

import asyncio
import base64
import io
import json
import time
from typing import Any

import numpy as np
from PIL import Image
from server_target import Found, Target

from serving import FORM, JSON, form

MIB = 2**20
# Seconds and MiB that a wrong body takes, and an image whose header is enough.
WRONG_SECONDS, WRONG_MIB = 0.2, 20.0
HEADER_SECONDS, HEADER_MIB = 1.0, 30.0
DAMAGED_SECONDS = 5.0


def wrong_jsons(size: int = 2 * MIB) -> dict[str, bytes]:
    """JSON of about that size, of other types, lengths and keys than it should have."""

    def filled(start: str, item: str, end: str = "") -> bytes:
        return (start + item * (size // len(item)) + end).encode()

    return {
        "numbers": filled('{"images":[1', ",1", "]}"),
        "lists": filled('{"images":[[]', ",[]", "]}"),
        "objects": filled('{"images":[{}', ',{"a":0}', "]}"),
        "one wrong among empty": filled('{"images":[""', ',""', ",1]}"),
        "names": filled('{"images":["aaaa"],"names":[1', ",1", "]}"),
        "empty names": filled('{"images":["aaaa"],"names":[""', ',""', "]}"),
        "rows": filled('{"rows":[[1]', ",[1]", "]}"),
        "unknown keys": filled('{"images":["aaaa"]', ',"b":1', "}"),
        "same key": filled('{"images":["aaaa"]', ',"images":1', "}"),
        "deep": filled("", "["),
        "deep objects": filled("", '{"a":'),
        "digits": filled('{"images":[', "1", "]}"),
        "escapes": filled('{"images":["', "\\\\", '",1]}'),
        "text": filled('"', "a", '"'),
        "spaces": filled("", " "),
        "not utf-8": filled('{"images":["', "x", "") + b'\xff\xfe"]}',
    }


async def wrong_json(
    target: Target, seconds: float, rng: np.random.Generator, found: Found
) -> None:
    """2 MiB of JSON of wrong types, one after the other: refused soon, in little memory."""
    bodies = wrong_jsons()
    until = time.monotonic() + seconds
    async with target.link() as link:
        await link.post("/score", JSON, bodies["text"])  # what is made on first use
        while time.monotonic() < until:
            for name, body in bodies.items():
                before = target.forget()
                begun = time.monotonic()
                status, answer = await link.post("/score", JSON, body)
                found.most("wrong_json_seconds", time.monotonic() - begun, WRONG_SECONDS)
                found.most("wrong_json_mib", target.memory("VmHWM") - before, WRONG_MIB)
                found.requests += 1
                if status not in (413, 422):
                    found.findings.append(f"wrong JSON, {name}: {status} {answer[:100]!r}")


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def deep_images() -> dict[str, bytes]:
    """40 million pixels in modes that take hundreds of MiB to decode."""
    size = (8000, 4990)
    images = {"PNG, 16 bits": _encoded(Image.new("I;16", size), "PNG")}
    for mode in ("I;16", "I", "F"):
        image = Image.new(mode, size)
        images[f"TIFF {mode}"] = _encoded(image, "TIFF", compression="tiff_adobe_deflate")
    images["PNG, RGB"] = _encoded(Image.new("RGB", size), "PNG")
    return images


async def headers(target: Target, seconds: float, rng: np.random.Generator, found: Found) -> None:
    """Images of 40 million pixels to a detector of 28x28: refused by what their header says."""
    images = deep_images()
    until = time.monotonic() + seconds
    async with target.link() as link:
        while time.monotonic() < until:
            for name, data in images.items():
                before = target.forget()
                begun = time.monotonic()
                status, answer = await link.post("/score", FORM, form(data))
                found.most("header_seconds", time.monotonic() - begun, HEADER_SECONDS)
                found.most("header_mib", target.memory("VmHWM") - before, HEADER_MIB)
                found.requests += 1
                if status != 422 or b"28x28" not in answer:
                    found.findings.append(f"header, {name}: {status} {answer[:100]!r}")


def _damaged(body: bytes, rng: np.random.Generator) -> bytes:
    """A body with some bytes changed, cut out, doubled or moved."""
    data = bytearray(body)
    for _ in range(int(rng.integers(1, 5))):
        at, end = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        end = min(end, at + int(rng.choice([1, 2, 8, 64, 5000])))
        choice = rng.integers(5)
        if choice == 0:
            data[at:end] = rng.bytes(end - at)
        elif choice == 1:
            del data[at:end]
        elif choice == 2:
            data[at:at] = data[at:end]
        elif choice == 3:
            data[at:at] = rng.choice([b'"', b"[", b"{", b"--", b"\r\n", b",", b"\\", b"1e999"])
        else:
            data = data[end:] + data[:at]
    return bytes(data)


async def damaged_bodies(
    target: Target, seconds: float, rng: np.random.Generator, found: Found
) -> None:
    """Right bodies, damaged: refused, or answered with as many rows as it says."""
    until = time.monotonic() + seconds
    images = target.expected.images

    async def one(rng: np.random.Generator) -> None:
        async with target.link() as link:
            while time.monotonic() < until:
                some = [images[i] for i in rng.integers(0, len(images), 2)]
                kind, body = FORM, form(*some)
                if rng.random() < 0.5:
                    texts = [base64.b64encode(data).decode() for data in some]
                    kind, body = JSON, json.dumps({"images": texts, "names": ["a", "b"]}).encode()
                elif rng.random() < 0.5:  # the image, not what is around it
                    body = form(_damaged(some[0], rng), some[1])
                body = _damaged(body, rng)
                begun = time.monotonic()
                status, answer = await link.post("/score", kind, body)
                found.most("damaged_seconds", time.monotonic() - begun, DAMAGED_SECONDS)
                found.requests += 1
                if status == 200:
                    for row in json.loads(answer)["results"]:
                        if (row["error"] is None) != (row["p_value"] is not None):
                            found.findings.append(f"damaged: {row}")
                elif status not in (413, 422, 429):
                    found.findings.append(f"damaged: {status} {answer[:100]!r} {body[:100]!r}")

    async with asyncio.TaskGroup() as group:
        for i in range(4):
            group.create_task(one(np.random.default_rng([int(rng.integers(2**31)), i])))
