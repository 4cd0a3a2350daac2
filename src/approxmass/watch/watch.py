"""Scores images as they arrive in a folder, into a log that survives being stopped."""

__all__ = ["Alarm", "Batch", "Totals", "Watch", "check_log"]

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ..arrays import Bools, Floats
from ..calibration import p_values
from ..data import Chunk
from ..data.readers.folder import image_files, open_files, shown_name
from ..detector import Detector
from ..drift import DriftMonitor, DriftSteps
from ..errors import ApproxMassError
from ..scores import Scores
from ..storage.atomic import plain_os_errors
from ..storage.score_file import format_of, score_table
from .arrivals import Arrivals
from .log import Log, open_log
from .tables import file_of, rows_of, table_files

# How far another machine's arithmetic may be from this one's when a log is replayed.
_SAME = 1e-6
# Column of what the test for drift goes by, where that is not the statistic: see `Scores.streamed`.
_FIRST = "statistic_of_first_fold"
# Seconds after which a request to stop is noticed.
_PATIENCE = 0.1


@dataclass(frozen=True)
class Alarm:
    """A drift alarm.

    Attributes:
        image: The image that raised it, as a path from the folder.
        images: How many images were scored since the last alarm or the start, with this one.
        direction: What most of the evidence is for: images that are more `out-of-distribution`
            than the usual, or `blander`.
    """

    image: str
    images: int
    direction: str


@dataclass(frozen=True)
class Batch:
    """Images whose rows have been added to the log.

    Attributes:
        names: Of all of them, as paths from the folder.
        unreadable: Of those that could not be read: the name, and why.
        alarms: Drift alarms that they raised.
    """

    names: list[str]
    unreadable: list[tuple[str, str]]
    alarms: list[Alarm]


@dataclass
class Totals:
    """What is in a log, the rows of earlier runs included.

    Attributes:
        scored: Images that could be read.
        unreadable: Images that could not.
        outliers: Images with a p-value of at most 5%.
        drift: The evidence of a drift after the last image; 1 raises an alarm.
        alarms: All drift alarms.
    """

    scored: int = 0
    unreadable: int = 0
    outliers: int = 0
    drift: float = 0.0
    alarms: list[Alarm] = field(default_factory=list)


class Watch:
    """Follows a folder, scores each image in it once, and watches the scores for a drift.

    The log is a `.csv` file, written through to the disk with every batch, or a folder `.parquet`
    of part files, each whole at any moment, which Arrow and pandas read as one table. Its columns
    are those of `approxmass score`, of detectors calibrated by folds `statistic_of_first_fold`
    (what the test for drift goes by), then `drift` (the evidence of a drift, 1 raises an alarm),
    `direction` (what most of it is for, `out-of-distribution` or `blander`) and `alarm`, and
    `error`; an unreadable image has a row with its error, and no part in the test.

    All there is to know of a run is in its log: whoever opens it again goes on as if never
    stopped, from the statistics in it, after cutting off a last row that is not whole. Of a
    detector of rows the files are tables, each row is called `FILE:NUMBER`, and a table that cannot
    be read is one row. Calculated
    anew from these, p-values and drift must be what the log says, or it is not that of this
    detector and rate.

    Use it as a context manager, which keeps others from writing to the same log.

    Arguments:
        detector: A fitted detector.
        folder: Where the images arrive; the same files count as images as for `open_images`.
        log: Name of the log, not in `folder`.
        false_alarm_every: How many in-distribution images there are, on average, to a false alarm;
            at least. See `DriftMonitor`.

    Attributes:
        totals: What is in the log; it grows with every batch.

    Raises:
        ApproxMassError: no such folder; a log in it, one that cannot be written, of another
            detector or rate, damaged, or in use.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> place = Path(tempfile.mkdtemp())
        >>> (place / "camera").mkdir()
        >>> Image.new("L", (8, 8), 255).save(place / "camera" / "white.png")
        >>> images = np.random.default_rng(0).integers(0, 99, (200, 8, 8), np.uint8)
        >>> detector = Detector(method="gaussian").fit(images)
        >>> with Watch(detector, place / "camera", place / "log.csv") as watch:
        ...     for batch in watch.batches(interval=0.01, until_idle=0):
        ...         print(batch.names, watch.totals.outliers)
        ['white.png'] 1
    """

    def __init__(
        self, detector: Detector, folder: Path, log: Path, false_alarm_every: int = 100_000
    ) -> None:
        if not folder.is_dir():
            raise ApproxMassError(
                f"{folder}: there is no such folder: make it or correct the name",
                code="bad-source",
            )
        check_log(log, folder)
        self.totals = Totals()
        self._detector, self._folder, self._path = detector, folder, log
        self._monitor = DriftMonitor(
            detector.fitted.calibrated.streamed(detector.statistic),
            false_alarm_every,
            detector.settings.seed,
        )
        place = Path(os.path.realpath(log))  # one lock, by whatever name the log is called
        self._lock = FileLock(place.with_name(f".{place.name}.lock"))
        self._of_rows = detector.fitted.vectors
        self._done: dict[str, int] = {}  # rows of a file that are in the log
        self._log: Log
        self._arrivals: Arrivals

    def __enter__(self) -> "Watch":
        with contextlib.ExitStack() as stack:
            self._keep_others_out(stack)
            blank = np.zeros((1, *self._detector.shape), np.uint8)
            rows = blank.reshape(1, -1) if self._of_rows else blank
            chunk, scores = next(self._detector.score_chunks(rows))
            nothing = DriftSteps(*np.zeros((2, 1)), *np.zeros((2, 1), dtype=bool))
            schema = score_table(chunk, scores, _columns(scores, nothing)).schema
            self._log = stack.enter_context(contextlib.closing(open_log(self._path, schema)))
            found = table_files if self._of_rows else _image_files
            self._arrivals = Arrivals(self._folder, found, self._known(self._log.read()))
            self._log.append(schema.empty_table())  # so that there is a log, of whole rows
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _keep_others_out(self, stack: contextlib.ExitStack) -> None:
        with plain_os_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(self._lock.acquire(timeout=0))
            except Timeout:
                raise ApproxMassError(
                    f"another process writes to {self._path}: stop it, or choose another log",
                    code="in-use",
                ) from None

    def batches(
        self,
        *,
        interval: float = 1.0,
        until_idle: float | None = None,
        stop: Sequence[object] = (),
    ) -> Iterator[Batch]:
        """Look into the folder again and again, and yield images once they are in the log.

        An image is scored once its file was the same at two looks, so that none is taken while it
        is being copied. Those that are there at first come in the order of their names, later ones
        in that of their modification. A file that changes after that is not scored again.

        Arguments:
            interval: Seconds between two looks.
            until_idle: End after so many seconds in which no file has come or grown; None to go on
                for ever.
            stop: End once this has an entry, after the batch under way.

        Raises:
            ApproxMassError: the folder cannot be read any more, the log cannot be written, or a
                time that makes no sense.
        """
        if not interval > 0:
            raise ApproxMassError(
                f"the interval must be above 0 seconds, not {interval:g}", code="bad-option"
            )
        if until_idle is not None and not until_idle >= 0:
            raise ApproxMassError(
                f"the idle time must be 0 seconds or more, not {until_idle:g}", code="bad-option"
            )
        busy = time.monotonic()
        while not stop:
            names = self._arrivals.look()
            for batch in self._score(names):
                yield batch
                if stop:
                    return
            if names or self._arrivals.waiting:
                busy = time.monotonic()
            elif until_idle is not None and time.monotonic() - busy >= until_idle:
                return
            wake = time.monotonic() + interval
            while not stop and (left := wake - time.monotonic()) > 0:
                time.sleep(min(left, _PATIENCE))

    def _known(self, log: Any) -> set[str]:
        """Take in the rows of a log; returns the files that need no look any more.

        A run that was killed may have ended within a file of rows.
        """
        names = self._replay(log)
        if not self._of_rows or not names:
            return set(names)
        files = [file_of(name) for name in names]
        if files[-1] == names[-1]:  # it could not be read
            return set(files)
        self._done = {files[-1]: files.count(files[-1])}
        return {*files} - {files[-1]}

    def _pieces(self, files: list[str]) -> Iterator[tuple[Chunk, Scores]]:
        """The images of files, or their rows, scored some at a time."""
        if not self._of_rows:
            source = open_files(str(self._folder), self._folder, files)
            yield from self._detector.score_chunks(source)
            return
        for file in files:
            done = self._done.pop(shown_name(file), 0)
            yield from rows_of(self._detector, self._folder, file, done)
            self._arrivals.known.add(shown_name(file))

    def _score(self, files: list[str]) -> Iterator[Batch]:
        if not files:
            return
        for chunk, scores in self._pieces(files):
            errors = chunk.unreadable
            alarms = len(self.totals.alarms)
            steps = self._count(chunk.readable, scores.streamed, len(errors), scores.is_outlier)
            self._log.append(score_table(chunk, scores, _columns(scores, steps)))
            if not self._of_rows:
                self._arrivals.known.update(chunk.names)
            yield Batch(chunk.names, errors, self.totals.alarms[alarms:])

    def _count(
        self, names: list[str], statistic: Floats, unreadable: int, outliers: Bools
    ) -> DriftSteps:
        """Take in the images of some rows, just scored or found in the log."""
        before = self._monitor.since_alarm
        steps = self._monitor.update(statistic)
        for i in np.flatnonzero(steps.alarm):
            direction = str(steps.direction[i])
            self.totals.alarms.append(Alarm(names[i], before + int(i) + 1, direction))
            before = -int(i) - 1
        self.totals.scored += len(names)
        self.totals.unreadable += unreadable
        self.totals.outliers += int(outliers.sum())
        if len(names):
            self.totals.drift = float(steps.drift[-1])
        return steps

    def _replay(self, rows: Any) -> list[str]:
        """Take in the rows of the log; returns the names in it."""
        names = rows["name"].to_pylist()
        scored = rows.filter(pa.compute.is_null(rows["error"]))
        by_folds = _FIRST in scored.column_names
        streamed = _FIRST if by_folds else "statistic"
        statistic, p_value, drift, direction, alarm, outlier = (
            scored[name].to_numpy()
            for name in (streamed, "p_value", "drift", "direction", "alarm", "is_outlier")
        )
        calibration = self._detector.calibration_scores
        try:
            # A column with a gap comes as objects.
            steps = self._count(
                scored["name"].to_pylist(),
                statistic.astype(np.float64),
                len(rows) - len(scored),
                outlier.astype(bool),
            )
            found = p_values(calibration, statistic)
            same = (
                # By folds they need the score of each model, which is not in the log.
                (by_folds or np.allclose(found, p_value.astype(float), rtol=_SAME))
                and np.allclose(steps.drift, drift.astype(float), rtol=_SAME, atol=0)
                and (steps.direction == direction).all()
                and (steps.alarm == alarm).all()
            )
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ApproxMassError(
                f"{self._path} is the log of another detector or another rate of false alarms, or "
                "was edited: give what it was made with, or choose another log",
                code="other-run",
            )
        return list(names)


def _image_files(folder: Path) -> list[str]:
    return image_files(str(folder), folder)


def _columns(scores: Scores, steps: DriftSteps) -> dict[str, NDArray[Any]]:
    """What a log has besides the columns of `approxmass score`."""
    first = {} if scores.first is None else {_FIRST: scores.first}
    drift = {"drift": steps.drift, "direction": steps.direction, "alarm": steps.alarm}
    return {**first, **drift}


def check_log(log: Path, folder: Path) -> None:
    """Refuse a log whose name does not end in .csv or .parquet, or that is in the folder.

    Raises:
        ApproxMassError: as said.
    """
    format_of(log, known=("csv", "parquet"))
    place, watched = os.path.realpath(log), os.path.realpath(folder)
    if os.path.commonpath([place, watched]) == watched:
        raise ApproxMassError(
            f"{log} is in {folder}, which is watched: choose a place outside",
            code="would-overwrite",
        )
