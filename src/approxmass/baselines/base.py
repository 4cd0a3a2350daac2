"""What every baseline is: options, checks of what it is given, tensors to keep."""

__all__ = ["Baseline"]

import sys
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, ClassVar, Literal, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arrays import Floats, Labels, Pixels, Shape
from ..data import check_labels, describe_shape, open_images, open_labels
from ..data.copies import pixel_digests, units_of
from ..data.frame import Box
from ..data.pixels import unit_pixels
from ..data.region import Region
from ..errors import ApproxMassError
from ..models.base import AsTheyAre, FitData, FitRun, Given, Plan, Saved, Statistic
from ..models.kinds import LARGEST_SIDE
from ..models.settings import check_options
from ..runtime.batches import fixed_batches
from ..runtime.machine import pick_device
from ..runtime.plain import plainly
from ..runtime.schema import Count, held_to
from ..training.flow import EpochRecord
from ..training.loop import State

_LARGEST = 2**32


@dataclass(frozen=True)
class _Facts:
    """Of the method, in `detector.json`."""

    weights: Count


@dataclass(kw_only=True)
class Baseline(AsTheyAre, ABC):
    """A method to compare with, a `Model`. Its fields are its options; larger score = more OOD.

    Alone it scores without a p-value: `fit(images)`, `score(images)`; behind a `Detector` it is
    calibrated.

    Arguments:
        seed: Fixes the training.
    """

    name: ClassVar[str]
    statistic: ClassVar[Statistic]
    explains: ClassVar[bool] = False
    mapped: ClassVar[str] = ""
    component_names: ClassVar[list[str]] = []
    module = None
    history: ClassVar[Sequence[EpochRecord]] = ()
    needs_labels: ClassVar[bool] = False
    takes_outliers: ClassVar[bool] = False
    stride: ClassVar[int] = 1  # of images that are resized, sides are multiples of it
    needs_outliers: ClassVar[bool] = False
    # Images that are scored together, no more and no less, so that each has the same score
    # whatever it comes with.
    together: ClassVar[int] = 32
    # Options that may be negative, and those that may not be 0 either.
    signed: ClassVar[frozenset[str]] = frozenset()
    positive: ClassVar[frozenset[str]] = frozenset()

    seed: int = 0

    @property
    def fewest(self) -> int:
        """Images that it needs."""
        return 2

    def __post_init__(self) -> None:
        self._state: dict[str, Tensor] = {}
        self.shape: Shape | None = None  # of the images, once fitted
        self._device: torch.device | None = None  # the first asked of, a GPU where there is one
        self.trainings: list[State] = []  # of its networks, as they ended
        # Of each image of a fit: copies of one are on one side of what a method holds out.
        self._units: NDArray[np.int64] = np.empty(0, np.int64)
        for name, kind in {**self.option_types(), "seed": int}.items():
            value = getattr(self, name)
            if typing.get_origin(kind) is Literal:
                known = typing.get_args(kind)
                if value not in known:
                    allowed = ", ".join(map(str, known))
                    raise ApproxMassError(
                        f"{name} must be one of {allowed}, not {value!r}", code="bad-option"
                    )
                continue
            integral = kind is int
            low: float = 1 if integral and name != "seed" else 0
            if name in self.signed:
                low = -np.inf
            high = _LARGEST if integral else sys.float_info.max
            good = isinstance(value, int | np.integer if integral else Real)
            good = good and not isinstance(value, bool) and low <= value < high
            if not good or (value == low and name in self.signed | self.positive):
                wanted = f"a{' whole' if integral else ''} number"
                bound = f" of at least {low}" if name not in self.positive else " above 0"
                bound = "" if name in self.signed else bound
                raise ApproxMassError(
                    f"{name} must be {wanted}{bound}, not {value!r}", code="bad-option"
                )
            setattr(self, name, kind(value))

    @classmethod
    def option_types(cls) -> dict[str, Any]:
        """Its options but for the seed, and their types: int, float or a Literal."""
        hints = typing.get_type_hints(cls)
        return {f.name: hints[f.name] for f in fields(cls) if f.name != "seed"}

    @classmethod
    def make(cls, seed: int, options: Mapping[str, Any]) -> Self:
        """One that has learnt nothing.

        Raises:
            ApproxMassError: an option that it does not have, or a value out of range.

        Example:
            >>> from approxmass.baselines import PCAResidual
            >>> PCAResidual.make(0, {"components": 8})
            PCAResidual(seed=0, components=8)
        """
        check_options(cls.name, options, cls.option_types())
        return cls(seed=seed, **options)

    def options(self) -> dict[str, Any]:
        """Its options but for the seed, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "seed"}

    @plainly
    def fit(
        self, images: Any, labels: Any = None, outliers: Any = None, *, progress: bool = False
    ) -> Self:
        """Learn from in-distribution images.

        Arguments:
            images: Whatever `open_images` takes, all of one size.
            labels: Classes 0 to K-1 of the images, whatever `open_labels` takes; None for those
                that come with the images. Not looked at by methods that need none.
            outliers: Images for methods that learn from some; not looked at by the others.
            progress: Show a progress bar on standard error.

        Raises:
            ApproxMassError: images, labels or outliers that cannot be used.
        """
        source = open_images(images)
        classes = None
        if self.needs_labels:
            found = open_labels(source if labels is None else labels)
            classes = check_labels(found, len(source), self.name)
        others = None
        if self.takes_outliers and outliers is not None:
            others = open_images(outliers).read()
        pixels = source.read()
        self._units = units_of(pixel_digests(pixels))
        self._learn(pixels, classes, others, progress)
        return self

    @plainly
    def score(self, images: Any) -> Floats:
        """Scores `(N,)` of images, whatever `open_images` takes; larger = more OOD.

        Raises:
            ApproxMassError: not fitted yet, or images of another shape than those of the fit.
        """
        if self.shape is None:
            raise ApproxMassError(
                f"{self.name} has learnt nothing yet: call fit first", code="not-fitted"
            )
        # To a baseline of colour images a grey one has three equal channels.
        source = open_images(images, mode="rgb" if self.shape[0] == 3 else "auto")
        if source.shape != self.shape:
            raise ApproxMassError(
                f"{source.name} is {describe_shape(source.shape)}, fitted were images of "
                f"{describe_shape(self.shape)}: convert them",
                code="wrong-shape",
            )
        return self._scores(source.read())

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The one that it has."""
        return (self.statistic,)

    @property
    def decides(self) -> str:
        """Name of its statistic."""
        return self.statistic.name

    def plan(self, shape: Shape, count: int) -> Plan:
        """There is no choice left to it; larger images get as many pixels as 64x64."""
        return Plan(
            side=LARGEST_SIDE if max(shape[1:]) > LARGEST_SIDE else None, stride=self.stride
        )

    @property
    def quick(self) -> bool:
        """Unknown: most train a network."""
        return False

    def prepare(self, shape: Shape, device: torch.device, region: Region | None = None) -> None:
        """Compute there; of a region it knows what the images show."""
        self._device = device

    def features(self, views: Tensor) -> dict[str, Tensor]:
        """The pixels."""
        return {"pixels": unit_pixels(views).flatten(1)}

    def learn(self, data: FitData, run: FitRun) -> None:
        """Fit behind a detector.

        Raises:
            ApproxMassError: as `fit`.
        """
        pixels = data.training.numpy()
        self._units = units_of(pixel_digests(pixels) if data.units is None else data.units)
        self._learn(pixels, data.labels, data.outliers, run.progress)

    def statistics_of(self, views: Tensor) -> dict[str, Floats]:
        """Its statistic `(N,)` of images `(N, C, H, W)`, uint8."""
        return {self.decides: self._scores(views.numpy())}

    def explain(
        self, images: Tensor, views: Tensor, boxes: Sequence[Box] | None = None
    ) -> NoReturn:
        """There is no density whose gradient could be shown.

        Raises:
            ApproxMassError: always.
        """
        raise ApproxMassError(
            f"{self.name} has no density to explain: fit a detector of the method flow",
            code="no-explanation",
        )

    def to(self, device: torch.device) -> Self:
        """Compute there from now on."""
        if device == self._device:
            return self
        self._device = device
        if self.shape is not None:
            self.restore(self._state, self.shape)
        return self

    def state(self) -> dict[str, Tensor]:
        """Everything learnt, as named tensors."""
        return self._state

    def facts(self) -> dict[str, Any]:
        """How many numbers it learnt."""
        return {"weights": self.weights}

    def describe(self) -> dict[str, Any]:
        """What a person wants to know of it."""
        options = ", ".join(f"{name} {value}" for name, value in self.options().items())
        return {"method": self.name, "options": options or "none", "numbers learnt": self.weights}

    @classmethod
    def from_saved(cls, saved: Saved, encoder: Given) -> Self:
        """The model that was saved; see `Model`.

        Raises:
            ApproxMassError: it is given an encoder.
            ValueError: options, state and facts do not fit together.
        """
        if encoder is not None:
            raise ApproxMassError(
                f"{cls.name} has no encoder and no density: load it with nothing but its folder",
                code="wrong-encoder",
            )
        facts = held_to(_Facts, saved.facts, "model")
        made = cls.make(saved.seed, saved.options)
        made._device = torch.device("cpu")
        made.restore(saved.state, saved.shape)
        if made.weights != facts.weights:
            raise ValueError("another number of weights")
        return made

    def restore(self, state: Mapping[str, Tensor], shape: Shape) -> Self:
        """Take over what a baseline of the same options has learnt from images of `shape`."""
        self._state = dict(state)
        self.shape = shape
        self._revive(shape)
        return self

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        if self._device is None:
            self._device = pick_device()
        return self._device

    @property
    def weights(self) -> int:
        """Numbers learnt."""
        return sum(value.numel() for value in self._state.values())

    def _learn(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> None:
        count, channels, height, width = images.shape
        if count < self.fewest:
            raise ApproxMassError(
                f"{self.name} needs at least {self.fewest} images, not {count}: give more",
                code="too-few",
            )
        if self.needs_outliers and outliers is None:
            raise ApproxMassError(
                f"{self.name} is fitted on outliers: give some, or choose another method",
                code="bad-outliers",
            )
        shape = (channels, height, width)
        if outliers is not None and outliers.shape[1:] != shape:
            raise ApproxMassError(
                f"the outliers are {describe_shape(outliers.shape[1:])}, the images "
                f"{describe_shape(shape)}: give outliers of the same size and colour",
                code="bad-outliers",
            )
        self.trainings = []
        self._state = self._fit(images, labels, outliers, progress)
        self.shape = shape

    def _scores(self, images: Pixels) -> Floats:
        """Scores `(N,)`, in batches of a fixed size."""
        found = [
            self._score(some.numpy())[:count].astype(np.float64)
            for some, count in fixed_batches(torch.from_numpy(images), self.together)
        ]
        return np.concatenate(found) if found else np.empty(0)

    def _in_batches(
        self, function: Callable[[Tensor], Tensor], images: Pixels | Tensor, size: int = 256
    ) -> Tensor:
        """What `function` makes of pixels in [0, 1] on the device, `size` images at a time."""
        parts = [
            function(unit_pixels(part.to(self.device))).detach().cpu()
            for part in torch.split(torch.as_tensor(images), size)
        ]
        return torch.cat(parts)

    @abstractmethod
    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        """Learn, and return everything learnt."""

    @abstractmethod
    def _score(self, images: Pixels) -> NDArray[Any]:
        """Scores `(N,)`."""

    def _revive(self, shape: Shape) -> None:
        """Make from the state and the shape what scoring needs; not needed by all."""
