"""What goes with each encoder: the flow on its codes, how that is trained, what decides."""

__all__ = ["KINDS", "LARGEST_SIDE", "MODULE", "VECTORS", "Kind", "kind_of"]

import functools
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import nn

from ..arrays import Shape
from ..data.region import Region
from ..encoders import (
    Encoder,
    Network,
    PixelEncoder,
    PooledEncoder,
    VectorEncoder,
    WhitenedEncoder,
    network,
)
from ..flows import VECTOR_FLOWS, Flow, RealNVP, VectorFlow
from ..runtime.random import seeded_init
from ..training import recipes
from ..training.flow import TrainingSettings
from .base import Plan

Alpha = float | Literal["auto"]
# Stands in a saved detector for the module that was its encoder.
MODULE = "module"
# The encoder of embeddings and tables.
VECTORS = "vectors"
# Fewer rows than these, or than these times the columns, teach a flow nothing that the normal
# density of their codes has not, and it may diverge.
_FEW_ROWS, _FEW_TIMES = 30, 2
# Images larger than this a side are resized to it, where nothing else is asked for.
LARGEST_SIDE = 64
# For the ranges of a network's statistics: a fifth of the training images, at most so many.
_MOST_UNSEEN = 1000


class Kind(ABC):
    """An encoder and what goes with it.

    Attributes:
        presets: Of the flow; the first where it is left to us.
        options: Those that mean something with it alone.
        has_parts: It can tell what is at each place of an image.
    """

    presets: ClassVar[tuple[str, ...]]
    options: ClassVar[tuple[str, ...]] = ()
    has_parts: ClassVar[bool] = False

    def plan(self, shape: Shape) -> Plan:
        """What it wants of images of `shape`, without remarks."""
        return Plan(side=self.side(shape))

    def preset(self, shape: Shape, count: int) -> str:
        """The flow for so many images, where that is left to us."""
        return self.presets[0]

    def statistic(self, shape: Shape) -> str:
        """The one that decides, where that is left to us."""
        return "fused"

    def side(self, shape: Shape) -> int | None:
        """Of the square with as many pixels as images of `shape` get; None for as they are."""
        return LARGEST_SIDE if max(shape[1:]) > LARGEST_SIDE else None

    def unseen(self, count: int) -> int:
        """Of so many training images, those that the flow does not see: for the ranges."""
        return 0

    @abstractmethod
    def encoder(
        self,
        shape: Shape,
        components: int,
        parts: bool,
        module: nn.Module | None,
        region: Region | None,
    ) -> Encoder:
        """The encoder, not fitted."""

    def flow(self, preset: str, shape: Shape, dimension: int, seed: int, alpha: Alpha) -> Flow:
        """The untrained flow, to be trained with that weight of the penalty."""
        return VectorFlow(preset, dimension, seed=seed)

    def training(
        self, preset: str, count: int, shape: Shape, dimension: int, device: torch.device
    ) -> TrainingSettings:
        """How to train it on `count` images."""
        return recipes.for_codes(count, dimension, device)


class _Pixels(Kind):
    presets = ("compact", "paper")
    options = ("draws",)

    def plan(self, shape: Shape) -> Plan:
        return Plan(side=self.side(shape), stride=4)  # the compact flow halves each side twice

    def statistic(self, shape: Shape) -> str:
        return "fused" if shape[0] == 1 else "latent_fit"

    def encoder(
        self,
        shape: Shape,
        components: int,
        parts: bool,
        module: nn.Module | None,
        region: Region | None,
    ) -> Encoder:
        return PixelEncoder(shape)

    def flow(self, preset: str, shape: Shape, dimension: int, seed: int, alpha: Alpha) -> Flow:
        with seeded_init(seed):
            return RealNVP.preset(preset, shape)

    def training(
        self, preset: str, count: int, shape: Shape, dimension: int, device: torch.device
    ) -> TrainingSettings:
        if preset == "paper":
            return recipes.published(shape[0])
        return recipes.for_pixels(count, device)


class _Whitened(Kind):
    presets = tuple(VECTOR_FLOWS)
    options = ("components",)

    def encoder(
        self,
        shape: Shape,
        components: int,
        parts: bool,
        module: nn.Module | None,
        region: Region | None,
    ) -> Encoder:
        return WhitenedEncoder(components, module)


class _FromIdentity(Kind):
    """Codes of which the density starts as the standard normal one."""

    presets = ("identity", *(name for name in VECTOR_FLOWS if name != "identity"))

    def unseen(self, count: int) -> int:
        return min(_MOST_UNSEEN, count // 5)

    def flow(self, preset: str, shape: Shape, dimension: int, seed: int, alpha: Alpha) -> Flow:
        return VectorFlow(preset, dimension, seed=seed, jitter=recipes.feature_noise(alpha))


class _Vectors(_FromIdentity):
    def side(self, shape: Shape) -> int | None:
        return None

    def preset(self, shape: Shape, count: int) -> str:
        few = count < max(_FEW_ROWS, _FEW_TIMES * shape[2])
        return "gaussian" if few or shape[2] < 2 else "identity"

    def encoder(
        self,
        shape: Shape,
        components: int,
        parts: bool,
        module: nn.Module | None,
        region: Region | None,
    ) -> Encoder:
        return VectorEncoder(shape[2])

    def training(
        self, preset: str, count: int, shape: Shape, dimension: int, device: torch.device
    ) -> TrainingSettings:
        return recipes.for_vectors(count, dimension)


class _Network(_FromIdentity):
    has_parts = True

    def __init__(self, name: str) -> None:
        self.name = name

    @functools.cached_property
    def network(self) -> Network:
        """Made once it is needed."""
        return network(self.name)

    def plan(self, shape: Shape) -> Plan:
        of = self.network
        return Plan(side=self.side(shape), stride=of.stride, square=of.square, resample=of.resample)

    def side(self, shape: Shape) -> int | None:
        small = max(shape[1:]) <= LARGEST_SIDE and not self.network.square
        return self.network.side // 2 if small else self.network.side

    def encoder(
        self,
        shape: Shape,
        components: int,
        parts: bool,
        module: nn.Module | None,
        region: Region | None,
    ) -> Encoder:
        return PooledEncoder(self.network, parts_of=shape if parts else None, region=region)

    def training(
        self, preset: str, count: int, shape: Shape, dimension: int, device: torch.device
    ) -> TrainingSettings:
        return recipes.for_features(count, dimension)


# By the value of the option `encoder`; all others are names of networks.
KINDS: dict[str, Kind] = {
    "pca": _Whitened(),
    "pixels": _Pixels(),
    VECTORS: _Vectors(),
    MODULE: _Whitened(),
}


def kind_of(encoder: str) -> Kind:
    """What goes with the encoder of that name.

    Raises:
        ApproxMassError: a network that cannot be had here.
    """
    return KINDS[encoder] if encoder in KINDS else _Network(encoder)
