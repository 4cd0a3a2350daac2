"""The page for people and its files."""

__all__ = ["add_page"]

import hashlib
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response

from ..report import charts

_SCRIPT = "text/javascript"


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
        return Response(data, headers=caching, media_type=kind)

    return answer


def _file(name: str, kind: str) -> Callable[[], Any]:
    content = resources.files(__package__).joinpath(name).read_bytes()

    async def answer() -> Response:
        return Response(content, headers={"Cache-Control": "no-cache"}, media_type=kind)

    return answer
