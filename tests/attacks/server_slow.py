"""Clients who hold what others need: slow, many, or deaf."""

__all__ = ["flood", "slow_of_all_kinds", "slow_with_token", "slow_without_token"]

import asyncio
import time
from contextlib import suppress

import numpy as np
from server_target import DESCRIPTORS, TOKEN, Found, Target

from serving import FORM, JSON, Connection, form

SLOW = 200
# Seconds that another client waits, at most.
WAITS = 1.0


async def _trickle(link: Connection, head: str, piece: bytes, pause: float, found: Found) -> None:
    """Send a head, then piece after piece, for as long as the server has it."""
    await link.send(head.encode())
    found.requests += 1
    assert link.streams is not None
    gone = asyncio.create_task(link.streams[0].read())
    try:
        while not gone.done():
            await link.send(piece)
            await asyncio.wait([gone], timeout=pause)
    finally:
        gone.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await gone


async def _deaf(link: Connection, found: Found) -> None:
    """Ask for large files, and take none."""
    found.requests += 1
    for _ in range(6):
        await link.send(b"GET /vega.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.sleep(20)


async def _hold(target: Target, kind: int, token: bool, until: float, found: Found) -> None:
    bearer = f"Authorization: Bearer {TOKEN}\r\n" if token else ""
    post = f"POST /score HTTP/1.1\r\nHost: localhost\r\n{bearer}Content-Type: {JSON}\r\n"
    while time.monotonic() < until:
        link = target.link(token=token)
        try:
            async with asyncio.timeout(until - time.monotonic()):
                if kind == 0:
                    head, piece = f"{post}Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"
                elif kind == 1:
                    head, piece = f"{post}Content-Length: 99999\r\n\r\n", b" "
                elif kind == 2:
                    head, piece = "GET /healthz HTTP/1.1\r\n", b"X: y\r\n"
                elif kind == 3:
                    head, piece = "", b""
                else:
                    await _deaf(link, found)
                    continue
                await _trickle(link, head, piece, 2.0, found)
        except (OSError, TimeoutError):
            pass
        finally:
            link.close()
        await asyncio.sleep(1)


async def _ask(target: Target, until: float, found: Found) -> None:
    """Be the other client: a new connection each time."""
    at = 0
    while time.monotonic() < until:
        at += 1
        begun = time.monotonic()
        link = target.link()
        try:
            async with asyncio.timeout(10):
                status = (await link.get("/healthz"))[0]
                found.requests += 1
                found.most("healthz_seconds", time.monotonic() - begun, WAITS)
                if at % 10 == 0:
                    picked = np.array([at % len(target.expected.images)])
                    body = form(target.expected.images[int(picked[0])])
                    status, answer = await link.post("/score", FORM, body)
                    found.requests += 1
                    target.expected.check(picked, answer)
            if status != 200:
                found.findings.append(f"another client: status {status}")
        except (OSError, TimeoutError, AssertionError, ValueError) as error:
            found.findings.append(f"another client: {type(error).__name__} {error}"[:200])
        finally:
            link.close()
        await asyncio.sleep(0.05)


async def _slow(
    target: Target, seconds: float, found: Found, *, token: bool, kinds: tuple[int, ...]
) -> None:
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for i in range(SLOW):
            group.create_task(_hold(target, kinds[i % len(kinds)], token, until, found))
        group.create_task(_ask(target, until, found))
    found.most("descriptors", target.files(), DESCRIPTORS - 1)


async def slow_without_token(
    target: Target, seconds: float, rng: np.random.Generator, found: Found
) -> None:
    """Chunked bodies, which are answered 401, a byte every two seconds."""
    await _slow(target, seconds, found, token=False, kinds=(0,))


async def slow_of_all_kinds(
    target: Target, seconds: float, rng: np.random.Generator, found: Found
) -> None:
    """Heads, bodies, nothing at all, and answers not taken."""
    await _slow(target, seconds, found, token=False, kinds=(0, 1, 2, 3, 4))


async def slow_with_token(
    target: Target, seconds: float, rng: np.random.Generator, found: Found
) -> None:
    """Bodies with the token, a byte every two seconds."""
    await _slow(target, seconds, found, token=True, kinds=(0, 1))


async def flood(target: Target, seconds: float, rng: np.random.Generator, found: Found) -> None:
    """Connections as fast as they are accepted, each left alone."""
    until = time.monotonic() + seconds

    async def pour() -> None:
        held: list[Connection] = []
        while time.monotonic() < until:
            link = target.link()
            with suppress(OSError):
                await link.send(b"G")
                found.requests += 1
            held.append(link)
            if len(held) > 100:
                held.pop(0).close()
            await asyncio.sleep(0.002)
        for link in held:
            link.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(pour())
        group.create_task(_ask(target, until, found))
