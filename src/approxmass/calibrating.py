"""From images that calibrate to what new ones are compared with."""

__all__ = ["FEWEST", "Look", "Piece", "calibrated_by", "recalibrated", "whole", "without_its_fold"]

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .arrays import Floats
from .calibrated import ONE, Calibrated, CalibrationRun
from .data import ImageSource
from .data.frame import Box
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
            "the scores of in-distribution images are not finite: the method did not learn "
            "from them",
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
) -> Fitted:
    """The same model with another calibration, the earlier ones kept.

    Arguments:
        fitted: A model and its calibrations.
        source: In-distribution images that it was not fitted on, as the detector sees them.
        per: What tells groups apart; see `CalibrationRun`.
        groups: Of each image; None for one calibration for all.
        device: Where the model computes.
        threads: The most that decode at once.

    Raises:
        ApproxMassError: too few images of a group, one in none, unreadable images, or the images
            of the fit.
    """
    if groups is None:
        _check_count(len(source), f"{source.name} has")
    else:
        _check_groups(groups, source)
    digest = hashlib.sha256()
    if source.region is not None:
        digest.update(source.region.text.encode())

    def pieces() -> Iterator[Piece]:
        done = 0
        for images, boxes, views in views_of(
            fitted.model, source, device=device, threads=threads, shape=fitted.facts.shape,
            digest=digest,
        ):  # fmt: skip
            some = [ONE if groups is None else str(groups[done + i]) for i in range(len(images))]
            yield Piece(torch.from_numpy(images), views, boxes, some)
            done += len(images)

    found = calibrated_by(pieces(), whole(fitted.model), explains=fitted.model.explains)
    if digest.hexdigest() == fitted.facts.sha256:
        raise ApproxMassError(
            f"{source.name} holds the images of the fit, which score too low: calibrate with "
            "images that were not among them",
            code="bad-option",
        )
    run = CalibrationRun.now(source.name, digest.hexdigest(), found, per)
    return replace(fitted, calibrations=(*fitted.calibrations, run))


def _check_groups(groups: Sequence[str | None], source: ImageSource) -> None:
    counts: dict[str, int] = {}
    for place, group in enumerate(groups):
        if group is None:
            raise ApproxMassError(
                f"{source.name}: image {place} is in no group: give each image one",
                code="bad-group",
            )
        counts[group] = counts.get(group, 0) + 1
    for group, count in counts.items():
        _check_count(count, f"group {group!r} of {source.name} has")


def _check_count(count: int, who: str) -> None:
    if count < FEWEST:
        raise ApproxMassError(
            f"{who} {count} images: give at least {FEWEST}, which a false-alarm rate of 5% needs",
            code="too-few",
        )
