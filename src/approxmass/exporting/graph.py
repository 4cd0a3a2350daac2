"""What a fitted detector does with pixels, as one function of tensors, p-values too."""

__all__ = ["Graph"]

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arrays import Floats
from ..calibrated import Calibrated
from ..calibration import with_tolerance
from ..encoders import PooledEncoder
from ..errors import ApproxMassError
from ..fitted import Fitted
from ..models.flow import FlowModel
from ..models.folded import models_of

# Numbers of an example that stand for any number of rows: no dimension of a detector by chance.
_EXAMPLE = 5
# Images at a time, also where the activations of a network are large.
_FEWEST = 16


class Graph:
    """From pixels to every statistic, p-value and map, as `Fitted` gives them.

    Arguments:
        fitted: With one calibration for all images.
        dtype: Of the numbers that go in; None for uint8, of rows float64.

    Attributes:
        fitted: See above.
        dtype: Of the numbers that go in.
        grid: Rows and columns of places, with parts; else None.
        inputs: Names of what it takes.
        outputs: Names of what it gives.

    Raises:
        ApproxMassError: a baseline, each group has its own calibration, or no such dtype.
    """

    def __init__(self, fitted: Fitted, dtype: str | None = None) -> None:
        models = [model for model in models_of(fitted.model) if isinstance(model, FlowModel)]
        if not models:
            raise ApproxMassError(
                f"no graph is made of the method {fitted.model.name}: export a detector of the "
                "method flow",
                code="no-export",
            )
        natural = "float64" if fitted.vectors else "uint8"
        if dtype not in (None, "float32", natural):
            raise ApproxMassError(
                f"what goes into this graph is {natural} or float32, not {dtype!r}",
                code="bad-option",
            )
        self.fitted, self._models = fitted, models
        self._calibrated: Calibrated = fitted.calibrated
        self.dtype = dtype or natural
        encoder = models[0].encoder
        parts = isinstance(encoder, PooledEncoder) and bool(encoder.widths)
        self.grid: tuple[int, int] | None = encoder.grid if parts else None  # type: ignore[assignment]
        self.inputs = ["rows" if fitted.vectors else "images", *(["inside"] if parts else [])]
        self.statistics = [statistic.name for statistic in fitted.model.statistics]
        self.outputs = [*self.statistics, "p_value", *(["map", "map_p_value"] if parts else [])]

    @property
    def batch(self) -> int:
        """As many images at a time suit it."""
        first = self._models[0]
        return min(first.scorer.batch_size, max(_FEWEST, first.encoder.at_once))

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace it with."""
        shape = self.fitted.facts.shape
        of = shape[2:] if self.fitted.vectors else shape
        images = torch.zeros(_EXAMPLE, *of, dtype=getattr(torch, self.dtype))
        if self.grid is None:
            return (images,)
        return images, torch.ones(_EXAMPLE, math.prod(self.grid), dtype=torch.bool)

    def __call__(self, images: Tensor, inside: Tensor | None = None) -> tuple[Tensor, ...]:
        """What `outputs` names, of images `(N, C, H, W)` or rows `(N, D)`.

        Arguments:
            images: As `dtype` says; floats of pixels in [0, 1].
            inside: With parts, which places are of each image, `(N, k)`, bool.
        """
        views = self._models[0].encoder.view_at_once(images, inside)
        by_model, maps = [], []
        for model in self._models:
            seen: list[Tensor] = []
            by_model.append(model.scorer(views, seen))
            maps += seen
        means = {name: _mean([each[name] for each in by_model]) for name in self.statistics}
        of, decides = self._calibrated, self.fitted.model.decides
        p = _p_value(of.scores[decides], of.fold, [each[decides] for each in by_model])
        found = [*means.values(), p]
        if self.grid is not None:
            peaks = [each.amax(1) for each in maps]
            fold = None if of.fold is None else of.fold[: len(of.peaks)]
            mean = _mean(maps)
            p = _p_value(of.peaks, fold, peaks if fold is not None else [mean.amax(1)])
            found += [mean.view(-1, *self.grid), p]
        return tuple(found)


def _mean(each: Sequence[Tensor]) -> Tensor:
    return each[0] if len(each) == 1 else torch.stack(list(each)).mean(0)


def _p_value(
    calibration: Floats, fold: NDArray[np.int64] | None, by_model: Sequence[Tensor]
) -> Tensor:
    """As `p_values`, of the mean over models, or `fold_p_values`, of each model its fold."""
    n = len(calibration)
    if fold is None:
        count = _reaching(with_tolerance(calibration), _mean(by_model))
    else:
        own = [with_tolerance(calibration[fold == k]) for k in range(len(by_model))]
        pairs = zip(own, by_model, strict=True)
        count = torch.stack([_reaching(reached, scores) for reached, scores in pairs]).sum(0)
    return (1 + count).double() / (1 + n)


def _reaching(reached: Floats, scores: Tensor) -> Tensor:
    """How many of sorted numbers are at least as large as each score, `(N,)`: by halving.

    Example:
        >>> _reaching(np.array([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 9.0]).double())
        tensor([3, 2, 0])
    """
    size = 1 << len(reached).bit_length()  # more than there are
    table = torch.full((size,), torch.inf, dtype=torch.float64)
    table[: len(reached)] = torch.from_numpy(reached)
    below = torch.zeros_like(scores, dtype=torch.int64)
    step = size // 2
    while step:
        further = below + step
        below = torch.where(table[further - 1] < scores, further, below)
        step //= 2
    return len(reached) - below
