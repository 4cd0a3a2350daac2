"""A detector on named sets of images, one of them in-distribution: scores, metrics, facts."""

__all__ = ["Assessment", "ScoredSet", "assess", "score_set"]

import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..arrays import Bools, Floats
from ..data import Chunk, ImageSource
from ..detector import Detector
from ..runtime.machine import machine_facts
from ..scores import Scores
from .protocol import Evaluation, evaluate
from .weak_spots import weak_spots


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
        seconds: Reading and scoring.
    """

    source: ImageSource
    names: list[str]
    statistics: Mapping[str, Floats]
    p_value: Floats
    is_outlier: Bools
    sha256: str
    seconds: float

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
    """

    detector: Detector
    sets: dict[str, ScoredSet]
    evaluation: Evaluation
    group_size: int
    seed: int

    @property
    def flagged(self) -> dict[str, float]:
        """Share of the images of each set that are called outliers at 5%."""
        return {name: scored.flagged for name, scored in self.sets.items()}

    @functools.cached_property
    def warnings(self) -> list[str]:
        """A line for each set on which the deciding statistic is weak."""
        first, *others = self.sets
        return weak_spots(
            self.detector.statistic,
            self.sets[first].statistics,
            {name: self.sets[name].statistics for name in others},
            seed=self.seed,
        )

    def facts(self) -> dict[str, Any]:
        """All of it as plain types, ready for JSON."""
        return {
            **self.evaluation.as_dict(),
            "seed": self.seed,
            "flagged_at_5_percent": self.flagged,
            "warnings": self.warnings,
            "images": {
                name: {
                    "count": len(scored.names),
                    "sha256": scored.sha256,
                    "seconds": round(scored.seconds, 2),
                }
                for name, scored in self.sets.items()
            },
            "settings": self.detector.settings.as_dict(),
            "fit": self.detector.facts.as_dict() | self.detector.model.facts(),
            "machine": machine_facts(),
        }


def score_set(
    detector: Detector, images: Any, on_chunk: Callable[[Chunk, Scores], None] | None = None
) -> ScoredSet:
    """Score whatever `open_images` takes; `on_chunk` sees the scores as they come.

    Raises:
        ApproxMassError: an unreadable image, or one of another size than the detector's.
    """
    started = time.monotonic()
    source = detector.open(images)
    digest = hashlib.sha256()
    names: list[str] = []
    parts = []
    for chunk, scores in detector.score_chunks(source):
        chunk.require_readable(source.name)
        if on_chunk is not None:
            on_chunk(chunk, scores)
        digest.update(chunk.images.data)
        names += chunk.names
        parts.append(scores)
    joined = Scores.join(parts)
    return ScoredSet(
        source=source,
        names=names,
        statistics=joined.statistics,
        p_value=joined.p_value,
        is_outlier=joined.is_outlier,
        sha256=digest.hexdigest(),
        seconds=time.monotonic() - started,
    )


def assess(
    detector: Detector,
    in_distribution: Any,
    outliers: Sequence[Any],
    *,
    group_size: int = 1,
    seed: int = 0,
) -> Assessment:
    """Score sets of images and measure how well each score tells the first from the others.

    Arguments:
        detector: A fitted detector.
        in_distribution: Images, not those of the fit; whatever `open_images` takes.
        outliers: Sets of outliers.
        group_size: 1 scores images; n scores groups of n images by their mean.
        seed: Fixes balancing, groups and intervals.

    Raises:
        ApproxMassError: images that cannot be used, or fewer images than a group has.
    """
    sets: dict[str, ScoredSet] = {}
    for images in (in_distribution, *outliers):
        scored = score_set(detector, images)
        name = scored.source.name
        while name in sets:  # two arrays, or a source given twice
            name += "'"
        sets[name] = scored
    first, *others = sets
    evaluation = evaluate(
        first,
        sets[first].statistics,
        {name: sets[name].statistics for name in others},
        group_size=group_size,
        seed=seed,
    )
    return Assessment(
        detector=detector, sets=sets, evaluation=evaluation, group_size=group_size, seed=seed
    )
