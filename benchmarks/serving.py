"""A server as its own process, and clients who are as correct as one wants."""

__all__ = ["FORM", "JSON", "Connection", "form", "png", "serving", "started"]

import asyncio
import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BOUNDARY = "xxBOUNDARYxx"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
JSON = "application/json"


@contextmanager
def started(
    folder: Path, *options: str, descriptors: int | None = None, **environment: str
) -> Iterator[tuple[str, int]]:
    """Address and process of a server of the detector in a folder; stopped by Ctrl-C, cleanly.

    Arguments:
        folder: Of the detector.
        options: Of the command.
        descriptors: How many the process may have open.
        environment: Of the process, beside this one's.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "approxmass", "serve", str(folder), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )
    try:
        if descriptors is not None:  # long before it has loaded and looks
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (descriptors, descriptors))
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line + process.communicate()[1]
        yield line.split()[2], process.pid
        assert process.poll() is None, "the server is gone"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert errors == "stopped\n", errors
    finally:
        process.kill()
        process.wait()


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """Address of a server, as `started`."""
    with started(folder, *options, **environment) as (url, _):
        yield url


def png(image: NDArray[np.uint8]) -> bytes:
    """An image `(H, W)` or `(H, W, 3)`."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def form(*files: bytes, end: bool = True) -> bytes:
    """A multipart body."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="f"; filename="{i}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for i, data in enumerate(files)
    ]
    return b"".join(parts) + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


class Connection:
    """One HTTP connection, which is as correct as the caller wants."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.host, self.port = urlsplit(url).hostname, urlsplit(url).port
        self.bearer = "" if token is None else f"Authorization: Bearer {token}\r\n"
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave at once."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.host, self.port)
        self.streams[1].write(data)
        await self.streams[1].drain()

    async def begin(self, path: str, kind: str, length: int | None) -> None:
        """Send the head of a POST; without a length its body is chunked."""
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        head = f"POST {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: {kind}\r\n"
        await self.send(f"{head}{self.bearer}{size}\r\n\r\n".encode())

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the answer; the status is 0 where the connection ends without one."""
        assert self.streams is not None
        reader = self.streams[0]
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            body = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            self.close()
            return 0, b""
        if "connection: close" in head:
            self.close()
        return int(head.split()[1]), body

    async def get(self, path: str) -> tuple[int, bytes]:
        """A whole request without a body."""
        head = f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{self.bearer}\r\n"
        await self.send(head.encode())
        return await self.answer()

    async def post(self, path: str, kind: str, body: bytes) -> tuple[int, bytes]:
        """A whole request."""
        await self.begin(path, kind, len(body))
        await self.send(body)
        return await self.answer()
