"""Scores images as they arrive in a folder, into a log that survives being stopped."""

__all__ = ["Batch", "Watch", "check_log"]

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from filelock import FileLock, Timeout

from ..arrays import Floats
from ..calibration import p_values
from ..data import Chunk
from ..detector import Detector
from ..drift import DriftMonitor, DriftSteps
from ..errors import ApproxMassError
from ..scores import Scores
from ..storage.atomic import plain_os_errors
from ..storage.score_file import format_of, score_table
from .alarms import AlarmSender
from .arrivals import Arrivals, Found
from .identity import State
from .images import Images
from .log import Log, open_log
from .piece import Piece, Row
from .tables import Tables
from .totals import Alarm, Totals

# How far another machine's arithmetic may be from this one's when a log is replayed.
_SAME = 1e-6
# Column of what the test for drift goes by, where that is not the statistic: see `Scores.streamed`.
_FIRST = "statistic_of_first_fold"
# Seconds after which a request to stop is noticed.
_PATIENCE = 0.1
# Of a log that is replayed, rows taken in at a time.
_ROWS = 4096


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


class Watch:
    """Follows a folder, scores each image in it once, and watches the scores for a drift.

    The log is a `.csv` file, written through to the disk with every batch, or a folder `.parquet`
    of part files, each whole at any moment, which Arrow and pandas read as one table. Its columns
    are those of `approxmass score`, of detectors calibrated by folds `statistic_of_first_fold`
    (what the test for drift goes by), then `drift` (the evidence of a drift, 1 raises an alarm),
    `direction` (what most of it is for, `out-of-distribution` or `blander`) and `alarm`; `error`,
    `time` (when it was scored, UTC), of its file the `size` in bytes, the time `modified` in
    nanoseconds and a `digest`, and a `check` of the row and all before it. An unreadable image has
    a row with its error, and no part in the test; a later row of the same name takes its place.
    In names `\\xff` is a byte that is no text, and a backslash is two.

    All there is to know of a run is in its log: whoever opens it again goes on as if never
    stopped, from the statistics in it, after cutting off a last row that is not whole. The checks
    must be right, and calculated anew p-values and drift must be what the log says, or it is not
    that of this detector and rate. A log that another program has changed is not written to.

    A file written again is a new image, one renamed is none; `Images` says what is which. Of a
    detector of rows the files are tables, see `Tables`: each row is called `FILE:NUMBER`, and a
    table that cannot be read is one row.

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
        self,
        detector: Detector,
        folder: Path,
        log: Path,
        false_alarm_every: int = 100_000,
        sender: AlarmSender | None = None,
    ) -> None:
        if not folder.is_dir():
            raise ApproxMassError(
                f"{folder}: there is no such folder: make it or correct the name",
                code="bad-source",
            )
        check_log(log, folder)
        self.totals, self.unsent = Totals(), 0
        self._detector, self._path, self._sender = detector, log, sender
        self._monitor = DriftMonitor(
            detector.fitted.calibrated.streamed(detector.statistic),
            false_alarm_every,
            detector.settings.seed,
        )
        self._place = Path(os.path.realpath(log))  # one lock, by whatever name the log is called
        self._lock = FileLock(self._place.with_name(f".{self._place.name}.lock"))
        of_rows = detector.fitted.vectors
        self._files = Tables(detector, folder) if of_rows else Images(detector, folder)
        self._arrivals = Arrivals(folder, self._files)
        self._log: Log

    def __enter__(self) -> "Watch":
        with contextlib.ExitStack() as stack:
            self._keep_others_out(stack)
            self._log = stack.enter_context(
                contextlib.closing(open_log(self._path, self._schema()))
            )
            self._replay(self._log.read())
            self._log.start()
            if self._sender is not None:
                file = self._place.with_name(f".{self._place.name}.alarms.json")
                self._sender.start(file, self.totals.alarms)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self._sender is not None:
            self.unsent = self._sender.close()
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
        once: bool = False,
        stop: Sequence[object] = (),
    ) -> Iterator[Batch]:
        """Look into the folder again and again, and yield images once they are in the log.

        An image is scored once its file was the same at two looks, so that none is taken while it
        is being copied; one whose copy paused for longer is tried again when it goes on. Those that
        are there at first come in the order of their names, later ones in that of their
        modification.

        Arguments:
            interval: Seconds between two looks.
            until_idle: End after so many seconds in which no file has come or grown; None to go on
                for ever.
            once: Look twice at most, and end: a file is scored if it was the same at both, or has
                not changed for an interval.
            stop: End once this has an entry, after the batch under way.

        Raises:
            ApproxMassError: the folder cannot be read any more, the log cannot be written, was
                changed by another program, or a time that makes no sense.
        """
        _check_times(interval, until_idle, once)
        busy = time.monotonic()
        looks = 0
        while not stop:
            self._log.check()
            files = self._arrivals.look(interval if once else None)
            looks += 1
            for batch in self._score(files):
                yield batch
                if stop:
                    return
            if once and (looks == 2 or not self._arrivals.waiting):
                return
            if files or self._arrivals.waiting:
                busy = time.monotonic()
            elif until_idle is not None and time.monotonic() - busy >= until_idle:
                return
            wake = time.monotonic() + interval
            while not stop and (left := wake - time.monotonic()) > 0:
                time.sleep(min(left, _PATIENCE))

    def _score(self, files: Sequence[Found]) -> Iterator[Batch]:
        for piece in self._files.pieces(files, self._arrivals.done):
            rows = self._logged(piece)
            alarms = self._take(rows)
            for file, state in piece.done:
                self._arrivals.done(file, state)
            if self._sender is not None:
                self._sender.add(alarms)
            if len(rows):
                names, errors = rows["name"].to_pylist(), rows["error"].to_pylist()
                bad = [(n, e) for n, e in zip(names, errors, strict=True) if e is not None]
                yield Batch(names, bad, alarms)

    def _logged(self, piece: Piece) -> Any:
        """Add what is to be kept of a piece to the log; returns it as it is there."""
        rows = _scored_rows(piece.chunk, piece.scores).filter(pa.array(piece.kept))
        steps = self._monitor.update(_streamed(_readable(rows)))
        kept = np.flatnonzero(piece.kept)
        rows = _with_facts(
            rows, steps, [piece.states[i] for i in kept], [piece.digests[i] for i in kept]
        )
        return self._log.append(rows)

    def _take(self, rows: Any) -> list[Alarm]:
        """Take in rows of the log, just added or found there."""
        facts = [rows[name].to_pylist() for name in ("name", "size", "modified", "digest", "error")]
        self._files.take(
            Row(name, size, modified, bytes.fromhex(digest or ""), error is not None)
            for name, size, modified, digest, error in zip(*facts, strict=True)
        )
        self.totals.unreadable = self._files.unreadable
        return self.totals.take(_readable(rows))

    def _replay(self, rows: Any) -> None:
        """Take in what the log has, after holding it to what this detector finds."""
        if not self._is_ours(_readable(rows)):
            raise ApproxMassError(
                f"{self._path} is the log of another detector or another rate of false alarms, or "
                "was edited: give what it was made with, or choose another log",
                code="other-run",
            )
        try:
            for start in range(0, len(rows), _ROWS):
                self._take(rows.slice(start, _ROWS))
        except ValueError as error:
            raise ApproxMassError(
                f"{self._path} has a row that no file can have ({error}): move it away, and the "
                "images are scored anew",
                code="damaged",
            ) from error

    def _is_ours(self, scored: Any) -> bool:
        """Whether p-values and drift of the log are those of this detector and rate."""
        by_folds = _FIRST in scored.column_names
        p_value, drift, direction, alarm = (
            scored[name].to_numpy() for name in ("p_value", "drift", "direction", "alarm")
        )
        try:
            # A column with a gap comes as objects.
            streamed = _streamed(scored).astype(np.float64)
            steps = self._monitor.update(streamed)
            found = p_values(self._detector.calibration_scores, streamed)
            return bool(
                # By folds they need the score of each model, which is not in the log.
                (by_folds or np.allclose(found, p_value.astype(float), rtol=_SAME))
                and np.allclose(steps.drift, drift.astype(float), rtol=_SAME, atol=0)
                and (steps.direction == direction).all()
                and (steps.alarm == alarm).all()
            )
        except (TypeError, ValueError):
            return False

    def _schema(self) -> Any:
        """The columns of the log, but for the check."""
        blank = np.zeros((1, *self._detector.shape), np.uint8)
        rows = blank.reshape(1, -1) if self._detector.fitted.vectors else blank
        chunk, scores = next(self._detector.score_chunks(rows))
        steps = DriftSteps(*np.zeros((2, 1)), *np.zeros((2, 1), dtype=bool))
        state = State(0, 0, 0, True)
        return _with_facts(_scored_rows(chunk, scores), steps, [state], [b""]).schema


def _scored_rows(chunk: Chunk, scores: Scores) -> Any:
    """As `approxmass score`, and of detectors by folds what the test for drift goes by."""
    return score_table(chunk, scores, {} if scores.first is None else {_FIRST: scores.first})


def _readable(rows: Any) -> Any:
    return rows.filter(pa.compute.is_null(rows["error"]))


def _streamed(scored: Any) -> Floats:
    values: Floats = scored[_FIRST if _FIRST in scored.column_names else "statistic"].to_numpy()
    return values


def _with_facts(
    rows: Any, steps: DriftSteps, states: Sequence[State], digests: Sequence[bytes]
) -> Any:
    """The rows with what a log has besides: of the drift, of those readable, and of the files."""
    readable = np.array(pa.compute.is_null(rows["error"]))
    place = pa.array(np.cumsum(readable) - 1, mask=~readable)
    for name, values in (
        ("drift", pa.array(steps.drift)),
        ("direction", pa.array(steps.direction.tolist(), pa.string())),
        ("alarm", pa.array(steps.alarm)),
    ):
        rows = rows.add_column(rows.num_columns - 1, name, values.take(place))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name, column in (
        ("time", pa.array([now] * len(rows), pa.string())),
        ("size", pa.array([state.size for state in states], pa.int64())),
        ("modified", pa.array([state.modified for state in states], pa.int64())),
        ("digest", pa.array([digest.hex() or None for digest in digests], pa.string())),
    ):
        rows = rows.append_column(name, column)
    return rows


def _check_times(interval: float, until_idle: float | None, once: bool) -> None:
    if not interval > 0:
        raise ApproxMassError(
            f"the interval must be above 0 seconds, not {interval:g}", code="bad-option"
        )
    if until_idle is not None and not until_idle >= 0:
        raise ApproxMassError(
            f"the idle time must be 0 seconds or more, not {until_idle:g}", code="bad-option"
        )
    if once and until_idle is not None:
        raise ApproxMassError("once ends by itself: leave the idle time out", code="bad-option")


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
