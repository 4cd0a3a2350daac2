"""A detector on named sets of images, one of them in-distribution: scores, metrics, facts."""

__all__ = ["Assessment", "ScoredSet", "assess", "score_set"]

import functools
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..arrays import Bools, Floats
from ..data import Chunk, ImageSource
from ..data.masks import NONE, Kept, Masks, open_masks
from ..data.part import part_of
from ..data.skipping import SKIP_LIMIT, Skips
from ..detector import Detector
from ..errors import ApproxMassError
from ..runtime.machine import machine_facts
from ..scores import Scores
from .known import known_warnings
from .localize import Localizations, Places
from .protocol import Evaluation, evaluate
from .weak_spots import weak_spots

# Maps in memory at a time.
_MAPS = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredSet:
    """A set of N images and its scores.

    Attributes:
        source: The images, to read again.
        names: Of the images.
        statistics: `(N,)` each, by name.
        p_value: `(N,)`.
        is_outlier: `(N,)`, at a false-alarm rate of 5%.
        sha256: Of the pixels as the detector saw them.
        in_fit: How many of the images were in the fit, by their pixels.
        seconds: Reading and scoring.
        skipped: Name and reason of each image that could not be read.
        remarks: What was done to the images unasked, and which files are none, in words.
        masks: Of the images, to read again; None where nothing is known of defects.
    """

    source: ImageSource
    names: list[str]
    statistics: Mapping[str, Floats]
    p_value: Floats
    is_outlier: Bools
    sha256: str
    in_fit: int
    seconds: float
    skipped: list[tuple[str, str]]
    remarks: list[str]
    masks: Masks | None = None

    @property
    def flagged(self) -> float:
        """Share of the images called outliers at 5%."""
        return float(self.is_outlier.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Assessment:
    """How a detector does on one in-distribution set and on sets of outliers.

    Attributes:
        detector: The detector.
        sets: By name, the in-distribution set first.
        evaluation: Metrics of every score on every set of outliers.
        group_size: Images a score of the metrics.
        seed: Fixed balancing, groups and intervals.
        places: How well maps show what masks mark; None without masks.
    """

    detector: Detector
    sets: dict[str, ScoredSet]
    evaluation: Evaluation
    group_size: int
    seed: int
    places: Localizations | None = None

    @property
    def flagged(self) -> dict[str, float]:
        """Share of the images of each set that are called outliers at 5%."""
        return {name: scored.flagged for name, scored in self.sets.items()}

    @functools.cached_property
    def warnings(self) -> list[str]:
        """A line for each set that has images of the fit, or on which the verdict is weak."""
        first, *others = self.sets
        known = known_warnings(
            {name: scored.in_fit for name, scored in self.sets.items()},
            {name: len(scored.names) for name, scored in self.sets.items()},
            self.detector.fitted.unit,
        )
        return known + weak_spots(
            self.detector.statistic,
            self.sets[first].statistics,
            {name: self.sets[name].statistics for name in others},
            seed=self.seed,
        )

    def facts(self) -> dict[str, Any]:
        """All of it as plain types, ready for JSON."""
        places = {} if self.places is None else {"places": asdict(self.places)}
        return {
            **self.evaluation.as_dict(),
            "seed": self.seed,
            "flagged_at_5_percent": self.flagged,
            "warnings": self.warnings,
            **places,
            "images": {
                name: {
                    "count": len(scored.names),
                    "in_fit": scored.in_fit,
                    "sha256": scored.sha256,
                    "seconds": round(scored.seconds, 2),
                    "remarks": scored.remarks,
                    "skipped": [{"name": n, "reason": why} for n, why in scored.skipped],
                }
                for name, scored in self.sets.items()
            },
            "settings": self.detector.settings.as_dict(),
            "fit": self.detector.facts.as_dict() | self.detector.model.facts(),
            "machine": machine_facts(),
        }


def score_set(
    detector: Detector,
    images: Any,
    on_chunk: Callable[[Chunk, Scores], None] | None = None,
    *,
    places: Places | None = None,
    masks: Masks | None = None,
    kind: str = "",
    skip_limit: float = SKIP_LIMIT,
) -> ScoredSet:
    """Score whatever `open_images` takes; `on_chunk` sees the scores as they come.

    Arguments:
        detector: A fitted detector.
        images: To score.
        on_chunk: Called with each chunk and its scores.
        places: The maps go there too.
        masks: For these; None where no pixel is marked.
        kind: Of the images, for these.
        skip_limit: Share of the images that are left out where they cannot be read, or are of
            another size than the detector's.

    Raises:
        ApproxMassError: more images are, or all.
    """
    started, source = time.monotonic(), detector.open(images)
    digest, in_fit, parts = hashlib.sha256(), 0, []
    marks = None if masks is None else masks.stream()
    skips = Skips(source, skip_limit)
    for chunk in detector.chunks(source):
        skips.take(chunk)
        given = [None if marks is None else next(marks) for _ in chunk.names]
        if not chunk.readable:
            continue
        if places is None:
            scores = detector.score_pixels(chunk.images, chunk.boxes)
        else:
            scores = _placed(detector, chunk, places, masks or NONE, given, kind)
        scores = scores.named(chunk.readable)
        if on_chunk is not None:
            on_chunk(chunk, scores)
        digest.update(chunk.images.data)
        in_fit += int(detector.fitted.in_fit(chunk.images).sum())
        parts.append(scores)
    if not parts:
        raise ApproxMassError(f"{source.name}: {skips.said}", code="bad-image")
    joined = Scores.join(parts)
    return ScoredSet(
        source=part_of(source, skips.keep, source.name) if skips.any else source,
        names=joined.names.tolist(),
        statistics=joined.statistics,
        p_value=joined.p_value,
        is_outlier=joined.is_outlier,
        sha256=digest.hexdigest(),
        in_fit=in_fit,
        seconds=time.monotonic() - started,
        skipped=skips.found,
        remarks=source.remarks(),
        masks=masks if masks is None or not skips.any else masks.only(skips.keep),
    )


def _placed(
    detector: Detector, chunk: Chunk, places: Places, masks: Masks, given: list[Kept], kind: str
) -> Scores:
    """Scores of a chunk, whose maps go to `places`, some at a time: they are as large as photos."""
    parts, names = [], chunk.readable
    kept = [mark for mark, error in zip(given, chunk.errors, strict=True) if error is None]
    for start in range(0, len(chunk.images), _MAPS):
        some = slice(start, start + _MAPS)
        boxes, sizes = None if chunk.boxes is None else chunk.boxes[some], chunk.sizes[some]
        found = detector.explain_pixels(chunk.images[some], boxes, sizes)
        for i, (surface, mask) in enumerate(zip(found.maps, kept[some], strict=True)):
            places.add(
                surface,
                masks.read(mask, names[start + i], sizes[i]),
                cell=float(found.cells[i]),
                flagged=bool(found.scores.is_outlier[i]),
                kind=kind,
            )
        parts.append(found.scores)
    return Scores.join(parts)


def assess(
    detector: Detector,
    in_distribution: Any,
    outliers: Sequence[Any],
    *,
    masks: str | os.PathLike[str] | Sequence[Any] | None = None,
    group_size: int = 1,
    seed: int = 0,
    skip_limit: float = SKIP_LIMIT,
) -> Assessment:
    """Score sets of images and measure how well each score tells the first from the others.

    Arguments:
        detector: A fitted detector.
        in_distribution: Images, not those of the fit; whatever `open_images` takes.
        outliers: Sets of outliers.
        masks: Which of their pixels are the defect, for figures of the maps: a column or a folder
            for all sets, or one of what `open_masks` takes for each.
        group_size: 1 scores images; n scores groups of n images by their mean.
        seed: Fixes balancing, groups and intervals.
        skip_limit: As of `score_set`, of each set.

    Raises:
        ApproxMassError: images or masks that cannot be used, fewer images than a group has, or
            masks for a method without maps; or a detector calibrated per group, of which none is
            chosen.
    """
    _ = detector.fitted.calibrated  # one for all images
    sources = _opened(detector, (in_distribution, *outliers))
    first, *others = sources
    opened: dict[str, Masks] = {}
    if masks is not None:
        detector.fitted.check_explains()
        opened = _masks_of(masks, {name: sources[name] for name in others})
    places = Places(seed=seed) if opened else None
    sets = {
        name: score_set(
            detector,
            source,
            places=places,
            masks=opened.get(name),
            kind=name,
            skip_limit=skip_limit,
        )
        for name, source in sources.items()
    }
    return Assessment(
        detector=detector,
        sets=sets,
        evaluation=evaluate(
            first,
            sets[first].statistics,
            {name: sets[name].statistics for name in others},
            group_size=group_size,
            seed=seed,
            unit=detector.fitted.unit,
        ),
        group_size=group_size,
        seed=seed,
        places=None if places is None else _localizations(detector, places, first, others),
    )


def _opened(detector: Detector, sets: Sequence[Any]) -> dict[str, ImageSource]:
    """Sources by name."""
    sources: dict[str, ImageSource] = {}
    for images in sets:
        source = detector.open(images)
        name = source.name
        while name in sources:  # two arrays, or a source given twice
            name += "'"
        sources[name] = source
    return sources


def _masks_of(
    masks: str | os.PathLike[str] | Sequence[Any], sources: Mapping[str, ImageSource]
) -> dict[str, Masks]:
    """Masks of every set."""
    each = [masks] * len(sources) if isinstance(masks, str | os.PathLike) else masks
    if len(each) != len(sources):
        raise ApproxMassError(
            f"there are masks of {len(each)} sets, and {len(sources)} of outliers: give as many",
            code="bad-masks",
        )
    pairs = zip(sources.items(), each, strict=True)
    return {name: open_masks(where, source) for (name, source), where in pairs}


def _localizations(
    detector: Detector, places: Places, inside: str, outside: Sequence[str]
) -> Localizations:
    return Localizations(
        of=detector.model.mapped,
        sets={name: places.figures((inside, name)) for name in outside},
        together=places.figures(),
    )
