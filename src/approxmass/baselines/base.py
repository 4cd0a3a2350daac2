"""What every baseline is: options, checks of what it is given, tensors to keep."""

__all__ = ["Baseline", "Floats", "Images", "Labels", "check_labels", "in_batches", "parse_options"]

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import describe_shape, open_images, open_labels
from ..errors import ApproxMassError
from ..flows.pixels import unit_pixels
from ..machine import default_device

Floats = NDArray[np.float64]
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

_LARGEST = 2**32


@dataclass(kw_only=True)
class Baseline(ABC):
    """A detector to compare with. Its fields are its options; larger score = more OOD.

    Arguments:
        seed: Fixes the training.
    """

    needs_labels: ClassVar[bool] = False
    takes_outliers: ClassVar[bool] = False
    needs_outliers: ClassVar[bool] = False
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
        for name, kind in self.option_types().items():
            value = getattr(self, name)
            if typing.get_origin(kind) is Literal:
                known = typing.get_args(kind)
                if value not in known:
                    allowed = ", ".join(map(str, known))
                    raise ApproxMassError(f"{name} must be one of {allowed}, not {value!r}")
                continue
            integral = kind is int
            low: float = 1 if integral and name != "seed" else 0
            good = isinstance(value, int | np.integer) if integral else isinstance(value, Real)
            if name in self.signed:
                low = -np.inf
            high = _LARGEST if integral else np.inf
            above = low <= value if name not in self.positive else low < value
            if isinstance(value, bool) or not (good and above and value < high):
                wanted = f"a{' whole' if integral else ''} number"
                bound = f" of at least {low}" if name not in self.positive else " above 0"
                bound = "" if name in self.signed else bound
                raise ApproxMassError(f"{name} must be {wanted}{bound}, not {value!r}")
            setattr(self, name, kind(value))

    @classmethod
    def option_types(cls) -> dict[str, Any]:
        """Its options and their types: int, float or a Literal."""
        hints = typing.get_type_hints(cls)
        return {name: hints[name] for name in (f.name for f in fields(cls))}

    def options(self) -> dict[str, Any]:
        """Its options, ready for JSON."""
        return asdict(self)

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
        name = type(self).__name__
        if len(source) < self.fewest:
            raise ApproxMassError(
                f"{name} needs at least {self.fewest} images, not {len(source)}: give more"
            )
        classes = None
        if self.needs_labels:
            found = open_labels(source.name if labels is None else labels)
            classes = check_labels(found, len(source), name)
        others = None
        if self.needs_outliers and outliers is None:
            raise ApproxMassError(
                f"{name} is fitted on outliers: give some, or choose another method"
            )
        if self.takes_outliers and outliers is not None:
            given = open_images(outliers)
            if given.shape != source.shape:
                raise ApproxMassError(
                    f"the outliers ({given.name}) are {describe_shape(given.shape)}, the images "
                    f"{describe_shape(source.shape)}: give outliers of the same size and colour"
                )
            others = given.read()
        self._state = self._fit(source.read(), classes, others, progress)
        self.shape = source.shape
        return self

    def score(self, images: Any) -> Floats:
        """Scores `(N,)` of images, whatever `open_images` takes; larger = more OOD.

        Raises:
            ApproxMassError: not fitted yet, or images of another shape than those of the fit.
        """
        if not hasattr(self, "shape"):
            raise ApproxMassError(f"{type(self).__name__} has learnt nothing yet: call fit first")
        source = open_images(images)
        if source.shape != self.shape:
            raise ApproxMassError(
                f"{source.name} is {describe_shape(source.shape)}, fitted were images of "
                f"{describe_shape(self.shape)}: convert them"
            )
        return self._score(source.read()).astype(np.float64)

    def state(self) -> dict[str, Tensor]:
        """Everything learnt, as named tensors."""
        return self._state

    def restore(self, state: Mapping[str, Tensor], shape: tuple[int, int, int]) -> Self:
        """Take over what a baseline of the same options has learnt from images of `shape`."""
        self._state = dict(state)
        self.shape = shape
        self._revive()
        return self

    @property
    def weights(self) -> int:
        """Numbers learnt."""
        return sum(value.numel() for value in self._state.values())

    @abstractmethod
    def _fit(
        self, images: Images, labels: Labels | None, outliers: Images | None, progress: bool
    ) -> dict[str, Tensor]:
        """Learn, and return everything learnt."""

    @abstractmethod
    def _score(self, images: Images) -> NDArray[Any]:
        """Scores `(N,)`."""

    def _revive(self) -> None:  # noqa: B027 - nothing to do for most
        """Make from the state and the shape what scoring needs; not needed by all."""


def check_labels(labels: Any, count: int, method: str, *, each: int = 5) -> Labels:
    """Classes as int64 `(count,)`.

    Arguments:
        labels: One whole number an image, or None.
        count: Of images.
        method: Whose labels they are, for the errors.
        each: Fewest images of a class.

    Raises:
        ApproxMassError: none given, not one whole number an image, only one class, a class with
            too few images, or numbers that are not 0, 1, ..., K-1 without gaps.

    Example:
        >>> check_labels([0, 1, 1], 3, "energy", each=1)
        array([0, 1, 1])
    """
    if labels is None:
        raise ApproxMassError(
            f"{method} learns a classifier and needs the classes of the images: give labels (a "
            "column label, a subfolder for each class, or --labels)"
        )
    array = np.asarray(labels)
    if array.ndim != 1 or len(array) != count:
        raise ApproxMassError(
            f"{method} needs one label an image: {count:,} images, labels of shape {array.shape}"
        )
    if array.dtype.kind not in "iu":
        raise ApproxMassError(
            f"labels must be whole numbers, not {array.dtype}: number the classes"
        )
    present = np.unique(array)
    if len(present) == 1:
        raise ApproxMassError(
            f"all labels are {present[0]}: {method} needs at least two classes to tell apart"
        )
    if present[0] != 0 or present[-1] != len(present) - 1:
        listed = ", ".join(map(str, present[:6])) + (", ..." if len(present) > 6 else "")
        raise ApproxMassError(
            f"labels must be 0 to {len(present) - 1} for {len(present)} classes, with no gaps, not "
            f"{listed}: number the classes anew"
        )
    counts = np.bincount(array.astype(np.int64))
    if counts.min() < each:
        raise ApproxMassError(
            f"class {counts.argmin()} has {counts.min()} of the images: give {method} at least "
            f"{each} of each class"
        )
    return array.astype(np.int64)


def parse_options(kind: type[Baseline], words: Sequence[str]) -> dict[str, Any]:
    """Options written as `name=value`, each turned into what the class takes.

    Example:
        >>> from approxmass.baselines import PCAResidual
        >>> parse_options(PCAResidual, ["components=8"])
        {'components': 8}
    """
    options: dict[str, Any] = {}
    types = kind.option_types()
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or name not in types:
            known = ", ".join(f"{option}=..." for option in types)
            raise ApproxMassError(f"no option {word!r}: {kind.__name__} takes {known}")
        of = types[name]
        try:
            options[name] = text if typing.get_origin(of) is Literal else of(text)
        except ValueError:
            raise ApproxMassError(f"{name} takes a number, not {text!r}") from None
    return options


def in_batches(
    function: Callable[[Tensor], Tensor], images: Images | Tensor, size: int = 256
) -> Tensor:
    """Apply `function` to uint8 images, `size` at a time, as pixels in [0, 1] on the device."""
    parts = [
        function(unit_pixels(part.to(default_device()))).detach().cpu()
        for part in torch.split(torch.as_tensor(images), size)
    ]
    return torch.cat(parts)
