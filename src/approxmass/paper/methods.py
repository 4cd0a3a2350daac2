"""The rows of the tables: each kind of method knows how it is fitted and what there is to say."""

__all__ = [
    "PLAIN",
    "BareBaseline",
    "CalibratedFlow",
    "Classifier",
    "FitMethod",
    "Fitted",
    "GODINClassifier",
    "Method",
    "PixelMethod",
    "TunedClassifier",
    "plain",
    "share_of",
]

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, cast

import torch
from scipy.stats import binomtest

from ..arrays import Floats, Pixels
from ..baselines import BASELINES, Baseline
from ..baselines.classifier import ClassifierBaseline
from ..baselines.godin import GODIN
from ..detector import Detector
from .images import Labelling
from .pixel_flow import PixelFlow, recipe
from .protocols import (
    MOST_RELEASED,
    PER_IMAGE_OR_GROUP,
    PROTOCOLS,
    compare,
    compare_as_released,
)
from .runs import Order
from .sets import Sets

# Test images a set for flows on pixels at laptop scale.
_MOST = 2000


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method of Table 2.

    Attributes:
        scores: Statistic, to its name in the table.
        seconds: About how long a fit takes on two cores at laptop scale, by table or set.
        seeds: Number of fits with seeds 0, 1, ...
        protocols: Those that it can be scored by.
    """

    protocols: ClassVar[tuple[str, ...]] = PER_IMAGE_OR_GROUP

    scores: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict)
    seeds: int = 1

    @abstractmethod
    def row(self, sets: Sets, order: Order, protocol: str, seed: int) -> dict[str, Any]:
        """Fit on the in-distribution images of `sets` and compare with its OOD images.

        Returns:
            JSON-ready facts, among them `sets`: title and metrics by OOD set.
        """

    def compared(
        self,
        id_scores: Mapping[str, Floats],
        oods: Mapping[str, Mapping[str, Floats]],
        protocol: str,
    ) -> dict[str, dict[str, Any]]:
        """Metrics by OOD set and by the name of the score."""
        return {
            ood: {
                title: compare(id_scores[statistic], ood_scores[statistic], protocol)
                for statistic, title in self.scores.items()
                if statistic in id_scores
            }
            for ood, ood_scores in oods.items()
        }


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came out of a fit.

    Attributes:
        score: Scores `(N,)` by statistic, of images `(N, C, H, W)`, uint8.
        facts: JSON-ready settings.
        seconds: What the fit took.
        test: From the sets of a row to what else their test images say; JSON-ready.
    """

    score: Callable[[Pixels], Mapping[str, Floats]]
    facts: dict[str, Any]
    seconds: float
    test: Callable[[Sets], dict[str, Any]] = lambda sets: {}


@dataclass(frozen=True, kw_only=True)
class FitMethod(Method):
    """A method that is fitted on images alone or with labels or outliers.

    Attributes:
        laptop: Options at laptop scale.
        full: Options as published.
        learns: Its scores depend on the images that it was fitted on.
    """

    laptop: Mapping[str, Any] = field(default_factory=dict)
    full: Mapping[str, Any] = field(default_factory=dict)
    learns: bool = True

    def options(self, scale: str) -> dict[str, Any]:
        """Its options at a scale."""
        return dict(self.laptop if scale == "laptop" else self.full)

    @abstractmethod
    def fit(
        self,
        scale: str,
        images: Pixels,
        labels: Labelling | None = None,
        outliers: Pixels | None = None,
        *,
        seed: int = 0,
    ) -> Fitted:
        """Fit on in-distribution images `(N, C, H, W)`, uint8."""

    def row(self, sets: Sets, order: Order, protocol: str, seed: int) -> dict[str, Any]:
        """See `Method.row`."""
        fitted = self.fit(order.scale, sets.train, self._labels(sets), seed=seed)
        return self._row(
            fitted, sets, {k: found.images for k, found in sets.oods.items()}, protocol
        )

    def _labels(self, sets: Sets) -> Labelling | None:
        """Labels to learn from, if it needs them."""
        return None

    def _row(
        self, fitted: Fitted, sets: Sets, oods: Mapping[str, Pixels], protocol: str
    ) -> dict[str, Any]:
        tested = fitted.test(sets)
        started = time.monotonic()
        id_scores = fitted.score(sets.test)
        rate = len(sets.test) / (time.monotonic() - started)
        ood_scores = {name: fitted.score(images) for name, images in oods.items()}
        metrics = self.compared(id_scores, ood_scores, protocol)
        return {
            **tested,
            "scored_images_per_second": round(rate),
            "training_images": len(sets.train),
            "options": fitted.facts,
            "fit_seconds": round(fitted.seconds, 1),
            "threads": torch.get_num_threads(),
            "sets": _titled(sets, metrics),
        }


@dataclass(frozen=True, kw_only=True)
class CalibratedFlow(FitMethod):
    """A detector of the method `flow`; its options are those of `Detector`."""

    def fit(
        self,
        scale: str,
        images: Pixels,
        labels: Labelling | None = None,
        outliers: Pixels | None = None,
        *,
        seed: int = 0,
    ) -> Fitted:
        """See `FitMethod.fit`; learns from no labels and no outliers."""
        started = time.monotonic()
        detector = Detector(**self.options(scale), seed=seed).fit(images)
        seconds = time.monotonic() - started

        def flagged(sets: Sets) -> dict[str, Any]:
            share = detector.predict(sets.test, false_alarm_rate=0.05).mean()
            return {"flagged_id_at_5_percent": float(share)}

        return Fitted(
            score=lambda x: detector.score(x).statistics,
            facts=detector.model.facts()["training"],
            seconds=seconds,
            test=flagged,
        )


@dataclass(frozen=True, kw_only=True)
class BareBaseline(FitMethod):
    """A baseline, without calibration.

    Attributes:
        baseline: Of `BASELINES`.
    """

    baseline: str

    def fit(
        self,
        scale: str,
        images: Pixels,
        labels: Labelling | None = None,
        outliers: Pixels | None = None,
        *,
        seed: int = 0,
    ) -> Fitted:
        """See `FitMethod.fit`."""
        started = time.monotonic()
        baseline = BASELINES[self.baseline].make(seed, self.options(scale))
        baseline.fit(images, labels, outliers)
        # What training took, also where the network came from the cache.
        trained = sum(state.seconds for state in baseline.trainings)
        return Fitted(
            score=lambda x: {self.baseline: baseline.score(x)},
            facts=asdict(baseline),
            seconds=trained or time.monotonic() - started,
            test=lambda sets: self._tested(baseline, sets),
        )

    def _tested(self, baseline: Baseline, sets: Sets) -> dict[str, Any]:
        """What else the test images of a row say."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Classifier(BareBaseline):
    """A baseline that learns a classifier."""

    def _labels(self, sets: Sets) -> Labelling | None:
        return sets.train_labels

    def _tested(self, baseline: Baseline, sets: Sets) -> dict[str, Any]:
        truth = sets.test_labels
        classes = cast(ClassifierBaseline, baseline).classify(sets.test)
        return {"accuracy": share_of(int((classes == truth).sum()), len(truth))}


@dataclass(frozen=True, kw_only=True)
class GODINClassifier(Classifier):
    """Generalized ODIN, which finds its magnitude itself."""

    baseline: str = GODIN.name

    def _tested(self, baseline: Baseline, sets: Sets) -> dict[str, Any]:
        magnitude = cast(GODIN, baseline).magnitude
        return {**super()._tested(baseline, sets), "magnitude": magnitude}


@dataclass(frozen=True, kw_only=True)
class TunedClassifier(Classifier):
    """A classifier that is fine-tuned with outliers, which it is not tested on.

    Attributes:
        outliers: Name of the outliers, by the in-distribution set.
    """

    outliers: Mapping[str, str]

    def row(self, sets: Sets, order: Order, protocol: str, seed: int) -> dict[str, Any]:
        """See `Method.row`."""
        outliers = sets.outliers(self.outliers[sets.name])
        labels = self._labels(sets)
        fitted = self.fit(order.scale, sets.train, labels, outliers.images, seed=seed)
        row = self._row(fitted, sets, outliers.tests, protocol)
        return {"outliers": outliers.title, **row}


@dataclass(frozen=True, kw_only=True)
class PixelMethod(Method):
    """A flow of the paper on pixels.

    Attributes:
        training: Of `TRAININGS`.
    """

    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)

    training: str

    def row(self, sets: Sets, order: Order, protocol: str, seed: int) -> dict[str, Any]:
        """See `Method.row`; the seed is always 0."""
        released, most = protocol == "released", order.at_laptop(_MOST)
        # Of the released protocol BatchNorm is a part.
        how = recipe(order.scale, sets.train.shape[1], detector=not released)
        flow = PixelFlow(sets.train, self.training, how)
        test = sets.test[:most]
        if released:
            oods = sets.whole_oods(order.at_laptop(MOST_RELEASED))
            metrics = {
                ood: {self.scores[statistic]: each for statistic, each in found.items()}
                for ood, found in compare_as_released(flow.flow(), test, oods).items()
            }
        else:
            scorer = flow.scorer().fit(flow.images, flow.reference)
            ood_scores = {
                name: scorer.statistics_of(torch.from_numpy(found.images[:most]))
                for name, found in sets.oods.items()
            }
            id_scores = scorer.statistics_of(torch.from_numpy(test))
            metrics = self.compared(id_scores, ood_scores, protocol)
        facts = flow.describe()
        return {
            "training_images": len(flow.images),
            "options": facts,
            "fit_seconds": round(facts["seconds"], 1),
            "threads": torch.get_num_threads(),
            "sets": _titled(sets, metrics),
        }


def _titled(sets: Sets, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"title": sets.oods[name].title, "metrics": found} for name, found in metrics.items()
    }


def share_of(right: int, count: int) -> dict[str, float]:
    """A share with its 95% interval by Wilson, ready for JSON.

    Example:
        >>> share_of(5, 10)["value"]
        0.5
    """
    interval = binomtest(right, count).proportion_ci(method="wilson")
    return {"value": right / count, "low": interval.low, "high": interval.high}


# What a detector has to beat; name, title.
PLAIN = {
    "nearest-neighbour": "1-nearest-neighbour",
    "pca-residual": "PCA residual",
    "gaussian": "Gaussian",
    "untrained-flow": "untrained flow: mass",
    "png-size": "PNG size",
}
_LEARNS_NOTHING = {"untrained-flow"}


def plain(seconds: Mapping[str, Sequence[float]]) -> dict[str, BareBaseline]:
    """The plain lines; `seconds` has one number for each of `PLAIN`, by table or set."""
    return {
        name: BareBaseline(
            baseline=name,
            scores={name: title},
            seconds={key: each[i] for key, each in seconds.items()},
            learns=name not in _LEARNS_NOTHING,
        )
        for i, (name, title) in enumerate(PLAIN.items())
    }
