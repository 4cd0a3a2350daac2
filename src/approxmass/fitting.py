"""A fit from one end to the other: images, model, calibration."""

__all__ = ["fitted_on"]

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, Shape
from .data import ImageSource
from .data.frame import Box, Frame, Resample
from .data.framing import framed
from .errors import ApproxMassError
from .explain.attribution import peaks_of
from .fitted import FitFacts, Fitted, Settings
from .models.base import FitData, FitRun, Model, Plan
from .models.given import classes_for, outliers_for
from .models.probe import probed, versions
from .models.registry import make_model
from .models.views import gathered
from .storage.spool import Spool
from .training.holdout import Shares, three_shares

# Images whose statistics are computed together: their whole views are large.
_TOGETHER = 64
# The peaks of the maps of so many say what is usual: a gradient takes longer than a score.
_MOST_PEAKS = 1024


def fitted_on(
    source: ImageSource,
    labels: Any,
    outliers: Any,
    asked: Settings,
    options: Mapping[str, Any],
    run: FitRun,
) -> Fitted:
    """Learn from images and calibrate on a share of them; see `Detector.fit`.

    Arguments:
        source: Images in the size that they have.
        labels: As of `Detector.fit`.
        outliers: As of `Detector.fit`.
        asked: Settings.
        options: Of the model.
        run: How.

    Raises:
        ApproxMassError: as `Detector.fit`.
    """
    started = time.monotonic()
    model = make_model(asked.method, asked.seed, options)
    shares = three_shares(len(source), asked.holdout, asked.seed, source.name)
    # What images are taken for, and their frame, must not depend on those that calibrate.
    source = source.looking_at(shares.order[shares.training])
    plan = model.plan(_typical(source))
    source, size, notes = _in_frame(source, plan, asked.size)
    classes = classes_for(model, source, labels)
    others, learnt_from = outliers_for(model, source, outliers, asked.open, threads=run.threads)
    model.prepare(source.shape, run.device, source.region)
    with Spool() as views, Spool() as images:
        seen = gathered(
            model,
            source,
            shares.order,
            training=shares.training,
            whole=_whole(model, shares),
            spooled=shares.calibration,
            views_spool=views,
            images_spool=images,
            device=run.device,
            threads=run.threads,
            progress=run.progress,
        )
        if not seen.varied:
            raise ApproxMassError(
                "all images are the same: there is nothing to learn from them", code="no-variation"
            )
        given = FitData(
            shape=source.shape,
            training=seen.kept[shares.training],
            reference=seen.kept[shares.reference],
            sha256=seen.sha256,
            whole=seen.whole,
            labels=None if classes is None else classes[shares.order[shares.training]],
            outliers=others,
        )
        model.learn(given, replace(run, notes=notes))
        scores, peaks = _calibrated(model, views, images, seen.boxes)
    facts = FitFacts(
        shape=source.shape,
        source=source.name,
        sha256=seen.sha256,
        training=len(given.training),
        reference=len(given.reference),
        calibration=len(scores[model.decides]),
        outliers=learnt_from,
        notes=(*notes, *source.remarks()),
        versions=versions(),
        fit_seconds=round(time.monotonic() - started, 2),
    )
    settings = replace(asked, size=size, resample=_resample(source, plan), options=model.options())
    return Fitted(
        settings=settings,
        facts=facts,
        model=model,
        calibration=scores,
        peaks=peaks,
        probe=probed(model, source.shape, asked.seed),
    )


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
