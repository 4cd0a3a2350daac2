"""What a detector is asked to be, and what its `auto` settings become on given images."""

__all__ = ["Settings"]

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal

from .baselines import BASELINES, Baseline, make_baseline
from .errors import ApproxMassError
from .machine import fast_bf16
from .scores import STATISTICS
from .training import TrainingSettings

# Images larger than this a side are resized to it unless a size is given.
_LARGEST_SIDE = 64

_PRECISION: Literal["no", "bf16"] = "bf16" if fast_bf16() else "no"
# How a flow is trained when nobody says otherwise: settings, images seen, most epochs.
_WHITENED = (
    TrainingSettings(alpha=0, epochs=1, batch_size=512, learning_rate=1e-3, precision=_PRECISION),
    220_000,
    20,
)
# Where there are images enough, larger batches are quicker; this rate brings the loss on held-out
# images to where the smaller ones bring it.
_MANY, _LARGER_BATCH, _HIGHER_RATE = 11_000, 1024, 2e-3
_COMPACT = (
    TrainingSettings(
        alpha=0,
        epochs=1,
        batch_size=16,
        learning_rate=3e-3,
        weight_decay=5e-5,
        clip=100,
        precision=_PRECISION,
    ),
    100_000,
    40,
)
# As published, but for the schedule; the learning rate of grey and colour images.
_PAPER = TrainingSettings(alpha=0, epochs=200, batch_size=32, weight_decay=5e-5, clip=100)
_PAPER_RATES = {1: 5e-5, 3: 1e-4}


@dataclass(frozen=True)
class Settings:
    """Options of a `Detector`, described there.

    Raises:
        ApproxMassError: a value out of range.
    """

    space: str = "auto"  # auto, pca, pixels, or features (of a module given beside)
    alpha: float | Literal["auto"] = "auto"
    seed: int = 0
    preset: str = "auto"
    components: int = 128
    size: int | None = None
    epochs: int | Literal["auto"] = "auto"
    holdout: float = 0.1
    statistic: str = "auto"
    draws: int = 1
    method: str = "flow"
    options: Mapping[str, Any] = field(default_factory=dict)  # of a method other than the flow

    def __post_init__(self) -> None:
        for name, low, high in (
            ("seed", 0, 2**32 - 1),
            ("components", 1, 2**31),
            ("draws", 1, 2**31),
            ("size", 1, 4096),
            ("epochs", 1, 2**31),
        ):
            value = getattr(self, name)
            if (value is None and name == "size") or (value == "auto" and name == "epochs"):
                continue
            try:
                number = operator.index(value)
            except TypeError:
                number = low - 1
            if not low <= number <= high:
                raise ApproxMassError(f"{name} must be between {low} and {high}, not {value!r}")
            object.__setattr__(self, name, number)  # a plain int, also where NumPy's was given
        if self.space not in ("auto", "pca", "pixels", "features"):
            raise ApproxMassError(f"unknown space {self.space!r}: use 'auto', 'pca' or 'pixels'")
        if not isinstance(self.options, Mapping):
            raise ApproxMassError(f"options must be a dictionary, not {self.options!r}")
        object.__setattr__(self, "options", dict(self.options))
        if self.method != "flow":
            self._check_rival()
        elif self.options:
            raise ApproxMassError(f"options are for methods other than flow, not {self.options}")
        elif self.statistic not in ("auto", *STATISTICS):
            known = ", ".join(STATISTICS)
            raise ApproxMassError(f"unknown statistic {self.statistic!r}: use one of {known}")
        if self.alpha != "auto":
            if not (isinstance(self.alpha, Real) and 0 <= self.alpha < math.inf):
                raise ApproxMassError(
                    f"alpha must be 'auto' or a number of at least 0, not {self.alpha!r}"
                )
            object.__setattr__(self, "alpha", float(self.alpha))
        if not (isinstance(self.holdout, Real) and 0 < self.holdout < 1):
            raise ApproxMassError(f"holdout must be between 0 and 1, not {self.holdout!r}")
        object.__setattr__(self, "holdout", float(self.holdout))

    def _check_rival(self) -> None:
        if self.method not in BASELINES:
            known = ", ".join(("flow", *BASELINES))
            raise ApproxMassError(f"unknown method {self.method!r}: use one of {known}")
        for name, twice in (("seed", True), ("epochs", self.epochs != "auto")):
            if name in self.options and twice:
                raise ApproxMassError(f"give {name} as itself, not among the options")
        for name, given in (
            ("space", self.space != "auto"),
            ("alpha", self.alpha != "auto"),
            ("preset", self.preset != "auto"),
            ("statistic", self.statistic not in ("auto", self.method)),
            ("components", self.components != 128 and "components" not in self.options),
            ("draws", self.draws != 1),
        ):
            if given:
                raise ApproxMassError(f"{name} belongs to the flow, not to {self.method}")
        self.baseline()  # for its checks

    def baseline(self) -> Baseline:
        """The untrained baseline that the method, the options, the seed and the epochs name."""
        epochs = {} if self.epochs == "auto" else {"epochs": self.epochs}
        return make_baseline(self.method, {**self.options, **epochs}, self.seed)

    def resolve(self, shape: tuple[int, int, int]) -> tuple["Settings", list[str]]:
        """Replace the `auto` of space, preset and size for images of `shape` (C, H, W).

        Returns:
            The settings, and a remark for each choice that a person may want to know of.

        Example:
            >>> settings, remarks = Settings().resolve((1, 28, 28))
            >>> settings.space, settings.preset
            ('pca', 'realnvp')
        """
        notes = []
        channels, height, width = shape
        space, size = self.space, self.size
        if size is None and max(height, width) > _LARGEST_SIDE:
            size = _LARGEST_SIDE
            notes.append(
                f"size: images are resized to {size}x{size} (the first is {width}x{height}), as "
                f"are all over {_LARGEST_SIDE} pixels a side; give a size to choose another"
            )
        if self.method != "flow":
            return replace(self, size=size, statistic=self.method), notes
        if space == "auto" and channels == 1:
            space = "pca"
            notes.append("space: pca, because the images are grey: the mass is strongest there")
        elif space == "auto":
            space = "pixels"
            notes.append(
                "space: pixels, because the images are in colour: the latent fit is strongest there"
            )
        preset = self.preset
        if preset == "auto":
            preset = "compact" if space == "pixels" else "realnvp"
        if self.statistic == "latent_fit" and space != "pixels":
            raise ApproxMassError(
                "the statistic latent_fit belongs to the space pixels: choose that, or another "
                "statistic"
            )
        statistic = self.statistic
        if statistic == "auto":
            statistic = "latent_fit" if space == "pixels" and channels == 3 else "fused"
        return replace(self, space=space, preset=preset, size=size, statistic=statistic), notes

    def training(self, channels: int, dimension: int, count: int) -> TrainingSettings:
        """How to train on `count` images whose code has `dimension` numbers; after `resolve`.

        Example:
            >>> settings, _ = Settings().resolve((1, 28, 28))
            >>> training = settings.training(channels=1, dimension=129, count=54_000)
            >>> round(training.alpha, 2), training.epochs
            (3.98, 4)
        """
        if self.preset == "paper":
            training = replace(_PAPER, learning_rate=_PAPER_RATES[channels])
            epochs = training.epochs
        else:
            training, images_seen, most = _COMPACT if self.space == "pixels" else _WHITENED
            epochs = min(most, max(1, round(images_seen / count)))
            if self.space != "pixels" and count >= _MANY:
                training = replace(training, batch_size=_LARGER_BATCH, learning_rate=_HIGHER_RATE)
        # In pixels as released: 2, divided by the batch size there.
        alpha = 2 / 32 if self.space == "pixels" else 0.35 * math.sqrt(dimension)
        return replace(
            training,
            alpha=alpha if self.alpha == "auto" else float(self.alpha),
            epochs=epochs if self.epochs == "auto" else self.epochs,
            seed=self.seed,
        )
