"""Several models of one kind, each learnt without a fold of the images, as one."""

__all__ = ["FOLDS", "FoldedModel", "mean_statistics", "mean_surfaces", "models_of"]

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from ..arrays import Floats, Shape
from ..data.frame import Box
from ..data.region import Region
from ..encoders import PooledEncoder, WhitenedEncoder
from ..explain.attribution import Surfaces
from ..runtime.schema import held_to
from ..storage.tensors import tensors_below
from ..training.checkpoint import fold_of
from .base import FitData, FitRun, Given, Model, Saved

# As many as the bar on the time of a fit, four times that of one model, has room for.
FOLDS = 4


class FoldedModel:
    """A `Model` of K, which all see images in the same way: one view, K scores, and their mean.

    What they have in common, all that is not below, is asked of the first.

    Arguments:
        models: The first of them planned and prepared, or all of them learnt.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)

    @classmethod
    def of(cls, first: Model, folds: int) -> "FoldedModel":
        """That many, none of which has learnt anything, from one that has made its plan."""
        return cls([first, *(copy.copy(first) for _ in range(folds - 1))])

    def __getattr__(self, name: str) -> Any:
        if name == "models":
            raise AttributeError(name)
        return getattr(self.models[0], name)

    def __repr__(self) -> str:
        return f"{len(self.models)} x {self.models[0]!r}"

    def as_model(self) -> Model:
        """Itself, for the type checker, which does not see what is asked of the first."""
        return cast(Model, self)

    def prepare(self, shape: Shape, device: torch.device, region: Region | None = None) -> None:
        """Be ready to view images for a fit; see `Model`."""
        for model in self.models:
            model.prepare(shape, device, region)

    def learn_each(self, data: Sequence[FitData], count: int, run: FitRun) -> None:
        """Fit each on what is not of its fold, of `count` images."""
        for k, (model, own) in enumerate(zip(self.models, data, strict=True)):
            # No state of one training may be taken for that of another.
            digest = hashlib.sha256(f"{own.sha256}: without fold {k} of {len(data)}".encode())
            checkpoint = None if run.checkpoint is None else fold_of(Path(run.checkpoint), k)
            if isinstance(encoder := getattr(model, "encoder", None), WhitenedEncoder):
                encoder.images = count  # as fine as one of all would be
            notes = [f"fold {k + 1} of {len(data)}", *(run.notes if k == 0 else ())]
            model.learn(
                replace(own, sha256=digest.hexdigest()),
                replace(run, checkpoint=checkpoint, notes=notes),
            )

    def calm(self) -> bool:
        """All of them, for they are of one kind."""
        return all(model.calm() for model in self.models)

    def statistics_of(self, views: Tensor) -> dict[str, Floats]:
        """The mean of each statistic."""
        return mean_statistics([model.statistics_of(views) for model in self.models])

    def own_probe(self) -> dict[str, Floats]:
        """That of each."""
        return {
            f"{name} of fold {k}": values
            for k, model in enumerate(self.models)
            for name, values in model.own_probe().items()
        }

    def explain(
        self, images: Tensor, views: Tensor, boxes: Sequence[Box] | None = None
    ) -> tuple[dict[str, Floats], Surfaces]:
        """The mean of each statistic, and of the maps."""
        found = [model.explain(images, views, boxes) for model in self.models]
        return mean_statistics([each for each, _ in found]), mean_surfaces([m for _, m in found])

    def to(self, device: torch.device) -> Self:
        """Compute there from now on."""
        for model in self.models:
            model.to(device)
        return self

    def state(self) -> dict[str, Tensor]:
        """That of each, below its number."""
        return {
            f"{k}.{name}": value
            for k, model in enumerate(self.models)
            for name, value in model.state().items()
        }

    def facts(self) -> dict[str, Any]:
        """Those of the first, and of all by fold."""
        each = [model.facts() for model in self.models]
        return {**each[0], "folds": each}

    def describe(self) -> dict[str, Any]:
        """The first, and how many there are."""
        return {**self.models[0].describe(), "folds": f"{len(self.models)} models, one a fold"}

    @classmethod
    def from_saved(cls, kind: type[Model], saved: Saved, encoder: Given) -> Self:
        """Those that were saved; see `Model`."""
        each = held_to(list[dict[str, Any]], saved.facts["folds"], "folds")
        if not each or saved.facts != {**each[0], "folds": each}:
            raise ValueError("facts of other folds")
        models = []
        for k, facts in enumerate(each):
            own = replace(saved, state=tensors_below(saved.state, str(k)), facts=facts)
            models.append(kind.from_saved(own, encoder))
            seen_by, first = (getattr(m, "encoder", None) for m in (models[k], models[0]))
            if isinstance(seen_by, PooledEncoder) and isinstance(first, PooledEncoder):
                seen_by.network = first.network  # the same weights, once
        return cls(models)


def models_of(model: Model) -> tuple[Model, ...]:
    """Of folds each model; else the one."""
    return model.models if isinstance(model, FoldedModel) else (model,)


def mean_statistics(each: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """The mean of each statistic over models.

    Example:
        >>> mean_statistics([{"nll": np.array([1.0])}, {"nll": np.array([2.0])}])
        {'nll': array([1.5])}
    """
    if len(each) == 1:
        return dict(each[0])
    return {name: np.mean([found[name] for found in each], axis=0) for name in each[0]}


def mean_surfaces(each: Sequence[Surfaces]) -> Surfaces:
    """The mean of maps, and of the shares of components, over models."""
    if len(each) == 1:
        return each[0]
    return Surfaces(
        maps=np.mean([found.maps for found in each], axis=0),
        components=np.mean([found.components for found in each], axis=0),
    )
