"""The default detector beside its vanilla flow and the plain lines, on the same images."""

__all__ = ["Comparison", "Line", "compare"]

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import Bools, Floats
from ..calibration import FALSE_ALARM_RATE, p_values
from ..data import ImageSource, open_images
from ..data.part import part_of
from ..detector import Detector
from ..errors import ApproxMassError
from ..models.views import Seen, views_of
from ..runtime.machine import limited_threads, machine_facts
from ..training.holdout import FEWEST_IMAGES, three_shares
from .lines import plain_lines
from .metrics import Interval, ood_metrics
from .paired import paired_difference

# Statistics of the two flows that are shown, as far as they have them.
_SHOWN = ("fused", "nll", "mass", "latent_fit", "residual", "neighbour")
_OF_THE_FLOW = ("fused", "nll", "mass", "latent_fit")
# What the plain lines are calibrated on and tried on, by these names.
_CALIBRATION = "calibration"
# Of each interval: there are many.
_DRAWS = 300
# Images whose scoring is timed.
_TIMED = 200


@dataclass(frozen=True, kw_only=True)
class Line:
    """How one score does.

    Attributes:
        name: Of the score.
        of: `penalised`, `vanilla` or `plain`.
        auroc: By set of outliers, with a 95% interval.
        flagged: Share of the images of each set, the in-distribution one first, called outliers
            at 5%.
    """

    name: str
    of: str
    auroc: dict[str, Interval]
    flagged: dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Lines on the same images.

    Attributes:
        id: Name of the in-distribution set.
        counts: Images of each set, the in-distribution one first.
        lines: The default first.
        differences: AUROC of the penalised flow less the vanilla one, by statistic and set of
            outliers, with a paired 95% interval.
        scores: By line (`of: name`) and set, to compare further.
        detector: The default one, fitted.
        images_per_second: Of its scoring, from the source to the scores.
        seed: Of fits and intervals.
    """

    id: str
    counts: dict[str, int]
    lines: list[Line]
    differences: dict[str, dict[str, Interval]]
    scores: dict[str, dict[str, Floats]] = field(repr=False)
    detector: Detector
    images_per_second: float
    seed: int

    def facts(self) -> dict[str, Any]:
        """All but the scores as plain types, ready for JSON."""
        return {
            "id": self.id,
            "counts": self.counts,
            "seed": self.seed,
            "fit_seconds": self.detector.facts.fit_seconds,
            "images_per_second": round(self.images_per_second, 1),
            "lines": [
                {
                    "name": line.name,
                    "of": line.of,
                    "auroc": {ood: _rounded(each) for ood, each in line.auroc.items()},
                    "flagged": {name: round(share, 4) for name, share in line.flagged.items()},
                }
                for line in self.lines
            ],
            "penalised_less_vanilla": {
                name: {ood: _rounded(each) for ood, each in by_set.items()}
                for name, by_set in self.differences.items()
            },
            "settings": self.detector.settings.as_dict(),
            "fit": self.detector.facts.as_dict(),
            "machine": machine_facts(),
        }


def compare(
    images: Any,
    oods: Mapping[str, Any],
    *,
    id_images: Any = None,
    progress: bool = False,
    **settings: Any,
) -> Comparison:
    """Fit the default, the same without the penalty, and plain lines; try them on other images.

    Arguments:
        images: In-distribution images to fit on.
        oods: Outliers, by name.
        id_images: In-distribution images to try them on; None for a fifth of `images`, which are
            then not fitted on.
        progress: Show a progress bar on standard error.
        settings: Of both detectors, such as `seed`.

    Raises:
        ApproxMassError: images that cannot be used, or settings that do not go together.
    """
    detector, vanilla = Detector(**settings), Detector(**{**settings, "alpha": 0.0})
    source, id_source = _two(open_images(images), id_images, detector.settings.seed)
    sources = {id_source.name: id_source, **{name: open_images(of) for name, of in oods.items()}}
    if len(sources) <= len(oods):
        raise ApproxMassError("two sets have one name: name them apart", code="bad-option")
    detector.fit(source, progress=progress)
    vanilla.fit(source, progress=progress)
    scores: dict[str, dict[str, Floats]] = {}
    with limited_threads(detector.threads):
        features = _score(detector, vanilla, sources, scores)
        training, calibration = _fitted_features(detector, source)
        found = plain_lines(training, {_CALIBRATION: calibration, **features})
    calibrations = {f"plain: {name}": by_set.pop(_CALIBRATION) for name, by_set in found.items()}
    scores |= {f"plain: {name}": by_set for name, by_set in found.items()}
    for of, each in (("penalised", detector), ("vanilla", vanilla)):
        calibrations |= {f"{of}: {name}": values for name, values in each.calibration.items()}
    seed = detector.settings.seed
    counts = {name: len(of) for name, of in next(iter(scores.values())).items()}
    return Comparison(
        id=id_source.name,
        counts=counts,
        lines=[_line(key, by_set, calibrations[key], seed) for key, by_set in scores.items()],
        differences=_differences(scores, id_source.name, list(oods), seed),
        scores=scores,
        detector=detector,
        images_per_second=_rate(detector, id_source),
        seed=seed,
    )


def _two(source: ImageSource, id_images: Any, seed: int) -> tuple[ImageSource, ImageSource]:
    if id_images is not None:
        return source, open_images(id_images)
    if len(source) - len(source) // 5 < FEWEST_IMAGES:
        raise ApproxMassError(
            f"{source.name} has {len(source)} images, of which a fifth is held out to try it on: "
            f"give at least {FEWEST_IMAGES * 5 // 4}, or in-distribution images of their own",
            code="too-few",
        )
    held: Bools = np.zeros(len(source), dtype=bool)
    held[np.random.default_rng(seed).permutation(len(source))[: len(source) // 5]] = True
    return (
        part_of(source, ~held, source.name),
        part_of(source, held, f"a fifth of {source.name}"),
    )


def _score(
    detector: Detector,
    vanilla: Detector,
    sources: Mapping[str, ImageSource],
    scores: dict[str, dict[str, Floats]],
) -> dict[str, dict[str, Any]]:
    """Add the scores of both flows; returns the features of every set."""
    both = (
        ("penalised", detector, dict.fromkeys((detector.statistic, *_SHOWN))),
        ("vanilla", vanilla, dict.fromkeys((detector.statistic, *_OF_THE_FLOW))),
    )
    features = {}
    for name, of in sources.items():
        found: dict[str, list[Floats]] = {}
        seen = []
        for _, _, views in _views(detector, of):
            for kind, each, shown in both:
                statistics = each.model.statistics_of(views)
                for statistic in shown:
                    if statistic in statistics:
                        found.setdefault(f"{kind}: {statistic}", []).append(statistics[statistic])
            seen.append(detector.model.features(views))
        for key, values in found.items():
            scores.setdefault(key, {})[name] = np.concatenate(values)
        features[name] = _joined(seen)
    return features


def _fitted_features(
    detector: Detector, source: ImageSource
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Features of the images that were trained on, and of those that calibrate."""
    settings = detector.settings
    shares = three_shares(len(source), settings.holdout, settings.seed, source.name)
    found = _joined([detector.model.features(views) for _, _, views in _views(detector, source)])
    training, calibration = (
        {kind: rows[shares.order[share]] for kind, rows in found.items()}
        for share in (shares.training, shares.calibration)
    )
    return training, calibration


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {kind: torch.cat([part[kind] for part in parts]) for kind in parts[0]}


def _views(detector: Detector, source: ImageSource) -> Iterator[Seen]:
    return views_of(
        detector.model,
        detector.open(source),
        device=detector.device,
        threads=detector.threads,
        shape=detector.shape,
    )


def _rate(detector: Detector, source: ImageSource) -> float:
    """Images a second, from the source to the scores, without what is cached."""
    started, count = time.monotonic(), 0
    for chunk, _ in detector.score_chunks(source):
        count += len(chunk.names)
        if count >= _TIMED:
            break
    return count / (time.monotonic() - started)


def _line(key: str, by_set: Mapping[str, Floats], calibration: Floats, seed: int) -> Line:
    of, name = key.split(": ", 1)
    inside, *outside = by_set
    return Line(
        name=name,
        of=of,
        auroc={
            ood: ood_metrics(
                by_set[inside], by_set[ood], balanced=False, bootstrap=_DRAWS, seed=seed
            ).auroc
            for ood in outside
        },
        flagged={
            each: float((p_values(calibration, values) <= FALSE_ALARM_RATE).mean())
            for each, values in by_set.items()
        },
    )


def _differences(
    scores: Mapping[str, Mapping[str, Floats]], inside: str, oods: Sequence[str], seed: int
) -> dict[str, dict[str, Interval]]:
    found: dict[str, dict[str, Interval]] = {}
    shared = [key.split(": ")[1] for key in scores if key.startswith("vanilla: ")]
    for statistic in shared:
        one, other = scores[f"penalised: {statistic}"], scores[f"vanilla: {statistic}"]
        found[statistic] = {
            ood: paired_difference(
                [(one[inside], one[ood])],
                [(other[inside], other[ood])],
                bootstrap=_DRAWS,
                seed=seed,
            )
            for ood in oods
        }
    return found


def _rounded(interval: Interval) -> dict[str, float]:
    return {
        "value": round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
    }
