"""The routes of the server."""

__all__ = ["create_app"]

import asyncio
import functools
import hashlib
import io
import math
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib import resources
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from .. import charts
from ..calibration import FALSE_ALARM_RATE, group_p_value, threshold
from ..data.decode import Pixels
from ..detector import Detector
from ..errors import ApproxMassError
from ..explain import picture
from ..machine import cores
from .batching import Batcher
from .gate import Gate
from .monitoring import Metrics
from .uploads import ImagesInJson, Limits, Problem, Receiver, check_kind, images_of, uploads_of

T = TypeVar("T")

_DECODERS = 4


class Result(BaseModel):
    """Scores of one image; `log_prob` and `mass` are null for methods other than the flow."""

    name: str
    log_prob: float | None
    mass: float | None
    statistic: float
    p_value: float = Field(gt=0, le=1)
    is_outlier: bool


class Results(BaseModel):
    """Scores of the images of a request, in their order."""

    results: list[Result]


class Drift(BaseModel):
    """One p-value for all the images together; small = they have shifted."""

    images: int
    group_p_value: float = Field(ge=0, le=1)


class Description(BaseModel):
    """What the detector is."""

    method: str
    statistic: str
    channels: int
    height: int
    width: int
    resizes: bool
    explains: bool
    training_images: int
    calibration_images: int


class Health(BaseModel):
    """That the server answers, and with what."""

    status: str
    version: str
    detector: Description


class Refusal(BaseModel):
    """Why a request is refused, in one line."""

    detail: str


def create_app(
    detector: Detector, *, token: str | None = None, limits: Limits | None = None
) -> FastAPI:
    """The server as an ASGI application.

    Arguments:
        detector: A fitted one; nothing else may use it meanwhile.
        token: Needed for everything but the page and its files and `/healthz`. None lets in every
            request that is addressed to localhost and not sent by a page of another site.
        limits: What is too much; by default those of `Limits()`.
    """
    limits = limits or Limits()
    metrics = Metrics()
    receiver = Receiver(limits)
    batcher = Batcher(detector, limits, metrics.scored)
    metrics.waiting.set_function(lambda: batcher.waiting)
    pool = ThreadPoolExecutor(min(cores(), _DECODERS), "decode")
    channels, height, width = detector.facts["shape"]
    settings = detector.settings
    calibration = detector.calibration[settings.statistic]

    app = FastAPI(
        title="approxmass",
        version=version("approxmass"),
        description="Which images do not belong, with calibrated p-values.",
        docs_url=None,  # these pages would load their code from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Gate, token=token, limits=limits, metrics=metrics)

    @app.exception_handler(ApproxMassError)
    async def mistake(request: Request, error: ApproxMassError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)

    async def aside(work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *given)

    @asynccontextmanager
    async def images_in(request: Request) -> AsyncIterator[tuple[list[str], Pixels]]:
        """Names and pixels of the images of a request, which keep their place meanwhile."""
        check_kind(request.headers)
        kind = request.headers["content-type"]
        async with receiver.body(request) as body:
            uploads = await aside(uploads_of, body, kind, limits)
            body.clear()  # the uploads hold the same again
            with batcher.place(len(uploads)):
                shape = (channels, height, width)
                images = await aside(images_of, uploads, shape, settings.size, limits)
                yield [upload.name for upload in uploads], images

    guarded = APIRouter(
        dependencies=[] if token is None else [Security(HTTPBearer(auto_error=False))],
        responses=_refusals(
            HTTPStatus.FORBIDDEN if token is None else HTTPStatus.UNAUTHORIZED,
        ),
    )
    takes_images: dict[str, Any] = {
        "responses": _refusals(
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.TOO_MANY_REQUESTS,
        ),
    }

    @guarded.post("/score", openapi_extra=_bodies(limits.images), **takes_images)
    async def score(request: Request) -> Results:
        """Score images: p-value and verdict of each."""
        async with images_in(request) as (names, images):
            rows = await batcher.score(images)
        return Results(
            results=[
                Result(
                    name=name,
                    log_prob=_or_none(row.log_prob),
                    mass=_or_none(row.mass),
                    statistic=row.statistic,
                    p_value=row.p_value,
                    is_outlier=row.is_outlier,
                )
                for name, row in zip(names, rows, strict=True)
            ]
        )

    @guarded.post("/drift", openapi_extra=_bodies(limits.images), **takes_images)
    async def drift(request: Request) -> Drift:
        """Test whether the images together have shifted away from the usual ones."""
        async with images_in(request) as (names, images):
            rows = await batcher.score(images)
        scores = np.array([row.statistic for row in rows])
        p = await aside(group_p_value, calibration, scores)
        return Drift(images=len(names), group_p_value=p)

    png = {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
    drawn = takes_images["responses"] | {200: png | {"description": "The picture."}}

    @guarded.post("/explain", openapi_extra=_bodies(1), responses=drawn, response_class=Response)
    async def explain(request: Request) -> Response:
        """Draw one image, beside itself with the map of where its mass comes from."""
        async with images_in(request) as (names, images):
            if len(names) != 1:
                raise Problem(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    f"there are {len(names)} images: send one at a time",
                )
            drawing = await batcher.alone(lambda: _heat(detector, images))
        return Response(drawing, media_type="image/png")

    @guarded.get("/histogram.json")
    async def histogram() -> dict[str, Any]:
        """Histogram of the scores of usual images, as a Vega-Lite specification.

        Its parameter `score` is where the mark stands.
        """
        limit = threshold(calibration, FALSE_ALARM_RATE)
        title = charts.TITLES.get(settings.statistic, settings.statistic)
        return await aside(charts.usual_histogram, calibration, title, limit)

    text = {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics."}

    @guarded.get("/metrics", response_class=Response, responses={200: text})
    async def metrics_text() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    open_to_all = APIRouter(responses={} if token else _refusals(HTTPStatus.FORBIDDEN))

    @open_to_all.get("/healthz")
    async def health() -> Health:
        """Whether the server answers, and what its detector is."""
        images = detector.facts["images"]
        return Health(
            status="ok",
            version=app.version,
            detector=Description(
                method=settings.method,
                statistic=settings.statistic,
                channels=channels,
                height=height,
                width=width,
                resizes=settings.size is not None,
                explains=settings.method == "flow",
                training_images=images["training"],
                calibration_images=images["calibration"],
            ),
        )

    app.add_api_route("/healthz", health, methods=["HEAD"], include_in_schema=False)
    app.include_router(guarded)
    app.include_router(open_to_all)
    for path, name, kind in (
        ("/", "page.html", "text/html"),
        ("/page.css", "page.css", "text/css"),
        ("/page.js", "page.js", "text/javascript"),
    ):
        app.add_api_route(path, _file(name, kind), methods=["GET", "HEAD"], include_in_schema=False)

    @app.get("/vega.js", include_in_schema=False)
    async def vega(request: Request) -> Response:
        script, tag = await aside(_vega)
        caching = {"ETag": tag, "Cache-Control": "public, max-age=86400"}
        if request.headers.get("if-none-match") == tag:
            return Response(None, HTTPStatus.NOT_MODIFIED, caching)
        return Response(script, headers=caching, media_type="text/javascript")

    return app


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _heat(detector: Detector, images: Pixels) -> bytes:
    buffer = io.BytesIO()
    picture(images[0], detector.explain(images).maps[0]).save(buffer, "PNG")
    return buffer.getvalue()


@functools.cache
def _vega() -> tuple[bytes, str]:
    script = charts.vega_script().encode()
    return script, f'"{hashlib.sha256(script).hexdigest()[:16]}"'


def _file(name: str, kind: str) -> Callable[[], Any]:
    content = resources.files(__package__).joinpath(name).read_bytes()

    async def answer() -> Response:
        return Response(content, headers={"Cache-Control": "no-cache"}, media_type=kind)

    return answer


def _refusals(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    return {int(status): {"model": Refusal, "description": status.phrase} for status in statuses}


def _bodies(most: int) -> dict[str, Any]:
    """The two kinds of body, for OpenAPI."""
    schema = ImagesInJson.model_json_schema()
    schema["properties"]["images"] |= {"maxItems": most}
    schema["properties"]["images"]["items"] |= {"format": "base64-image"}
    files = {
        "type": "object",
        "description": "One file a field, of any name.",
        "properties": {
            "image": {
                "type": "array",
                "minItems": 1,
                "maxItems": most,
                "items": {"type": "string", "format": "binary"},
            }
        },
        "required": ["image"],
        "additionalProperties": False,
    }
    content = {
        "multipart/form-data": {"schema": files, "encoding": {"image": {"contentType": "image/*"}}},
        "application/json": {"schema": schema},
    }
    return {"requestBody": {"required": True, "content": content}}
