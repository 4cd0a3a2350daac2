"""The images of requests under way, scored together."""

__all__ = ["Batcher", "Row"]

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple, TypeVar

import numpy as np

from ..data import Chunk
from ..detector import Detector
from .limits import Limits, RequestRefused

T = TypeVar("T")


class Row(NamedTuple):
    """Scores of one image, as in `Scores`."""

    log_prob: float
    mass: float
    statistic: float
    p_value: float
    is_outlier: bool
    group: str | None = None
    first: float | None = None


@dataclass(frozen=True, eq=False)
class _Job:
    chunk: Chunk
    answer: "asyncio.Future[list[Row]]"


class Batcher:
    """Scores what waits together, in one thread, while the event loop goes on.

    While a batch is scored the next one gathers, so that batches grow with the load and a lone
    request waits for nobody.

    Arguments:
        detector: Used by one thread at a time.
        limits: How many images wait, and how many are scored together.
        on_batch: Called with the rows of every batch, on the event loop.
    """

    def __init__(
        self, detector: Detector, limits: Limits, on_batch: Callable[[Sequence[Row]], None]
    ) -> None:
        self.detector = detector
        self.limits = limits
        self.waiting = 0
        self._on_batch = on_batch
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, "score")
        self._worker: asyncio.Task[None] | None = None

    @contextmanager
    def reserve(self, images: int) -> Iterator[None]:
        """Keep room for so many images, from before they are decoded until they are answered.

        Raises:
            RequestRefused: 429, there is none.
        """
        if self.waiting + images > self.limits.waiting:
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS, "too many images wait: try again in a second"
            )
        self.waiting += images
        try:
            yield
        finally:
            self.waiting -= images

    async def score(self, chunk: Chunk) -> list[Row]:
        """Rows of images, as the detector sees them, in their order.

        Raises:
            ApproxMassError: a score is NaN.
        """
        job = _Job(chunk, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._score_all())
        return await job.answer

    async def between_batches(self, function: Callable[[], T]) -> T:
        """What a function of no arguments returns, which may use the detector meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _score_all(self) -> None:
        while self._jobs:
            jobs = self._next_batch()
            answers = await self.between_batches(lambda jobs=jobs: self._score(jobs))  # type: ignore[misc]
            self._on_batch([row for rows in answers if isinstance(rows, list) for row in rows])
            for job, rows in zip(jobs, answers, strict=True):
                if job.answer.done():  # nobody waits for it any more
                    continue
                if isinstance(rows, list):
                    job.answer.set_result(rows)
                else:
                    job.answer.set_exception(rows)

    def _next_batch(self) -> list[_Job]:
        """The jobs that came first: one, and as many more as a batch holds."""
        jobs = [self._jobs.popleft()]
        count = len(jobs[0].chunk.images)
        while self._jobs and count + len(self._jobs[0].chunk.images) <= self.limits.batch:
            jobs.append(self._jobs.popleft())
            count += len(jobs[-1].chunk.images)
        return jobs

    def _score(self, jobs: Sequence[_Job]) -> list[list[Row] | Exception]:
        """Rows of each job, or what went wrong with it."""
        try:
            images = np.concatenate([job.chunk.images for job in jobs])
            boxes = None
            if jobs[0].chunk.boxes is not None:  # then all have some
                boxes = [box for job in jobs for box in job.chunk.boxes or []]
            groups = None
            if jobs[0].chunk.groups is not None:  # then all have some
                groups = [group for job in jobs for group in job.chunk.groups or []]
            scores = self.detector.score_pixels(images, boxes, groups)
        except Exception as error:
            if len(jobs) == 1:
                return [error]
            # An image that cannot be scored is no reason to refuse the others.
            return [answer for job in jobs for answer in self._score([job])]
        found = [getattr(scores, name) for name in Row._fields]
        columns = [[None] * len(scores) if each is None else each.tolist() for each in found]
        rows = [Row(*values) for values in zip(*columns, strict=True)]
        ends = np.cumsum([len(job.chunk.images) for job in jobs]).tolist()
        return [rows[a:b] for a, b in zip([0, *ends], ends, strict=False)]
