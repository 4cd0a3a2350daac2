"""The page for people and its files."""

__all__ = ["add_page"]

import hashlib
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from ..report import charts

_SCRIPT = "text/javascript"
_PIECE = 2**16


def add_page(app: FastAPI) -> None:
    """Add the page with its charts, and `/docs`; neither needs a network."""
    for path, name, kind in (
        ("/", "page.html", "text/html"),
        ("/page.css", "page.css", "text/css"),
        ("/page.js", "page.js", _SCRIPT),
        ("/docs", "docs.html", "text/html"),
        ("/docs.js", "docs.js", _SCRIPT),
    ):
        app.add_api_route(path, _file(name, kind), methods=["GET", "HEAD"], include_in_schema=False)
    swagger = resources.files("fastapi_offline") / "static"
    for path, kind, data in (
        # It takes seconds to make, while which nothing else is done: not once there are clients.
        ("/vega.js", _SCRIPT, charts.vega_script().encode()),
        ("/swagger.js", _SCRIPT, (swagger / "swagger-ui-bundle.js").read_bytes()),
        ("/swagger.css", "text/css", (swagger / "swagger-ui.css").read_bytes()),
    ):
        app.add_api_route(path, _library(data, kind), methods=["GET"], include_in_schema=False)


def _library(data: bytes, kind: str) -> Callable[..., Any]:
    """A large file of another project, kept by browsers."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    caching = {"ETag": tag, "Cache-Control": "public, max-age=86400"}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(None, HTTPStatus.NOT_MODIFIED, caching)
        return _InPieces(data, headers=caching, media_type=kind)

    return answer


class _InPieces(Response):
    """A large answer of which what the client does not take is not kept for it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a piece once the one before is on its way."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        for place in range(0, len(self.body), _PIECE):
            piece, end = self.body[place : place + _PIECE], place + _PIECE
            more = end < len(self.body)
            await send({"type": "http.response.body", "body": piece, "more_body": more})


def _file(name: str, kind: str) -> Callable[[], Any]:
    content = resources.files(__package__).joinpath(name).read_bytes()

    async def answer() -> Response:
        return Response(content, headers={"Cache-Control": "no-cache"}, media_type=kind)

    return answer
