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

from .connections import Connection, Connections, Stage
from .limits import Limits
from .monitoring import Metrics

# What a person's browser asks for before there is a token.
_PAGE = ("/", "/page.css", "/page.js", "/vega.js")
_DOCS = ("/docs", "/docs.js", "/swagger.js", "/swagger.css")
_OPEN = (*_PAGE, *_DOCS, "/healthz")
_API = ("/score", "/explain", "/drift", "/metrics", "/histogram.json", "/openapi.json")
# Times the limit of a body that is read and thrown away, so that the client gets to the answer; and
# for how many seconds where it may not enter.
_MOST_DISCARDED = 4
_LINGER = 2.0
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
        self,
        app: ASGIApp,
        *,
        token: str | None,
        limits: Limits,
        metrics: Metrics,
        connections: Connections,
    ) -> None:
        self.app = app
        self.token = token
        self.limits = limits
        self.metrics = metrics
        self.connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        started, path = time.perf_counter(), scope["path"]
        route = path if path in _OPEN + _API else "other"
        refusal = self._refusal(scope["method"], path, headers)
        connection = self.connections.of(scope)
        if connection is not None:
            connection.trusted = self.token is not None and self._has_token(headers)
        exchange = _Exchange(
            receive,
            send,
            scope["method"],
            headers,
            self.limits,
            connection,
            refused=refusal is not None,
        )
        try:
            await (refusal or self.app)(scope, exchange.receive, exchange.send)
        finally:
            exchange.enter(Stage.HEAD)
            self.metrics.requests.labels(route, int(exchange.status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = secrets.compare_digest(given.strip().encode(), (self.token or "").encode())
        return right and scheme.lower() == "bearer"

    def _refusal(self, method: str, path: str, headers: Headers) -> JSONResponse | None:
        if self.token is not None:
            if path in _OPEN or self._has_token(headers):
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

    def __init__(
        self,
        receive: Receive,
        send: Send,
        method: str,
        headers: Headers,
        limits: Limits,
        connection: Connection | None,
        *,
        refused: bool,
    ) -> None:
        self.status: int = HTTPStatus.INTERNAL_SERVER_ERROR
        self._receive, self._send = receive, send
        self._limits, self._connection = limits, connection
        self._most_seconds = _LINGER if refused else limits.seconds
        self._waits = "expect" in headers  # for leave to send its body
        self._unread = (
            method not in ("GET", "HEAD")
            or "transfer-encoding" in headers
            or headers.get("content-length", "").strip("0") != ""
        )
        self._started, self._received = asyncio.get_running_loop().time(), 0
        self.enter(Stage.BODY if self._unread else Stage.WORK)

    def enter(self, stage: Stage) -> None:
        """Tell the connection how far its request has come."""
        if self._connection is not None:
            self._connection.enter(stage)

    async def receive(self) -> Message:
        """The next piece of the request.

        Raises:
            TimeoutError: It does not come, or too slowly.
        """
        if not self._unread:
            return await self._receive()
        async with self._deadline():
            return await self._next()

    def _deadline(self) -> asyncio.Timeout:
        patience = min(self._most_seconds, self._limits.until(self._received))
        return asyncio.timeout_at(self._started + patience)

    async def _next(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self._unread = bool(message.get("more_body"))
        if not self._unread:
            self.enter(Stage.WORK)
        return message

    async def send(self, message: Message) -> None:
        """Send a piece of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] += [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
            # A connection closed on a client that still sends loses the answer on its way;
            # one that waits for leave to send, or is too slow, is not waited for.
            waits = self._waits or self.status == HTTPStatus.REQUEST_TIMEOUT
            if self._unread and not waits:
                await self._discard_rest()
            if self._unread:  # else what still comes could keep the connection for ever
                message["headers"].append((b"connection", b"close"))
            self.enter(Stage.ANSWER)
        await self._send(message)

    async def _discard_rest(self) -> None:
        most = self._received + _MOST_DISCARDED * self._limits.body_bytes
        try:
            while self._unread and self._received < most:
                # More and more at a time, as a deadline for each piece would cost more than it.
                some = 2 * self._received + 2**16
                async with self._deadline():
                    while self._unread and self._received < min(some, most):
                        await self._next()
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
