"""What the routes do, with one detector."""

__all__ = ["Service"]

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ..calibrated import Calibrated
from ..calibration import FALSE_ALARM_RATE, threshold
from ..data import Chunk
from ..data.png import png_bytes
from ..detector import Detector
from ..explain.picture import picture, shown_size
from ..rank_sum import group_p_value
from ..report import charts
from ..runtime.cores import cores
from .answers import Description, Drift, Health, LeftOut, Result, Results
from .batching import Batcher
from .limits import Limits, RequestRefused
from .monitoring import Metrics
from .rows import UploadedRow, check_rows_kind, rows_in, rows_of
from .uploads import Receiver, Upload, check_kind, images_of, uploads_of

T = TypeVar("T")

_MOST_DECODERS = 4


class Service:
    """Answers requests with one detector.

    Every public method is a route, and its docstring what the server's description
    says of it.

    Arguments:
        detector: A fitted one; nothing else may use it meanwhile.
        limits: What is too much.

    Attributes:
        metrics: What is counted.
    """

    def __init__(self, detector: Detector, limits: Limits) -> None:
        self.detector = detector
        self.limits = limits
        self.metrics = Metrics()
        self._receiver = Receiver(limits)
        self._batcher = Batcher(detector, limits, self.metrics.count_batch)
        self.metrics.waiting.set_function(lambda: self._batcher.waiting)
        self._pool = ThreadPoolExecutor(min(detector.threads or cores(), _MOST_DECODERS), "decode")

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a slow function returns, called while the event loop goes on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, function, *arguments)

    @asynccontextmanager
    async def _images_in(self, request: Request, group: str | None) -> AsyncIterator[Chunk]:
        """The images of a request, at least one that can be used, which keep their place meanwhile.

        Raises:
            RequestRefused: There is none, or the request is not as it should be.
        """
        self._calibrated(group)
        if unknown := request.query_params.keys() - {"group"}:
            raise RequestRefused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"the address has {min(unknown)!r}, which nothing here knows: leave it out",
            )
        rows = self.detector.fitted.vectors
        (check_rows_kind if rows else check_kind)(request.headers)
        async with self._receiver.body(request) as body:
            uploads: Sequence[Upload | UploadedRow]
            if rows:
                columns = len(self.detector.settings.columns or ())
                uploads = await self._in_thread(rows_in, body, self.limits, columns)
            else:
                kind = request.headers["content-type"]
                uploads = await self._in_thread(uploads_of, body, kind, self.limits)
            body.clear()  # the uploads hold the same again
            with self._batcher.reserve(len(uploads)):
                chunk = await self._in_thread(
                    rows_of if rows else images_of, uploads, self.detector, self.limits
                )
                if group is not None:
                    chunk = replace(chunk, groups=[group] * len(chunk.images))
                yield chunk

    def _calibrated(self, group: str | None) -> Calibrated:
        """What images of a group are compared with.

        Raises:
            RequestRefused: 422, the group is missing, not known, or given where there is none.
        """
        known = self.detector.fitted.in_use
        if known.per is None and group is None:
            return known.only
        if group is None:
            raise RequestRefused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "this detector is calibrated per group: name that of the images, ?group=NAME "
                f"({', '.join(known.groups)})",
            )
        return known.of(group)

    async def score(self, request: Request, group: str | None = None) -> Results:
        """Score images: p-value and verdict of each, or why it has none."""
        async with self._images_in(request, group) as chunk:
            rows = iter(await self._batcher.score(chunk))
        return Results(
            results=[
                Result.of(name, next(rows)) if error is None else Result(name=name, error=error)
                for name, error in zip(chunk.names, chunk.errors, strict=True)
            ]
        )

    async def drift(self, request: Request, group: str | None = None) -> Drift:
        """Test whether the images together have shifted away from in-distribution images.

        Those that cannot be scored are left out, and named.
        """
        async with self._images_in(request, group) as chunk:
            rows = await self._batcher.score(chunk)
        scores = np.array([row.statistic if row.first is None else row.first for row in rows])
        of, name = self._calibrated(group), self.detector.statistic
        p = await self._in_thread(group_p_value, of.streamed(name), scores)
        left_out = [LeftOut(name=name, error=error) for name, error in chunk.unreadable]
        return Drift(images=len(rows), group_p_value=p, left_out=left_out)

    async def explain(self, request: Request, group: str | None = None) -> Response:
        """Draw one image, beside itself with the map of where it does not belong."""
        self.detector.fitted.check_images("/explain")
        async with self._images_in(request, group) as chunk:
            if len(chunk.names) != 1:
                raise RequestRefused(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    f"there are {len(chunk.names)} images: send one at a time",
                )
            drawing = await self._batcher.between_batches(lambda: self._draw(chunk))
        return Response(drawing, media_type="image/png")

    def _draw(self, chunk: Chunk) -> bytes:
        detector, boxes = self.detector, chunk.boxes
        found = detector.explain_pixels(
            chunk.images, boxes, [shown_size(chunk.sizes[0])], chunk.groups
        )
        box, p = None if boxes is None else boxes[0], float(found.scores.p_value[0])
        return png_bytes(picture(chunk.images[0], box, found, 0, name=chunk.names[0], p_value=p))

    async def histogram(self, group: str | None = None) -> dict[str, Any]:
        """Histogram of the scores of in-distribution images, as a Vega-Lite specification.

        Its parameter `score` is where the mark stands.
        """
        scores = self._calibrated(group).scores[self.detector.statistic]
        title = self.detector.statistics[self.detector.statistic].axis
        limit = threshold(scores, FALSE_ALARM_RATE)
        return await self._in_thread(charts.calibration_histogram, scores, title, limit)

    async def metrics_text(self) -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def health(self) -> Health:
        """Whether the server answers, and what its detector is."""
        detector, known = self.detector, self.detector.fitted.in_use
        channels, height, width = detector.shape
        return Health(
            status="ok",
            version=version("approxmass"),
            detector=Description(
                method=detector.settings.method,
                statistic=detector.statistic,
                channels=channels,
                height=height,
                width=width,
                columns=list(detector.settings.columns or ()),
                resizes=detector.settings.size is not None,
                explains=detector.model.explains and not detector.fitted.vectors,
                groups=[] if known.per is None else list(known.groups),
                training_images=detector.facts.training,
                calibration_images=known.count,
            ),
        )
