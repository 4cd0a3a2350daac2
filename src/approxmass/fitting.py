"""A fit from one end to the other: images, model, calibration."""

__all__ = ["fitted_on"]

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Labels, Pixels, Shape
from .calibrated import ONE, Calibrated, CalibrationRun
from .calibrating import Piece, calibrated_by, whole, without_its_fold
from .data import ImageSource
from .data.frame import Box, Frame, Resample
from .data.framing import framed
from .errors import ApproxMassError
from .fit_facts import FitFacts
from .fitted import Fitted, Settings
from .models.base import FitData, FitRun, Model, Plan
from .models.folded import FOLDS, FoldedModel
from .models.given import classes_for, outliers_for
from .models.probe import probed, versions
from .models.registry import make_model
from .models.views import gathered
from .storage.spool import Spool
from .training.holdout import FEWEST_IMAGES, Folds, Shares, few_left, in_folds, three_shares

Places = NDArray[np.int64]
Rows = slice | Places
# Images whose statistics are computed together: their whole views are large.
_TOGETHER = 64


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
    shares, source = _parted(model, source, asked)
    plan = model.plan(_typical(source))
    if isinstance(shares, Folds):
        model = FoldedModel.of(model, FOLDS).as_model()
    source, size, notes = _in_frame(source, plan, asked.size)
    classes = classes_for(model, source, labels)
    others, learnt_from = outliers_for(model, source, outliers, asked.open, threads=run.threads)
    model.prepare(source.shape, run.device, source.region)
    with Spool() as views, Spool() as images:
        given, boxes = _given(model, source, shares, classes, others, views, images, run)
        groups = _learnt(model, given, replace(run, notes=notes), shares, views, images, boxes)
    facts = FitFacts(
        shape=source.shape,
        source=source.name,
        sha256=given[0].sha256,
        training=len(given[0].training),
        reference=len(given[0].reference),
        calibration=groups[ONE].count,
        folds=groups[ONE].folds,
        outliers=learnt_from,
        notes=(*notes, *source.remarks()),
        versions=versions(),
        fit_seconds=round(time.monotonic() - started, 2),
    )
    settings = replace(
        asked,
        size=size,
        resample=_resample(source, plan),
        calibration="folds" if isinstance(shares, Folds) else "holdout",
        options=model.options(),
    )
    run_of_fit = CalibrationRun.now(source.name, facts.sha256, groups)
    return Fitted(
        settings=settings,
        facts=facts,
        model=model,
        calibrations=(run_of_fit,),
        probe=probed(model, source.shape, asked.seed),
    )


def _parted(
    model: Model, source: ImageSource, asked: Settings
) -> tuple[Shares | Folds, ImageSource]:
    """Who trains and who calibrates, by folds where asked for, or where that is better.

    And the images, whose mode and frame are told by those that do not calibrate; by folds by all.
    """
    count, how = len(source), asked.calibration
    folds = how == "folds" or (how == "auto" and count < FEWEST_IMAGES)
    if not folds:
        shares = three_shares(count, asked.holdout, asked.seed, source.name)
        looked_at = source.looking_at(shares.order[shares.training])
        if how == "holdout" or not few_left(count, asked.holdout):
            return shares, looked_at
        model.plan(_typical(looked_at))
        if not model.quick:
            return shares, looked_at
    return in_folds(count, FOLDS, asked.seed, source.name), source


def _given(
    model: Model,
    source: ImageSource,
    shares: Shares | Folds,
    classes: Labels | None,
    outliers: Pixels | None,
    views: Spool,
    images: Spool,
    run: FitRun,
) -> tuple[list[FitData], list[Box] | None]:
    """What each fit learns from; those that calibrate go to the spools, where they lie is told.

    Raises:
        ApproxMassError: an image is unreadable, or all are the same.
    """
    fits, calibrates = _fits(shares)
    wholes = [_whole_rows(model, shares.order, *rows) for rows in fits]
    kept_whole = wholes[0] if len(wholes) == 1 else np.unique(np.concatenate(wholes))
    seen = gathered(
        model,
        source,
        shares.order,
        training=calibrates if isinstance(shares, Folds) else shares.training,
        whole=kept_whole,
        spooled=calibrates,
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
    given = [
        FitData(
            shape=source.shape,
            training=seen.kept[training],
            reference=seen.kept[reference],
            sha256=seen.sha256,
            whole=seen.whole if len(fits) == 1 else seen.whole[kept_whole.searchsorted(own)],
            labels=None if classes is None else classes[shares.order[training]],
            outliers=outliers,
        )
        for (reference, training), own in zip(fits, wholes, strict=True)
    ]
    return given, seen.boxes


def _fits(shares: Shares | Folds) -> tuple[list[tuple[Rows, Rows]], slice]:
    """Of each fit the rows for reference and for training; and those that calibrate."""
    if isinstance(shares, Folds):
        pairs = zip(shares.reference, shares.training, strict=True)
        return list(pairs), slice(0, len(shares.order))
    return [(shares.reference, shares.training)], shares.calibration


def _learnt(
    model: Model,
    given: list[FitData],
    run: FitRun,
    shares: Shares | Folds,
    views: Spool,
    images: Spool,
    boxes: list[Box] | None,
) -> dict[str, Calibrated]:
    """Fit the model, and score those that calibrate."""
    pieces = _pieces(views, images, boxes)
    if isinstance(model, FoldedModel) and isinstance(shares, Folds):
        model.learn_each(given, len(shares.order), run)
        look = without_its_fold(model.models, shares.fold)
        found = calibrated_by(pieces, look, explains=model.explains)
        return {ONE: replace(found[ONE], fold=shares.fold)}
    model.learn(given[0], run)
    return calibrated_by(pieces, whole(model), explains=model.explains)


def _whole_rows(model: Model, order: Places, reference: Rows, training: Rows) -> Places:
    """Rows whose whole views are kept: of those for reference, then of those to train on."""
    rows = np.arange(len(order))
    wanted = np.concatenate([rows[reference], rows[training]])
    return wanted[: model.whole(len(rows[training]))]


def _pieces(views: Spool, images: Spool, boxes: list[Box] | None) -> Iterator[Piece]:
    """The images that calibrate, some at a time."""
    done = 0
    for rows, pixels in zip(views.chunks(_TOGETHER), images.chunks(_TOGETHER), strict=True):
        where = None if boxes is None else boxes[done : done + len(rows)]
        yield Piece(pixels, rows, where, [ONE] * len(rows))
        done += len(rows)


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
