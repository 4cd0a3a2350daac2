"""Images that are left out of a fit: those that cannot be read, and the most outlying ones."""

__all__ = ["fitted_on_readable", "fitted_on_usual", "most_outlying", "unseen_scores"]

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .arrays import Bools, Floats
from .calibrated import ONE
from .data.groups import open_groups
from .data.skipping import FoundUnreadable
from .errors import ApproxMassError
from .fit_input import FitInput
from .fitted import Fitted
from .fitting import fitted_on, learnt_from
from .models.base import FitRun
from .training.checkpoint import first_pass_of
from .training.folds import Folds
from .training.holdout import FEWEST_UNITS, FEWEST_WHOLE


def fitted_on_readable(asked: FitInput, run: FitRun) -> Fitted:
    """Learn from the images that can be read, and of these from the usual ones; see below.

    Where a pass finds some that cannot, up to the limit, the fit begins anew on the others, as if
    there had been no more.

    Raises:
        ApproxMassError: as `Detector.fit`.
    """
    while True:
        try:
            return fitted_on_usual(asked, run)
        except FoundUnreadable as found:
            skips = found.skips
            asked = asked.only(skips.keep, skipped=tuple(skips.found))


def fitted_on_usual(asked: FitInput, run: FitRun) -> Fitted:
    """Learn from the images but for the most outlying share of them, `settings.trim`, if any.

    A first pass by folds scores each image by a model that has not seen it; then a fit begins anew
    on those that are left, as if there had been no others.

    Arguments:
        asked: The images, and what is wanted of them.
        run: How.

    Raises:
        ApproxMassError: as `Detector.fit`; or a share that is no image, or leaves too few.
    """
    if not asked.settings.trim:
        return fitted_on(asked, run)
    started = time.monotonic()
    count = _count(asked)
    if asked.groups is not None:  # all of them, while all images are there
        asked = replace(asked, groups=open_groups(asked.groups, asked.source))
    scores, fold = unseen_scores(asked, _first_pass(run))
    keep = ~most_outlying(scores, fold, count)
    kept = asked.only(keep, trimmed=_names(asked, ~keep))
    try:
        fitted = fitted_on(kept, run)
    except ApproxMassError as error:
        if error.code != "too-few":
            raise
        raise ApproxMassError(
            f"{error} (trim has left {int(keep.sum()):,} of {len(keep):,}: trim fewer)",
            code=error.code,
        ) from error
    took = round(time.monotonic() - started, 2)
    return replace(fitted, facts=replace(fitted.facts, fit_seconds=took))


def unseen_scores(asked: FitInput, run: FitRun) -> tuple[Floats, NDArray[np.int64]]:
    """The score of every image by a model that has not seen it, and the fold without which it was.

    By folds, whatever the settings say of the calibration; of a model that has seen an image its
    score would be low, however far out it is. Images that come so often that they are always
    trained on have NaN, and fold -1.

    Arguments:
        asked: The images, and what is wanted of them.
        run: How.

    Returns:
        Both `(N,)`, in the order of the source; larger = more out-of-distribution.

    Raises:
        ApproxMassError: as `Detector.fit`.
    """
    folded = replace(asked, settings=replace(asked.settings, calibration="folds"))
    learnt = learnt_from(folded, run, every=True)
    shares = learnt.ready.shares
    assert isinstance(shares, Folds)
    scores, fold = np.full(len(asked.source), np.nan), np.full(len(asked.source), -1)
    places = shares.order[: len(shares.fold)]
    scores[places] = learnt.calibrated[ONE].scores[learnt.ready.model.decides]
    fold[places] = shares.fold
    return scores, fold


def most_outlying(scores: Floats, fold: NDArray[np.int64], count: int) -> Bools:
    """Marks the `count` images that are the farthest out, each as its fold measures it.

    The models of folds differ in level and spread, more so where images are few: a score is
    compared by its distance from the median of its fold, in quartile ranges of it.

    Arguments:
        scores: `(N,)`, each by a model that has not seen the image; NaN is never marked.
        fold: `(N,)`, the fold of each; -1 with NaN.
        count: How many.

    Example:
        >>> scores, fold = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 60.0]), np.array([0, 0, 0, 1, 1, 1])
        >>> most_outlying(scores, fold, 1)
        array([False, False, False, False, False,  True])
    """
    far = np.full(len(scores), -np.inf)
    for k in range(int(fold.max()) + 1):
        own = fold == k
        low, middle, high = np.quantile(scores[own], (0.25, 0.5, 0.75))
        far[own] = (scores[own] - middle) / ((high - low) or 1.0)
    marked = np.zeros(len(scores), bool)
    marked[np.argsort(-far, kind="stable")[:count]] = True
    return marked & (fold >= 0)


def _count(asked: FitInput) -> int:
    """How many images are left out, if that is some and enough are left."""
    share, total, unit = asked.settings.trim, len(asked.source), asked.source.unit
    count = round(share * total)
    if not count:
        raise ApproxMassError(
            f"trim {share:g} of the {total:,} {unit}s of {asked.source.name} is none: give at "
            f"least {1 / total:.2g}, or 0",
            code="bad-option",
        )
    fewest = FEWEST_WHOLE if asked.settings.calibration == "holdout" else FEWEST_UNITS
    if total - count < fewest:
        raise ApproxMassError(
            f"trim {share:g} leaves {total - count:,} of the {total:,} {unit}s of "
            f"{asked.source.name}: trim fewer or give more, {fewest} are to be left",
            code="too-few",
        )
    return count


def _first_pass(run: FitRun) -> FitRun:
    """With files of its own."""
    checkpoint = None if run.checkpoint is None else first_pass_of(run.checkpoint)
    notes = ["trim: first pass, by folds, to find the most outlying ones", *run.notes]
    return replace(run, checkpoint=checkpoint, notes=notes)


def _names(asked: FitInput, marks: Bools) -> tuple[str, ...]:
    names = (name for some, _ in asked.source.parts()[0](1024) for name in some)
    return tuple(name for name, mark in zip(names, marks, strict=True) if mark)
