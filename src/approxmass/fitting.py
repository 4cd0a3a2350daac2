"""A fit from one end to the other: images, model, calibration."""

__all__ = ["fitted_on"]

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, Labels, Pixels, Shape
from .data import ImageSource
from .data.copies import stored_digests, units_of
from .data.frame import Box, Frame, Resample
from .data.framing import framed
from .data.groups import open_groups
from .errors import ApproxMassError
from .explain.attribution import peaks_of
from .fitted import FitFacts, Fitted, Settings
from .models.base import FitData, FitRun, Model, Plan
from .models.given import classes_for, outliers_for
from .models.probe import probed, versions
from .models.registry import make_model
from .models.views import Gathered, gathered
from .storage.spool import Spool
from .training.holdout import FEWEST_UNITS, Shares, three_shares

# Images whose statistics are computed together: their whole views are large.
_TOGETHER = 64
# The peaks of the maps of so many say what is usual: a gradient takes longer than a score.
_MOST_PEAKS = 1024


def fitted_on(
    source: ImageSource,
    labels: Any,
    outliers: Any,
    groups: Any,
    asked: Settings,
    options: Mapping[str, Any],
    run: FitRun,
) -> Fitted:
    """Learn from images and calibrate on a share of them; see `Detector.fit`.

    Arguments:
        source: Images in the size that they have.
        labels: As of `Detector.fit`.
        outliers: As of `Detector.fit`.
        groups: As of `Detector.fit`.
        asked: Settings.
        options: Of the model.
        run: How.

    Raises:
        ApproxMassError: as `Detector.fit`.
    """
    started = time.monotonic()
    groups = None if groups is None else units_of(open_groups(groups, source))
    # Copies by what is stored of images, which decodes none, and then by what is seen of them.
    copies = units_of(stored_digests(source))
    while True:
        shares = three_shares(copies, asked.holdout, asked.seed, source.name, groups=groups)
        ready = _ready(source, shares, labels, outliers, asked, options, run)
        with Spool() as views, Spool() as images:
            seen = _gathered(ready, shares, views, images, run)
            copies = units_of(copies, seen.digests)
            if shares.straddle(copies):
                continue
            units = copies if groups is None else groups
            _check_varied(seen.digests[shares.order[shares.training]])
            given = _given(ready, shares, seen, np.arange(len(units)) if shares.again else units)
            notes = [*ready.notes, *_of_copies(copies, shares, groups)]
            ready.model.learn(given, replace(run, notes=notes))
            scores, peaks = _calibrated(ready.model, views, images, seen.boxes)
        break
    model, seen_as = ready.model, ready.source
    facts = FitFacts(
        shape=seen_as.shape,
        source=source.name,
        sha256=seen.sha256,
        training=len(given.training),
        reference=len(given.reference),
        calibration=len(scores[model.decides]),
        left_out=shares.left_out.stop - shares.left_out.start,
        outliers=ready.learnt_from,
        notes=(*notes, *seen_as.remarks()),
        versions=versions(),
        fit_seconds=round(time.monotonic() - started, 2),
    )
    resample = _resample(seen_as, ready.plan)
    settings = replace(asked, size=ready.size, resample=resample, options=model.options())
    return Fitted(
        settings=settings,
        facts=facts,
        model=model,
        calibration=scores,
        peaks=peaks,
        probe=probed(model, seen_as.shape, asked.seed),
        digests=np.unique(seen.digests),
        shares=shares,
    )


def _check_varied(digests: NDArray[np.int64]) -> None:
    if len(np.unique(digests)) == 1:
        raise ApproxMassError(
            "all images are the same: there is nothing to learn from them", code="no-variation"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ready:
    """A model, ready to see the images, and all that there is besides."""

    model: Model
    source: ImageSource
    plan: Plan
    size: int | None
    notes: list[str]
    classes: Labels | None
    outliers: Pixels | None
    learnt_from: str | None


def _ready(
    source: ImageSource,
    shares: Shares,
    labels: Any,
    outliers: Any,
    asked: Settings,
    options: Mapping[str, Any],
    run: FitRun,
) -> _Ready:
    model = make_model(asked.method, asked.seed, options)
    # What images are taken for, and their frame, must not depend on those that calibrate.
    source = source.looking_at(shares.order[shares.training])
    plan = model.plan(_typical(source))
    source, size, notes = _in_frame(source, plan, asked.size)
    classes = classes_for(model, source, labels)
    others, learnt_from = outliers_for(model, source, outliers, asked.open, threads=run.threads)
    model.prepare(source.shape, run.device, source.region)
    return _Ready(
        model=model,
        source=source,
        plan=plan,
        size=size,
        notes=notes,
        classes=classes,
        outliers=others,
        learnt_from=learnt_from,
    )


def _gathered(ready: _Ready, shares: Shares, views: Spool, images: Spool, run: FitRun) -> Gathered:
    return gathered(
        ready.model,
        ready.source,
        shares.order,
        whole=_whole(ready.model, shares),
        spooled=shares.calibration,
        views_spool=views,
        images_spool=images,
        device=run.device,
        threads=run.threads,
        progress=run.progress,
    )


def _given(ready: _Ready, shares: Shares, seen: Gathered, units: NDArray[np.int64]) -> FitData:
    """What the model learns from; `units` of all images."""
    trained = shares.order[shares.training]
    sha256 = seen.sha256
    if len(np.unique(units)) < len(units):  # a checkpoint is then of this split, too
        sha256 = hashlib.sha256(sha256.encode() + trained.tobytes()).hexdigest()
    return FitData(
        shape=ready.source.shape,
        training=seen.kept[shares.training],
        reference=seen.kept[shares.reference],
        sha256=sha256,
        units=units[trained],
        whole=seen.whole,
        labels=None if ready.classes is None else ready.classes[trained],
        outliers=ready.outliers,
    )


def _of_copies(
    copies: NDArray[np.int64], shares: Shares, groups: NDArray[np.int64] | None
) -> list[str]:
    """What was done about copies and groups, in words."""
    count, distinct = len(copies), int(copies.max()) + 1
    notes = []
    if shares.again:
        notes.append(
            f"copies: these {count:,} images are {distinct:,} different ones, too few to hold some "
            "out: they are taken for a set that comes again and again, and the p-values are for "
            f"these; to detect among new images, give at least {FEWEST_UNITS} different ones"
        )
    elif distinct < count:
        are = (
            "1 image is a copy of another"
            if count - distinct == 1
            else (f"{count - distinct:,} images are copies of others")
        )
        notes.append(f"copies: {are}: kept on one side, where each counts once to calibrate")
    if groups is not None:
        notes.append(
            f"groups: {count:,} images in {int(groups.max()) + 1:,} groups, each kept on one side; "
            f"one image of each group held out is used, {shares.calibration.stop:,} in all"
        )
    return notes


def _whole(model: Model, shares: Shares) -> NDArray[np.int64]:
    """Rows whose whole views are kept: of those for reference, then of those to train on."""
    rows = np.arange(len(shares.order))
    training = rows[shares.training]
    wanted = np.concatenate([rows[shares.reference], training])
    return wanted[: model.whole(len(training))]


def _calibrated(
    model: Model, views: Spool, images: Spool, boxes: list[Box] | None
) -> tuple[dict[str, Floats], Floats]:
    """Statistics of the images that calibrate, and the peaks of the maps of some of these."""
    found: dict[str, list[Floats]] = {}
    peaks: list[Floats] = []
    done = 0
    for rows, pixels in zip(views.chunks(_TOGETHER), images.chunks(_TOGETHER), strict=True):
        if model.explains and done < _MOST_PEAKS:
            where = None if boxes is None else boxes[done : done + len(rows)]
            statistics, surfaces = model.explain(pixels, rows, where)
            peaks.append(peaks_of(surfaces))
        else:
            statistics = model.statistics_of(rows)
        for name, values in statistics.items():
            found.setdefault(name, []).append(values)
        done += len(rows)
    scores = _finite({name: np.concatenate(each) for name, each in found.items()})
    return scores, np.concatenate(peaks) if peaks else np.empty(0)


def _typical(source: ImageSource) -> Shape:
    """`(C, H, W)` of the image of median area among some."""
    sizes = sorted(source.sizes(), key=lambda size: size[0] * size[1])
    return (source.native_shape[0], *sizes[len(sizes) // 2])


def _in_frame(
    source: ImageSource, plan: Plan, asked: int | None
) -> tuple[ImageSource, int | None, list[str]]:
    """The images as the model wants them, the size that this is, and the remarks so far."""
    notes = list(plan.notes)
    if asked is None and source.frame is not None:  # as they were opened
        _check_frame(source.frame, plan)
        side = max(1, round(math.sqrt(source.frame.height * source.frame.width)))
        return source, side, notes
    size = plan.side if asked is None else asked
    sizes = set(source.sizes())
    if size is None and len(sizes) > 1:  # small, but not of one size
        size = round(math.sqrt(np.median([height * width for height, width in sizes])))
    if size is None:
        return source, None, notes
    if plan.square and size != plan.side:
        raise ApproxMassError(
            f"this encoder takes images of {plan.side}x{plan.side}: leave the size out",
            code="bad-option",
        )
    source, note = framed(
        source, size, stride=plan.stride, square=plan.square, resample=plan.resample
    )
    return source, size, [*notes, *([note] if asked is None else [])]


def _check_frame(frame: Frame, plan: Plan) -> None:
    if plan.square and frame[:2] != (plan.side, plan.side):
        raise ApproxMassError(
            f"this encoder takes images of {plan.side}x{plan.side}: open them at that size",
            code="bad-option",
        )
    if frame.height % plan.stride or frame.width % plan.stride:
        raise ApproxMassError(
            f"this encoder takes sides that are multiples of {plan.stride}, not "
            f"{frame.width}x{frame.height}: open the images at another size, or at none",
            code="bad-option",
        )


def _resample(source: ImageSource, plan: Plan) -> Resample:
    return plan.resample if source.frame is None else source.frame.resample


def _finite(scores: dict[str, Floats]) -> dict[str, Floats]:
    if not all(np.isfinite(values).all() for values in scores.values()):
        raise ApproxMassError(
            "the scores of in-distribution images are not finite: the method did not learn "
            "from them",
            code="diverged",
        )
    return scores
