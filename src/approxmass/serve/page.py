"""The page for people and its files."""

__all__ = ["add_page"]

import functools
import hashlib
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response

from ..report import charts
from .service import Service


def add_page(app: FastAPI, service: Service) -> None:
    """Add the page, its files, and the script that draws its charts."""
    for path, name, kind in (
        ("/", "page.html", "text/html"),
        ("/page.css", "page.css", "text/css"),
        ("/page.js", "page.js", "text/javascript"),
    ):
        app.add_api_route(path, _file(name, kind), methods=["GET", "HEAD"], include_in_schema=False)

    @app.get("/vega.js", include_in_schema=False)
    async def vega(request: Request) -> Response:
        script, tag = await service.in_thread(_vega)
        caching = {"ETag": tag, "Cache-Control": "public, max-age=86400"}
        if request.headers.get("if-none-match") == tag:
            return Response(None, HTTPStatus.NOT_MODIFIED, caching)
        return Response(script, headers=caching, media_type="text/javascript")


@functools.cache
def _vega() -> tuple[bytes, str]:
    script = charts.vega_script().encode()
    return script, f'"{hashlib.sha256(script).hexdigest()[:16]}"'


def _file(name: str, kind: str) -> Callable[[], Any]:
    content = resources.files(__package__).joinpath(name).read_bytes()

    async def answer() -> Response:
        return Response(content, headers={"Cache-Control": "no-cache"}, media_type=kind)

    return answer
