"""From images that calibrate to what new ones are compared with."""

__all__ = ["FEWEST", "Look", "Piece", "calibrated_by", "recalibrated", "whole", "without_its_fold"]

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .arrays import Floats
from .calibrated import ONE, Calibrated, CalibrationRun
from .data import ImageSource
from .data.copies import pixel_digests
from .data.frame import Box
from .data.skipping import Skips
from .errors import ApproxMassError
from .explain.attribution import peaks_of
from .fitted import Fitted
from .models.base import Model
from .models.views import views_of

# Fewest images of a group: what a false-alarm rate of 5% needs.
FEWEST = 19
# The peaks of the maps of so many of a group say what is usual: a gradient takes longer than a
# score.
_MOST_PEAKS = 1024


@dataclass(frozen=True, eq=False)
class Piece:
    """Some images that calibrate.

    Attributes:
        images: `(k, C, H, W)`, uint8.
        views: Of these.
        boxes: Where in the frame they lie; None for all over.
        groups: Of each.
    """

    images: Tensor
    views: Tensor
    boxes: Sequence[Box] | None
    groups: Sequence[str]


# Statistics of a piece and, where asked for, the peaks of its maps.
Look = Callable[[Piece, bool], tuple[dict[str, Floats], Floats | None]]


@dataclass(eq=False)
class _Found:
    statistics: list[dict[str, Floats]] = field(default_factory=list)
    peaks: list[Floats] = field(default_factory=list)
    mapped: int = 0


def calibrated_by(pieces: Iterable[Piece], look: Look, *, explains: bool) -> dict[str, Calibrated]:
    """What each group of images is compared with.

    Arguments:
        pieces: The images, some at a time.
        look: Scores them.
        explains: It can give peaks; of more than 1,024 images of a group these are of the first.

    Raises:
        ApproxMassError: a score is not finite.
    """
    found: dict[str, _Found] = {}
    for piece in pieces:
        own = {group: found.setdefault(group, _Found()) for group in dict.fromkeys(piece.groups)}
        mapped = explains and any(each.mapped < _MOST_PEAKS for each in own.values())
        statistics, peaks = look(piece, mapped)
        for group, each in own.items():
            rows = np.flatnonzero(np.array(piece.groups, object) == group)
            each.statistics.append({name: values[rows] for name, values in statistics.items()})
            if peaks is not None:
                each.peaks.append(peaks[rows])
                each.mapped += len(rows)
    return {group: _calibrated(found[group]) for group in sorted(found)}


def _calibrated(found: _Found) -> Calibrated:
    scores = {
        name: np.concatenate([part[name] for part in found.statistics])
        for name in found.statistics[0]
    }
    if not all(np.isfinite(values).all() for values in scores.values()):
        raise ApproxMassError(
            "the scores of what calibrates are not finite: the method did not learn from it: "
            "give others, or another method",
            code="diverged",
        )
    peaks = np.concatenate([np.empty(0), *found.peaks])
    return Calibrated(scores=scores, peaks=peaks)


def whole(model: Model) -> Look:
    """By a model as it scores new images."""

    def look(piece: Piece, mapped: bool) -> tuple[dict[str, Floats], Floats | None]:
        if not mapped:
            return model.statistics_of(piece.views), None
        statistics, surfaces = model.explain(piece.images, piece.views, piece.boxes)
        return statistics, peaks_of(surfaces)

    return look


def without_its_fold(models: Sequence[Model], fold: NDArray[np.int64]) -> Look:
    """Each image by the model that was learnt without its fold; `fold` in the order of all."""
    done = 0

    def look(piece: Piece, mapped: bool) -> tuple[dict[str, Floats], Floats | None]:
        nonlocal done
        own = fold[done : done + len(piece.views)]
        done += len(own)
        found: dict[str, Floats] = {}
        peaks = np.empty(len(own)) if mapped else None
        for k in np.unique(own):
            rows = np.flatnonzero(own == k)
            some = torch.from_numpy(rows)
            boxes = None if piece.boxes is None else [piece.boxes[row] for row in rows.tolist()]
            part = Piece(piece.images[some], piece.views[some], boxes, [ONE] * len(rows))
            statistics, highest = whole(models[k])(part, mapped)
            for name, values in statistics.items():
                found.setdefault(name, np.empty(len(own)))[rows] = values
            if peaks is not None:
                peaks[rows] = highest
        return found, peaks

    return look


def recalibrated(
    fitted: Fitted,
    source: ImageSource,
    per: str | None,
    groups: Sequence[str | None] | None,
    *,
    device: torch.device,
    threads: int | None,
    skips: Skips,
) -> Fitted:
    """The same model with another calibration, the earlier ones kept.

    Arguments:
        fitted: A model and its calibrations.
        source: In-distribution images that it was not fitted on, as the detector sees them.
        per: What tells groups apart; see `CalibrationRun`.
        groups: Of each image; None for one calibration for all.
        device: Where the model computes.
        threads: The most that decode at once.
        skips: Takes note of images that are unreadable.

    Raises:
        ApproxMassError: too few images of a group that are not copies, of each other or of the
            images of the fit; one in none; or more unreadable images than may be.
    """
    named = [ONE] * len(source) if groups is None else _given(groups, source)
    _check_counts(named, source, named or [ONE])
    digest = hashlib.sha256()
    if source.region is not None:
        digest.update(source.region.text.encode())
    in_fit, seen = set(fitted.digests.tolist()), set[tuple[str, int]]()
    used: list[str] = []

    def pieces() -> Iterator[Piece]:
        for images, boxes, views, places in views_of(
            fitted.model, source, device=device, threads=threads, shape=fitted.facts.shape,
            digest=digest, skips=skips,
        ):  # fmt: skip
            of = [named[place] for place in places]
            fresh = []
            for place, each in enumerate(zip(of, pixel_digests(images).tolist(), strict=True)):
                if each[1] not in in_fit and each not in seen:
                    seen.add(each)
                    fresh.append(place)
            if not fresh:
                continue
            some = torch.tensor(fresh)
            used.extend(of[place] for place in fresh)
            where = None if boxes is None else [boxes[place] for place in fresh]
            yield Piece(
                torch.from_numpy(images)[some], views[some], where, [of[place] for place in fresh]
            )

    found = calibrated_by(pieces(), whole(fitted.model), explains=fitted.model.explains)
    which = f" besides copies of others and {source.unit}s of the fit"
    _check_counts(used, source, named, which)
    run = CalibrationRun.now(
        source.name, digest.hexdigest(), found, per, left_out=int(skips.keep.sum()) - len(used)
    )
    return replace(fitted, calibrations=(*fitted.calibrations, run))


def _given(groups: Sequence[str | None], source: ImageSource) -> list[str]:
    for place, group in enumerate(groups):
        if group is None:
            raise ApproxMassError(
                f"{source.name}: {source.unit} {place} is in no group: give it one",
                code="bad-group",
            )
    return [str(group) for group in groups]


def _check_counts(
    named: Sequence[str], source: ImageSource, asked: Iterable[str], which: str = ""
) -> None:
    """Whether there are enough images of each group that was asked for."""
    name = source.name
    counts = Counter(named)
    for group in dict.fromkeys(asked):
        if counts[group] < FEWEST:
            who = f"{name} has" if group == ONE else f"group {group!r} of {name} has"
            raise ApproxMassError(
                f"{who} {counts[group]} {source.unit}s{which}: give at least {FEWEST}, which a "
                "false-alarm rate of 5% needs",
                code="too-few",
            )
