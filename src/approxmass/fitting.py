"""A fit from one end to the other: images, model, calibration."""

__all__ = ["Learnt", "fitted_on", "learnt_from"]

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Labels, Pixels
from .calibrated import ONE, Calibrated, CalibrationRun
from .calibrating import Piece, calibrated_by, whole, without_its_fold
from .data import ImageSource
from .data.copies import stored_digests, units_of
from .data.frame import Box
from .data.groups import open_groups
from .data.skipping import Skips
from .data.vectors import VectorSource
from .errors import ApproxMassError
from .fit_facts import FitFacts, trimmed_said
from .fit_input import FitInput
from .fitted import Fitted
from .models.base import FitData, FitRun, Model, Plan
from .models.folded import FOLDS, FoldedModel
from .models.framing import in_frame, typical
from .models.given import classes_for, outliers_for
from .models.kinds import VECTORS
from .models.probe import probed, versions
from .models.registry import OF_ROWS, make_model
from .models.views import Gathered, gathered
from .settings import Settings
from .storage.spool import Spool
from .training.folds import Folds, in_folds
from .training.holdout import (
    FEWEST_ROWS,
    FEWEST_UNITS,
    FEWEST_WHOLE,
    Shares,
    Units,
    few_left,
    straddle,
    three_shares,
)

Places = NDArray[np.int64]
Rows = slice | Places
# Images whose statistics are computed together: their whole views are large.
_TOGETHER = 64


def fitted_on(asked: FitInput, run: FitRun) -> Fitted:
    """Learn from images and calibrate on a share of them; see `Detector.fit`.

    Arguments:
        asked: The images, and what is wanted of them.
        run: How.

    Raises:
        ApproxMassError: as `Detector.fit`.
    """
    started = time.monotonic()
    learnt = learnt_from(asked, run)
    ready, seen, calibrated = learnt.ready, learnt.seen, learnt.calibrated[ONE]
    facts = FitFacts(
        shape=ready.source.shape,
        source=asked.source.name,
        sha256=seen.sha256,
        training=len(learnt.given[0].training),
        reference=len(learnt.given[0].reference),
        calibration=calibrated.count,
        folds=calibrated.folds,
        images=len(asked.source),
        trimmed=asked.trimmed,
        skipped=asked.skips().lines,
        outliers=ready.learnt_from,
        notes=(*learnt.notes, *ready.source.remarks()),
        versions=versions(),
        fit_seconds=round(time.monotonic() - started, 2),
    )
    made = CalibrationRun.now(asked.source.name, facts.sha256, learnt.calibrated)
    return Fitted(
        settings=ready.settings(asked.settings),
        facts=facts,
        model=ready.model,
        calibrations=(made,),
        probe=probed(ready.model, facts.shape, asked.settings.seed),
        digests=np.unique(seen.digests),
        shares=ready.shares,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Learnt:
    """A model that has learnt, from what, and the scores of the images that calibrate."""

    ready: "_Ready"
    seen: Gathered
    given: list[FitData]
    notes: list[str]
    calibrated: dict[str, Calibrated]


def learnt_from(asked: FitInput, run: FitRun, *, every: bool = False) -> Learnt:
    """Learn from images, and score those that calibrate.

    Arguments:
        asked: The images, and what is wanted of them.
        run: How.
        every: All images calibrate where it is by folds, not one of a unit, and have no maps.

    Raises:
        ApproxMassError: as `Detector.fit`.
    """
    source, groups = asked.source, asked.groups
    together = None if groups is None else open_groups(groups, source)
    # Copies by what is stored of images, which decodes none, and then by what is seen of them.
    copies = units_of(stored_digests(source)) if source.encoded else np.arange(len(source))
    fewest = FEWEST_ROWS if isinstance(source, VectorSource) else FEWEST_UNITS
    while True:
        units = Units.among(copies, together, source.name, fewest, source.unit)
        if units.again and asked.settings.trim:
            raise ApproxMassError(
                f"{source.name} has {int(copies.max()) + 1} different {source.unit}s, too few to "
                f"tell which are outlying: give at least {fewest}, or trim none",
                code="too-few",
            )
        ready = _ready(asked, units, run, every=every)
        with Spool() as views, Spool() as images:
            seen = _gathered(ready, views, images, run, asked.skips())
            copies = units_of(copies, seen.digests)
            if not units.again and straddle(ready.shares.sides(), copies):
                continue
            given = _given(ready, seen)
            notes = [*ready.notes, *_of_copies(units, copies), *_of_left_out(asked)]
            pieces = _pieces(views, images, seen.boxes)
            shown = replace(run, notes=[*run.notes, *notes])
            notes += _learn(ready, given, shown)
            calibrated = _calibrated(ready, pieces, maps=not every)
        return Learnt(ready=ready, seen=seen, given=given, notes=notes, calibrated=calibrated)


def _of_left_out(asked: FitInput) -> list[str]:
    notes = [asked.skips().said] if asked.skipped else []
    if asked.trimmed:
        said = trimmed_said(asked.trimmed, len(asked.source), asked.source.unit)
        notes.append(f"trim: {said} are left out")
    return notes


def _of_rows(method: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options for rows of numbers, which have an encoder of their own."""
    if method not in OF_ROWS or options.get("encoder", VECTORS) not in ("auto", VECTORS):
        what = method if method not in OF_ROWS else f"the encoder {options['encoder']}"
        raise ApproxMassError(
            f"{what} is for images, not for rows of numbers: leave it out", code="bad-option"
        )
    return {**options, "encoder": VECTORS}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ready:
    """A model, ready to see the images, and all that there is besides."""

    model: Model
    shares: Shares | Folds
    source: ImageSource
    plan: Plan
    size: int | None
    notes: list[str]
    classes: Labels | None
    outliers: Pixels | None
    learnt_from: str | None

    def settings(self, asked: Settings) -> Settings:
        """With what `auto` has become."""
        frame = self.source.frame
        return replace(
            asked,
            size=self.size,
            resample=self.plan.resample if frame is None else frame.resample,
            calibration="folds" if isinstance(self.shares, Folds) else "holdout",
            columns=self.source.columns if isinstance(self.source, VectorSource) else None,
            options=self.model.options(),
        )

    def fits(self) -> list[tuple[Rows, Rows]]:
        """Of each fit the rows for reference and for training."""
        if isinstance(self.shares, Folds):
            return list(zip(self.shares.reference, self.shares.training, strict=True))
        return [(self.shares.reference, self.shares.training)]

    def whole_rows(self) -> list[Places]:
        """Of each fit rows whose whole views are kept: of its reference, then of its training."""
        rows = np.arange(len(self.shares.order))
        found = []
        for reference, training in self.fits():
            wanted = np.concatenate([rows[reference], rows[training]])
            found.append(wanted[: self.model.whole(len(rows[training]))])
        return found


def _ready(asked: FitInput, units: Units, run: FitRun, *, every: bool) -> _Ready:
    settings, source, options = asked.settings, asked.source, asked.options
    if isinstance(source, VectorSource):
        options = _of_rows(settings.method, options)
    model = make_model(settings.method, settings.seed, options)
    shares, source = _parted(model, source, units, settings, every=every)
    plan = model.plan(typical(source), units.count)
    if isinstance(shares, Folds):
        model = FoldedModel.of(model, FOLDS).as_model()
    source, size, notes = in_frame(source, plan, settings.size)
    classes = classes_for(model, source, asked.labels)
    others, learnt_from = outliers_for(
        model, source, asked.outliers, settings.open, threads=run.threads
    )
    model.prepare(source.shape, run.device, source.region)
    return _Ready(
        model=model,
        shares=shares,
        source=source,
        plan=plan,
        size=size,
        notes=notes,
        classes=classes,
        outliers=others,
        learnt_from=learnt_from,
    )


def _parted(
    model: Model, source: ImageSource, units: Units, asked: Settings, *, every: bool
) -> tuple[Shares | Folds, ImageSource]:
    """Who trains and who calibrates, by folds where asked for, or where that is better.

    And the images, whose mode and frame are told by those that do not calibrate; by folds by all.
    """
    how = asked.calibration
    folds = how == "folds" or (how == "auto" and units.count < FEWEST_WHOLE)
    if not folds:
        shares = three_shares(units, asked.holdout, asked.seed, source.name)
        looked_at = source.looking_at(shares.order[shares.training])
        if how == "holdout" or not few_left(units.count, asked.holdout):
            return shares, looked_at
        model.plan(typical(looked_at), units.count)
        if not model.quick:
            return shares, looked_at
    return in_folds(units, FOLDS, asked.seed, every=every), source


def _gathered(ready: _Ready, views: Spool, images: Spool, run: FitRun, skips: Skips) -> Gathered:
    """What is kept of each image; those that calibrate go to the spools, where they lie is told.

    Raises:
        ApproxMassError: too many images are unreadable, or all are the same.
        FoundUnreadable: some are.
    """
    shares = ready.shares
    calibrate = slice(0, len(shares.fold)) if isinstance(shares, Folds) else shares.calibration
    seen = gathered(
        ready.model,
        ready.source,
        shares.order,
        whole=np.unique(np.concatenate(ready.whole_rows())),
        spooled=calibrate,
        views_spool=views,
        images_spool=images,
        device=run.device,
        threads=run.threads,
        skips=skips,
        progress=run.progress,
    )
    for _, training in ready.fits():
        if len(np.unique(seen.digests[shares.order[training]])) == 1:
            raise ApproxMassError(
                f"all {ready.source.unit}s are the same: there is nothing to learn from them",
                code="no-variation",
            )
    return seen


def _given(ready: _Ready, seen: Gathered) -> list[FitData]:
    """What each fit learns from."""
    shares = ready.shares
    wholes = ready.whole_rows()
    kept = np.unique(np.concatenate(wholes))
    given = []
    for (reference, training), whole_rows in zip(ready.fits(), wholes, strict=True):
        trained = shares.order[training]
        # A state of the training is of these images, parted in this way.
        parted = hashlib.sha256(seen.sha256.encode() + trained.tobytes()).hexdigest()
        given.append(
            FitData(
                shape=ready.source.shape,
                training=seen.kept[training],
                reference=seen.kept[reference],
                sha256=parted,
                units=shares.units.of[trained],
                whole=seen.whole[kept.searchsorted(whole_rows)],
                labels=None if ready.classes is None else ready.classes[trained],
                outliers=ready.outliers,
            )
        )
    return given


def _of_copies(units: Units, copies: Places) -> list[str]:
    """What was done about copies and groups, in words."""
    count, distinct, unit = len(copies), int(copies.max()) + 1, units.each
    notes = []
    if units.again:
        notes.append(
            f"copies: these {count:,} {unit}s are {distinct:,} different ones, too few to hold "
            "some out: they are taken for a set that comes again and again, and the p-values are "
            f"for these; to detect among new {unit}s, give at least {FEWEST_UNITS} different ones"
        )
    elif distinct < count:
        more = count - distinct
        are = f"1 {unit} is a copy of another" if more == 1 else f"{more:,} {unit}s are copies"
        notes.append(f"copies: {are}: kept on one side, where each counts once to calibrate")
    if units.grouped:
        notes.append(
            f"groups: {count:,} {unit}s in {units.count:,} groups, each kept on one side; one "
            f"{unit} of each calibrates, where it is not trained on"
        )
    return notes


def _learn(ready: _Ready, given: list[FitData], run: FitRun) -> list[str]:
    """Fit the model; returns what there is to say of it."""
    model = ready.model

    def learn(run: FitRun) -> None:
        if isinstance(model, FoldedModel):
            model.learn_each(given, ready.shares.units.count, run)
        else:
            model.learn(given[0], run)

    try:
        learn(run)
    except ApproxMassError as error:
        if error.code != "diverged" or not model.calm():
            raise
        note = "flow: it diverged on these rows, and their normal density takes its place"
        learn(replace(run, notes=[note]))
        return [note]
    return []


def _calibrated(ready: _Ready, pieces: Iterator[Piece], *, maps: bool) -> dict[str, Calibrated]:
    """What the images that calibrate score."""
    model, shares = ready.model, ready.shares
    explains = maps and model.explains
    if isinstance(model, FoldedModel) and isinstance(shares, Folds):
        look = without_its_fold(model.models, shares.fold)
        found = calibrated_by(pieces, look, explains=explains)
        return {ONE: replace(found[ONE], fold=shares.fold)}
    return calibrated_by(pieces, whole(model), explains=explains)


def _pieces(views: Spool, images: Spool, boxes: list[Box] | None) -> Iterator[Piece]:
    """The images that calibrate, some at a time."""
    done = 0
    for rows, pixels in zip(views.chunks(_TOGETHER), images.chunks(_TOGETHER), strict=True):
        where = None if boxes is None else boxes[done : done + len(rows)]
        yield Piece(pixels, rows, where, [ONE] * len(rows))
        done += len(rows)
