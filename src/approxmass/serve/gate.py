"""What stands in front of every route: who may enter, what is measured, the headers of answers."""

__all__ = ["Gate"]

import asyncio
import ipaddress
import secrets
import time
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import Limits
from .monitoring import Metrics

# What a person's browser asks for before there is a token.
_PAGE = ("/", "/page.css", "/page.js", "/vega.js")
_DOCS = ("/docs", "/docs.js", "/swagger.js", "/swagger.css")
_OPEN = (*_PAGE, *_DOCS, "/healthz")
_API = ("/score", "/explain", "/drift", "/metrics", "/histogram.json", "/openapi.json")
# Times the limit of a body that is read and thrown away, so that the client gets to the answer.
_MOST_DISCARDED = 4
_HEADERS = {
    # Nothing from elsewhere, and no code but that of the page's own files.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Gate:
    """Refuses who may not enter, measures everyone, and adds the headers of every answer."""

    def __init__(
        self, app: ASGIApp, *, token: str | None, limits: Limits, metrics: Metrics
    ) -> None:
        self.app = app
        self.token = token
        self.limits = limits
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = _Exchange(receive, send, self.limits, waits="expect" in headers)
        started, path = time.perf_counter(), scope["path"]
        route = path if path in _OPEN + _API else "other"
        try:
            refusal = self._refusal(scope["method"], path, headers)
            await (refusal or self.app)(scope, exchange.receive, exchange.send)
        finally:
            self.metrics.requests.labels(route, int(exchange.status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, method: str, path: str, headers: Headers) -> JSONResponse | None:
        if self.token is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = secrets.compare_digest(given.strip().encode(), self.token.encode())
            if path in _OPEN or (right and scheme.lower() == "bearer"):
                return None
            reason = "a token is needed: send the header Authorization: Bearer TOKEN"
            return JSONResponse(
                {"detail": reason}, HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Bearer"}
            )
        # Without a token, what protects the server is that only this machine reaches it. So does
        # any page in a browser on it, by a name that leads here or by posting from elsewhere.
        host = headers.get("host", "")
        if not _is_loopback(host):
            reason = "without a token this server answers only to localhost: start it with --token"
        elif method in ("GET", "HEAD") or not _is_foreign(headers, host):
            return None
        else:
            reason = "this request comes from another site: start the server with --token"
        return JSONResponse({"detail": reason}, HTTPStatus.FORBIDDEN)


class _Exchange:
    """A request and its answer, as they pass through the gate.

    Attributes:
        status: Of the answer, once it has begun.
    """

    def __init__(self, receive: Receive, send: Send, limits: Limits, *, waits: bool) -> None:
        self.status: int = HTTPStatus.INTERNAL_SERVER_ERROR
        self._receive, self._send = receive, send
        self._limits = limits
        self._waits = waits  # for leave to send its body
        self._unread = True

    async def receive(self) -> Message:
        """The next piece of the request."""
        message = await self._receive()
        self._unread = bool(message.get("more_body"))
        return message

    async def send(self, message: Message) -> None:
        """Send a piece of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] += [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
            # A connection closed on a client that still sends loses the answer on its way;
            # one that waits for leave to send, or is too slow, is not waited for.
            waits = self._waits or self.status == HTTPStatus.REQUEST_TIMEOUT
            if self._unread and self.status >= HTTPStatus.BAD_REQUEST and not waits:
                await self._discard_rest()
        await self._send(message)

    async def _discard_rest(self) -> None:
        left = _MOST_DISCARDED * self._limits.body_bytes
        try:
            async with asyncio.timeout(self._limits.seconds):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_foreign(headers: Headers, host: str) -> bool:
    """Whether a browser says that a page of another site sends this."""
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "none")
    return site not in ("none", "same-origin") or (
        origin is not None and origin.partition("://")[2] != host
    )
