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
from ..data import ImageSource
from ..data.copies import stored_digests, units_of
from ..data.part import part_of
from ..data.skipping import SKIP_LIMIT, Skips, readable_part
from ..detector import Detector
from ..encoders.patches import Patches
from ..errors import ApproxMassError
from ..models.parts import PARTS
from ..models.views import Seen, views_of
from ..runtime.machine import machine_facts
from ..runtime.plain import plain_process
from ..training.holdout import FEWEST_WHOLE, Shares
from .intervals import Interval
from .known import known_warnings
from .lines import plain_lines
from .metrics import ood_metrics
from .paired import paired_difference
from .patch_lines import PatchLines

# Statistics of the two flows that are shown, as far as they have them.
_SHOWN = ("fused", "nll", "mass", "latent_fit", "residual", "neighbour", *PARTS)
_OF_THE_FLOW = ("fused", "nll", "mass", "latent_fit", "patch_nll", "patch_mass")
# What the plain lines are calibrated on and tried on, by these names.
_CALIBRATION = "images that calibrate"
# What the images of the fit are called beside the sets.
_FIT = "fit"
# Of each interval of a difference: there are many.
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
        in_fit: How many of them were in the fit, by their pixels.
        lines: The default first.
        differences: AUROC of the penalised flow less the vanilla one, by statistic and set of
            outliers, with a paired 95% interval.
        scores: By line (`of: name`) and set, to compare further.
        detector: The default one, fitted.
        images_per_second: Of its scoring, from the source to the scores.
        seed: Of fits and intervals.
        skipped: Of the images of the fit and of each set, name and reason of those unreadable.
        remarks: What was done to them unasked, and which files are none, in words.
    """

    id: str
    counts: dict[str, int]
    in_fit: dict[str, int]
    lines: list[Line]
    differences: dict[str, dict[str, Interval]]
    scores: dict[str, dict[str, Floats]] = field(repr=False)
    detector: Detector
    images_per_second: float
    seed: int
    skipped: dict[str, list[tuple[str, str]]]
    remarks: dict[str, list[str]]

    @property
    def warnings(self) -> list[str]:
        """A line for each set that holds images of the fit."""
        return known_warnings(self.in_fit, self.counts)

    def facts(self) -> dict[str, Any]:
        """All but the scores as plain types, ready for JSON."""
        return {
            "id": self.id,
            "counts": self.counts,
            "in_fit": self.in_fit,
            "warnings": self.warnings,
            "remarks": self.remarks,
            "skipped": {
                name: [{"name": n, "reason": why} for n, why in found]
                for name, found in self.skipped.items()
            },
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
    skip_limit: float = SKIP_LIMIT,
    progress: bool = False,
    **settings: Any,
) -> Comparison:
    """Fit the default, the same without the penalty, and plain lines; try them on other images.

    Arguments:
        images: In-distribution images to fit on.
        oods: Outliers, by name.
        id_images: In-distribution images to try them on; None for a fifth of `images`, which are
            then not fitted on.
        skip_limit: Share of the images of each set that are left out where they cannot be read.
        progress: Show a progress bar on standard error.
        settings: Of both detectors, such as `seed`.

    Raises:
        ApproxMassError: images that cannot be used, or settings that do not go together.
    """
    if settings.get("trim"):
        raise ApproxMassError(
            "compare learns from the same images by all: leave trim out", code="bad-option"
        )
    # The plain lines are calibrated on the same images held out.
    settings = {**settings, "calibration": "holdout"}
    detector, vanilla = Detector(**settings), Detector(**{**settings, "alpha": 0.0})
    opened = detector.settings.open
    # Before any fit, since both are of the same images.
    whole, skipped = readable_part(opened(images), skip_limit, threads=detector.threads)
    inside = None if id_images is None else opened(id_images)
    source, id_source = _two(whole, inside, detector.settings.seed)
    sources = {id_source.name: id_source} | {name: opened(of) for name, of in oods.items()}
    if len(sources) <= len(oods):
        raise ApproxMassError("two sets have one name: name them apart", code="bad-option")
    detector.fit(source, skip_limit=0, progress=progress)
    vanilla.fit(source, skip_limit=0, progress=progress)
    scores: dict[str, dict[str, Floats]] = {}
    skips = {name: Skips(of, skip_limit) for name, of in sources.items()}
    with plain_process(detector.threads):
        learnt, calibrating = _fitted_on(detector, source)
        tried = {**sources, _CALIBRATION: calibrating}
        features, in_fit = _score(detector, vanilla, tried, learnt.lines, scores, skips)
        del in_fit[_CALIBRATION]
        found = plain_lines(learnt.features, features)
    scores |= {f"plain: {name}": by_set for name, by_set in found.items()}
    calibrations = {key: by_set.pop(_CALIBRATION) for key, by_set in scores.items()}
    return Comparison(
        id=id_source.name,
        counts={name: len(of) for name, of in next(iter(scores.values())).items()},
        in_fit=in_fit,
        lines=[_line(key, by_set, calibrations[key]) for key, by_set in scores.items()],
        differences=_differences(scores, id_source.name, list(oods), detector.settings.seed),
        scores=scores,
        detector=detector,
        images_per_second=_rate(detector, id_source),
        seed=detector.settings.seed,
        skipped={_FIT: skipped.found, **{name: each.found for name, each in skips.items()}},
        remarks={_FIT: whole.remarks(), **{name: of.remarks() for name, of in sources.items()}},
    )


def _two(
    source: ImageSource, inside: ImageSource | None, seed: int
) -> tuple[ImageSource, ImageSource]:
    if inside is not None:
        return source, inside
    if len(source) - len(source) // 5 < FEWEST_WHOLE:
        raise ApproxMassError(
            f"{source.name} has {len(source)} {source.unit}s, of which a fifth is held out to try "
            f"it on: give at least {FEWEST_WHOLE * 5 // 4}, or in-distribution images of their own",
            code="too-few",
        )
    units = units_of(stored_digests(source))
    count = int(units.max()) + 1
    held: Bools = np.isin(units, np.random.default_rng(seed).permutation(count)[: count // 5])
    return (
        part_of(source, ~held, source.name),
        part_of(source, held, f"a fifth of {source.name}"),
    )


@dataclass(frozen=True, eq=False)
class _Learnt:
    """What plain lines learn from: features of the training images; those of patches, fitted."""

    features: dict[str, Tensor]
    lines: PatchLines | None


def _fitted_on(detector: Detector, source: ImageSource) -> tuple[_Learnt, ImageSource]:
    """Of the images that were trained on what plain lines need, and the images that calibrate."""
    settings, model = detector.settings, detector.model
    shares = detector.fitted.shares
    assert isinstance(shares, Shares)  # it was fitted here, and some held out
    rows = np.empty(len(source), np.int64)
    rows[shares.order] = np.arange(len(source))
    parts = [
        part_of(source, (rows >= share.start) & (rows < share.stop), source.name)
        for share in (shares.training, shares.calibration)
    ]
    features, kept, done = [], [], 0
    for _, _, views, _ in _views(detector, parts[0]):
        features.append(model.features(views))
        some = model.kept(views, range(done, done + len(views)), len(parts[0]))
        kept.append(model.patches(some))
        done += len(views)
    # In the order in which they were drawn, of which plain lines take the first.
    drawn = torch.from_numpy(np.argsort(np.argsort(shares.order[shares.training])))
    found = {kind: of[drawn] for kind, of in _joined(features).items()}
    seen = [each for each in kept if each is not None]
    lines = None
    if seen:
        together = Patches(*(torch.cat(each) for each in zip(*seen, strict=True)))
        lines = PatchLines(together, seed=settings.seed)
    return _Learnt(found, lines), parts[1]


def _score(
    detector: Detector,
    vanilla: Detector,
    sources: Mapping[str, ImageSource],
    lines: PatchLines | None,
    scores: dict[str, dict[str, Floats]],
    skips: Mapping[str, Skips],
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Add the scores of both flows and of patches.

    Returns:
        Of every set the features, and how many of its images were in the fit.
    """
    both = (
        ("penalised", detector, dict.fromkeys((detector.statistic, *_SHOWN))),
        ("vanilla", vanilla, dict.fromkeys((detector.statistic, *_OF_THE_FLOW))),
    )
    features, in_fit = {}, dict.fromkeys(sources, 0)
    for name, of in sources.items():
        found: dict[str, list[Floats]] = {}
        seen = []
        for images, _, views, _ in _views(detector, of, skips.get(name)):
            in_fit[name] += int(detector.fitted.in_fit(images).sum())
            for kind, each, shown in both:
                statistics = each.model.statistics_of(views)
                for statistic in shown:
                    if statistic in statistics:
                        found.setdefault(f"{kind}: {statistic}", []).append(statistics[statistic])
            patches = detector.model.patches(views)
            if lines is not None and patches is not None:
                for line, values in lines.scores(patches).items():
                    found.setdefault(f"plain: {line}", []).append(values)
            seen.append(detector.model.features(views))
        for key, parts in found.items():
            scores.setdefault(key, {})[name] = np.concatenate(parts)
        features[name] = _joined(seen)
    return features, in_fit


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {kind: torch.cat([part[kind] for part in parts]) for kind in parts[0]}


def _views(detector: Detector, source: ImageSource, skips: Skips | None = None) -> Iterator[Seen]:
    return views_of(
        detector.model,
        detector.open(source),
        device=detector.device,
        threads=detector.threads,
        shape=detector.shape,
        skips=skips,
    )


def _rate(detector: Detector, source: ImageSource) -> float:
    """Images a second, from the source to the scores, without what is cached."""
    started, count = time.monotonic(), 0
    for chunk, _ in detector.score_chunks(source):
        count += len(chunk.names)
        if count >= _TIMED:
            break
    return count / (time.monotonic() - started)


def _line(key: str, by_set: Mapping[str, Floats], calibration: Floats) -> Line:
    of, name = key.split(": ", 1)
    inside, *outside = by_set
    return Line(
        name=name,
        of=of,
        auroc={
            ood: ood_metrics(by_set[inside], by_set[ood], balanced=False).auroc for ood in outside
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
