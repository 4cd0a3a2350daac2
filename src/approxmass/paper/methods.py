"""The rows of the tables: a method with its options, fitted on one set and asked about others."""

__all__ = ["PLAIN", "Fitted", "Method", "check_only", "fit", "plain"]

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ..baselines import Baseline, make_baseline
from ..baselines.base import Floats
from ..detector import Detector
from ..errors import ApproxMassError


@dataclass(frozen=True)
class Method:
    """One fit, and the scores that it gives.

    Attributes:
        kind: `flow`, for a `Detector`, or the name of a baseline.
        scores: Statistic of the detector, to its name in the table.
        laptop: Options at laptop scale.
        full: Options as published.
        seconds: About how long a fit takes on two cores at laptop scale, by table or set.
        seeds: Number of fits with seeds 0, 1, ...
        outliers: It learns from outliers.
    """

    kind: str
    scores: Mapping[str, str]
    laptop: Mapping[str, Any] = field(default_factory=dict)
    full: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    seeds: int = 1
    outliers: bool = False

    def options(self, scale: str) -> dict[str, Any]:
        """Its options at a scale."""
        return dict(self.laptop if scale == "laptop" else self.full)


@dataclass(frozen=True)
class Fitted:
    """What came out of a fit: scores of images by statistic, JSON-ready facts, seconds spent."""

    score: Callable[[Any], Mapping[str, Floats]]
    facts: dict[str, Any]
    seconds: float
    detector: Detector | None = None
    baseline: Baseline | None = None


# What a detector has to beat; name, title.
PLAIN = {
    "nearest-neighbour": "1-nearest-neighbour",
    "pca-residual": "PCA residual",
    "gaussian": "Gaussian",
    "untrained-flow": "untrained flow: mass",
    "png-size": "PNG size",
}


def plain(seconds: Mapping[str, Sequence[float]]) -> dict[str, Method]:
    """The plain lines; `seconds` has one number for each of `PLAIN`, by table or set."""
    return {
        kind: Method(kind, {kind: title}, seconds={name: s[i] for name, s in seconds.items()})
        for i, (kind, title) in enumerate(PLAIN.items())
    }


def fit(
    method: Method,
    scale: str,
    images: NDArray[Any],
    labels: NDArray[Any] | None = None,
    outliers: NDArray[Any] | None = None,
    *,
    seed: int = 0,
) -> Fitted:
    """Fit a method on in-distribution images."""
    options = method.options(scale)
    started = time.monotonic()
    if method.kind == "flow":
        detector = Detector(**options, seed=seed).fit(images)
        seconds = time.monotonic() - started
        return Fitted(
            lambda x: detector.score(x).statistics,
            detector.facts["training"],
            seconds,
            detector=detector,
        )
    baseline = make_baseline(method.kind, options, seed)
    baseline.fit(images, labels, outliers if method.outliers else None)
    # What training took, also where the network came from the cache.
    spent = [getattr(baseline, name, {"seconds": 0.0}) for name in ("training", "tuning")]
    trained = sum(each["seconds"] for each in spent)
    return Fitted(
        lambda x: {method.kind: baseline.score(x)},
        baseline.options(),
        trained or time.monotonic() - started,
        baseline=baseline,
    )


def check_only(only: Sequence[str], known: Collection[str], table: str) -> None:
    """Every row in `only` is one of `known`.

    Raises:
        ApproxMassError: it is not.
    """
    for name in only:
        if name not in known:
            raise ApproxMassError(f"no row {name!r} in {table}: it has {', '.join(known)}")
