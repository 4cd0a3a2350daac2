"""What every model behind a detector is: the flow's, and each baseline."""

__all__ = ["AsTheyAre", "FitData", "FitRun", "Given", "Model", "Plan", "Saved", "Statistic"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arrays import Floats, Labels, Pixels, Shape
from ..data.frame import Box, Resample
from ..data.region import Region
from ..encoders.patches import Patches
from ..errors import ApproxMassError
from ..explain.attribution import Surfaces
from ..mass import LogProb
from ..training.flow import EpochRecord

# What a person gives again on loading, where it could not be saved: the module that was the
# encoder, or a density from elsewhere.
Given = nn.Module | LogProb | None


@dataclass(frozen=True)
class Statistic:
    """A score of an image; larger = more out-of-distribution.

    Attributes:
        name: As in tables and files.
        title: In words, for an axis.
        unit: Of its values; empty for a pure number.
        shown: Its name where it is shown with the other sign, as the log-likelihood is; or None.
    """

    name: str
    title: str
    unit: str = ""
    shown: str | None = None

    @property
    def axis(self) -> str:
        """Title and unit.

        Example:
            >>> Statistic("typicality", "distance from the mean NLL", "nats").axis
            'distance from the mean NLL, nats'
        """
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def shown_sign(self) -> int:
        """-1 where it is shown with the other sign, else 1."""
        return 1 if self.shown is None else -1

    @property
    def shown_axis(self) -> str:
        """As `axis`, of what is shown."""
        if self.shown is None:
            return self.axis
        return f"{self.shown}, {self.unit}" if self.unit else self.shown


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a model wants of images before it sees them.

    Attributes:
        notes: A remark for each choice worth one.
        side: Of the square with as many pixels as each image is to have, where nobody gives a
            size; None for as they are.
        stride: Height and width of images that are resized are multiples of it.
        square: It takes no images but such squares.
        resample: How images are scaled.
    """

    notes: Sequence[str] = ()
    side: int | None = None
    stride: int = 1
    square: bool = False
    resample: Resample = "bilinear"


@dataclass(frozen=True, kw_only=True, eq=False)
class FitData:
    """What a model learns from.

    Attributes:
        shape: `(C, H, W)` of the images.
        training: What `Model.kept` left of the views of them, a row each.
        reference: The same of others, for the in-distribution range of each statistic.
        sha256: Of the pixels of these images, in their order, and of what is trained on of them.
        units: Of each training image, `(M,)`: those of one belong together, and are in a row.
        whole: Whole views of as many as `Model.whole` asked for: of the first of `reference` and,
            where these are not enough, of `training`.
        labels: Classes of the training images, for models that need them.
        outliers: Images `(M, C, H, W)`, for models that take some.
    """

    shape: Shape
    training: Tensor
    reference: Tensor
    sha256: str
    units: NDArray[np.int64] | None = None
    whole: Tensor | None = None
    labels: Labels | None = None
    outliers: Pixels | None = None


@dataclass(frozen=True, kw_only=True)
class FitRun:
    """How a fit runs.

    Attributes:
        device: Where to compute.
        threads: The most that decode images at once; None for what suits the machine.
        notes: Remarks to show before the progress bar.
        checkpoint: File for the state of a training that does not keep its own.
        resume: Go on from `checkpoint`.
        progress: Show remarks and a progress bar on standard error.

    Raises:
        ApproxMassError: something is at the checkpoint's place that is not to be resumed.
    """

    device: torch.device
    threads: int | None = None
    notes: Sequence[str] = ()
    checkpoint: Path | None = None
    resume: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint is not None and not self.resume and self.checkpoint.exists():
            raise ApproxMassError(
                f"{self.checkpoint} is there: resume it, remove it, or choose another checkpoint",
                code="would-overwrite",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Saved:
    """What is on disk of a model.

    Attributes:
        options: As `Model.options` gave them.
        seed: Of the fit.
        shape: `(C, H, W)` of the images.
        state: As `Model.state` gave it.
        facts: As `Model.facts` gave them, through JSON.
        region: Of the images, outside of which they are blank; None for none.
    """

    options: Mapping[str, Any]
    seed: int
    shape: Shape
    state: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    region: Region | None = None


@runtime_checkable
class Model(Protocol):
    """What a `Detector` fits, asks for statistics, saves and describes.

    Attributes:
        name: Of the method.
        needs_labels: It learns from classes of the images.
        takes_outliers: It can learn from some outliers.
        statistics: Those that it has, in the order in which they are shown.
        decides: Name of the one behind the p-values.
        explains: `explain` works.
        module: The caller's module that is its encoder, or None.
        history: Of its training, an entry an epoch; empty where there is none to tell.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool]
    takes_outliers: ClassVar[bool]
    explains: ClassVar[bool]
    module: nn.Module | None
    history: Sequence[EpochRecord]

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """See above."""

    @property
    def decides(self) -> str:
        """See above."""

    @classmethod
    def make(cls, seed: int, options: Mapping[str, Any]) -> Self:
        """One that has learnt nothing.

        Raises:
            ApproxMassError: an option that it does not have, or a value out of range.
        """

    @classmethod
    def option_types(cls) -> dict[str, Any]:
        """Its options and their types: int, float, str, a Literal, or one of these or a Literal."""

    def options(self) -> dict[str, Any]:
        """Its options, ready for JSON: what `from_saved` makes it of."""

    def plan(self, shape: Shape, count: int) -> Plan:
        """Make the choices left to it for so many images `(C, H, W)`, before any resizing."""

    @property
    def quick(self) -> bool:
        """Whether several fits cost little; there after `plan`."""

    @property
    def view_digest(self) -> str | None:
        """Of all that its views depend on besides the images, where they are worth keeping."""

    def prepare(self, shape: Shape, device: torch.device, region: Region | None = None) -> None:
        """Be ready to `view` images `(C, H, W)` for a fit, blank outside of a region."""

    def view(self, images: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
        """What there is to know of images `(N, C, H, W)`, uint8: a row each, nothing learnt.

        Arguments:
            images: In the frame of the fit.
            boxes: Where in it each image lies; None for all over.
        """

    def kept(self, views: Tensor, places: Sequence[int], count: int) -> Tensor:
        """What a fit keeps of views of training images, so that many fit into memory.

        Arguments:
            views: Of some.
            places: Of these in the fit; what is drawn of each follows from its place.
            count: Of all of them.
        """

    def whole(self, count: int) -> int:
        """Of so many training images, those whose whole views are wanted."""

    def learn(self, data: FitData, run: FitRun) -> None:
        """Fit."""

    def calm(self) -> bool:
        """After `learn` has diverged choose what cannot, where that is left to it; whether so."""

    def features(self, views: Tensor) -> dict[str, Tensor]:
        """Plain features of views by kind, for plain lines; see `Encoder.features`."""

    def patches(self, views: Tensor) -> Patches | None:
        """What is seen at the places of images, each map of length 1, for plain lines; or None."""

    def statistics_of(self, views: Tensor) -> dict[str, Floats]:
        """Statistics `(N,)` by name of images as `view` gives them."""

    def own_probe(self) -> dict[str, Floats]:
        """Numbers to know again when it is loaded; each name begins with that of a statistic."""

    @property
    def mapped(self) -> str:
        """What the maps of `explain` show."""

    @property
    def component_names(self) -> list[str]:
        """Of the components of `explain`."""

    def explain(
        self, images: Tensor, views: Tensor, boxes: Sequence[Box] | None = None
    ) -> tuple[dict[str, Floats], Surfaces]:
        """As `statistics_of` their views, and where images `(N, C, H, W)`, uint8, do not belong."""

    def to(self, device: torch.device) -> Any:
        """Compute there from now on."""

    def state(self) -> dict[str, Tensor]:
        """Everything learnt, as named tensors."""

    def facts(self) -> dict[str, Any]:
        """What else there is to save of a fit, ready for JSON."""

    def describe(self) -> dict[str, Any]:
        """What a person wants to know of it, by a few words each."""

    @classmethod
    def from_saved(cls, saved: Saved, encoder: Given) -> Self:
        """The model that was saved.

        Arguments:
            saved: What is on disk of it.
            encoder: The module that was its encoder, or its density, if it had one.

        Raises:
            ApproxMassError: a module where there was none, or the reverse.
            ValueError: options, state and facts do not fit together.
        """


class AsTheyAre:
    """What a `Model` answers that learns from the images themselves, and has no choice of flow."""

    @property
    def view_digest(self) -> None:
        """None: there is no view worth keeping."""
        return None

    def view(self, images: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
        """The images themselves, or the rows."""
        return images

    def kept(self, views: Tensor, places: Sequence[int], count: int) -> Tensor:
        """All of them."""
        return views

    def whole(self, count: int) -> int:
        """None."""
        return 0

    def patches(self, views: Tensor) -> None:
        """It sees none."""
        return

    def calm(self) -> bool:
        """There is no such choice."""
        return False

    def own_probe(self) -> dict[str, Floats]:
        """None of its own: the test images know it again."""
        return {}
