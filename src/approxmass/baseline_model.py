"""A fitted baseline as what a detector scores with: its method in the place of the flow."""

__all__ = ["BaselineScorer", "fit_baseline", "restore_baseline"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .baselines import Baseline, check_labels
from .data import open_images, open_labels
from .errors import ApproxMassError
from .settings import Settings


class BaselineScorer:
    """A fitted baseline as what a detector scores with.

    Arguments:
        name: Of the method and of its one statistic.
        baseline: Fitted.
        shape: `(C, H, W)` of the images.
    """

    def __init__(self, name: str, baseline: Baseline, shape: tuple[int, int, int]) -> None:
        self.names = [name]
        self.baseline = baseline
        self.shape = shape

    def __call__(self, images: Tensor) -> dict[str, NDArray[np.float64]]:
        """The statistic of images `(N, C, H, W)`, uint8: `(N,)` float64 under its name."""
        scores = self.baseline.score(images.numpy()) if len(images) else np.empty(0)
        return {self.names[0]: scores}


def fit_baseline(
    settings: Settings,
    images: Tensor,
    training: Tensor,
    source: str,
    labels: Any,
    outliers: Any,
    *,
    progress: bool = False,
) -> tuple[BaselineScorer, dict[str, Any]]:
    """Fit the method that `settings` name.

    Arguments:
        settings: After `resolve`.
        images: All images `(N, C, H, W)`, uint8.
        training: Places of those to learn from.
        source: Name of what the images were read from.
        labels: Of all the images, whatever `open_labels` takes; None for those of the source.
        outliers: Whatever `open_images` takes; None for none.
        progress: Show a progress bar.

    Returns:
        The scorer, and JSON-ready facts.

    Raises:
        ApproxMassError: labels or outliers that are missing, unusable, or not asked for.
    """
    method, baseline = settings.method, settings.baseline()
    classes = None
    if baseline.needs_labels:
        found = open_labels(source if labels is None else labels)
        # Twice what the method needs of each class, since some are held out.
        classes = check_labels(found, len(images), method, each=10)[training.numpy()]
    elif labels is not None:
        raise ApproxMassError(f"{method} learns from no labels: give none")
    if outliers is not None:
        if not baseline.takes_outliers:
            raise ApproxMassError(f"{method} learns from no outliers: give none")
        outliers = open_images(outliers, size=settings.size)
    own = images[training]
    baseline.fit(own.numpy(), classes, outliers, progress=progress)
    facts = {
        "options": baseline.options(),
        "weights": baseline.weights,
        "outliers": None if outliers is None else outliers.name,
    }
    return BaselineScorer(method, baseline, _shape(own)), facts


def restore_baseline(
    settings: Settings, state: Mapping[str, Tensor], shape: tuple[int, int, int]
) -> BaselineScorer:
    """The scorer of a baseline that has learnt `state` from images of `shape`."""
    return BaselineScorer(settings.method, settings.baseline().restore(state, shape), shape)


def _shape(images: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = images.shape
    return channels, height, width
