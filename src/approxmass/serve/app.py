"""The routes of the server."""

__all__ = ["create_app"]

from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from ..detector import Detector
from ..errors import ApproxMassError
from .answers import Refusal
from .connections import Connections
from .gate import Gate
from .json_body import JSON
from .limits import Limits
from .page import add_page
from .rows import RowsInJson
from .service import Service
from .uploads import ImagesInJson

_PNG = {
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    "description": "The picture.",
}
_TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics."}


def create_app(
    detector: Detector,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    connections: Connections | None = None,
) -> FastAPI:
    """The server as an ASGI application.

    Arguments:
        detector: A fitted one; nothing else may use it meanwhile.
        token: Needed for everything but the page and its files and `/healthz`. None lets in every
            request that is addressed to localhost and not sent by a page of another site.
        limits: What is too much; by default those of `Limits()`.
        connections: Those of the server, if it counts them.
    """
    limits = limits or Limits()
    connections = Connections(limits) if connections is None else connections
    service = Service(detector, limits)
    service.metrics.follow(connections)
    app = FastAPI(
        title="approxmass",
        version=version("approxmass"),
        description="Which images do not belong, with calibrated p-values.",
        docs_url=None,  # FastAPI's own load their code from elsewhere; see page.py
        redoc_url=None,
    )
    app.add_middleware(
        Gate, token=token, limits=limits, metrics=service.metrics, connections=connections
    )

    @app.exception_handler(ApproxMassError)
    async def mistake(request: Request, error: ApproxMassError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)

    app.add_api_route("/healthz", service.health, methods=["HEAD"], include_in_schema=False)
    app.include_router(_guarded_routes(service, token))
    app.include_router(_open_routes(service, token))
    add_page(app)
    return app


def _guarded_routes(service: Service, token: str | None) -> APIRouter:
    """Those that need the token, if there is one."""
    router = APIRouter(
        dependencies=[] if token is None else [Security(HTTPBearer(auto_error=False))],
        responses=_refusals(
            HTTPStatus.FORBIDDEN if token is None else HTTPStatus.UNAUTHORIZED,
        ),
    )
    refused = _refusals(
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
    )
    most = service.limits.images
    bodies = _rows(most) if service.detector.fitted.vectors else _bodies(most)
    router.post("/score", openapi_extra=bodies, responses=refused)(service.score)
    router.post("/drift", openapi_extra=bodies, responses=refused)(service.drift)
    router.post(
        "/explain",
        openapi_extra=_bodies(1),
        responses={**refused, 200: _PNG},
        response_class=Response,
    )(service.explain)
    router.get("/histogram.json")(service.histogram)
    router.get("/metrics", response_class=Response, responses={200: _TEXT})(service.metrics_text)
    return router


def _open_routes(service: Service, token: str | None) -> APIRouter:
    router = APIRouter(responses={} if token else _refusals(HTTPStatus.FORBIDDEN))
    router.get("/healthz")(service.health)
    return router


def _refusals(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    return {int(status): {"model": Refusal, "description": status.phrase} for status in statuses}


def _rows(most: int) -> dict[str, Any]:
    """The body with at most so many rows of numbers, for OpenAPI."""
    schema = RowsInJson.model_json_schema()
    schema["properties"]["rows"] |= {"maxItems": most}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


def _bodies(most: int) -> dict[str, Any]:
    """The two kinds of body with at most so many images, for OpenAPI."""
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
        JSON: {"schema": schema},
    }
    return {"requestBody": {"required": True, "content": content}}
