"""A density that was trained elsewhere: its NLL and mass, and their in-distribution range."""

__all__ = ["DensityModel"]

import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NoReturn, Self

import torch
from torch import Tensor

from ..arrays import Floats, Shape
from ..data.frame import Box
from ..data.pixels import unit_pixels
from ..data.region import Region
from ..errors import ApproxMassError
from ..mass import LogProb, log_prob_and_mass
from ..runtime.batches import fixed_batches
from ..training.flow import EpochRecord
from .base import AsTheyAre, FitData, FitRun, Given, Plan, Saved, Statistic
from .kinds import VECTORS
from .settings import check_options
from .statistics import OVERFLOW, STATISTICS, capped, fused, range_of

# Inputs that go through together, no more and no less: see `runtime/batches.py`.
_TOGETHER = 256
# By how much rounding may move a log-density, as a share of 1 and its size.
_ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What is asked of the density, and what it is of: images, as `pixels`, or `vectors`."""

    encoder: str = "auto"
    statistic: str = "auto"


class DensityModel(AsTheyAre):
    """A callable that gives log-densities, a `Model`: nothing of it is trained here.

    Images go in as pixels `(N, C, H, W)` in [0, 1], rows of numbers as `(N, D)`, both float32.

    Arguments:
        log_prob: From inputs to log-densities `(N,)` in nats, differentiable.
        statistic: The one behind the p-values; `auto` is `fused`.
        encoder: `pixels` or `vectors`; `auto` before the inputs are known.
    """

    name: ClassVar[str] = "density"
    needs_labels: ClassVar[bool] = False
    takes_outliers: ClassVar[bool] = False
    explains: ClassVar[bool] = False
    mapped: ClassVar[str] = ""
    component_names: ClassVar[list[str]] = []
    module: ClassVar[None] = None
    history: ClassVar[Sequence[EpochRecord]] = ()
    quick: ClassVar[bool] = False
    statistics: ClassVar[tuple[Statistic, ...]] = tuple(
        STATISTICS[name] for name in ("nll", "mass", "typicality", "fused")
    )

    def __init__(
        self, *, log_prob: LogProb | None = None, encoder: str = "auto", statistic: str = "auto"
    ) -> None:
        if log_prob is None:
            raise ApproxMassError(
                "the method density is for Python: Detector.from_log_prob(log_prob, images)",
                code="bad-option",
            )
        known = [each.name for each in self.statistics]
        if statistic not in ("auto", *known):
            raise ApproxMassError(
                f"a density has no statistic {statistic!r}: use one of {', '.join(known)}",
                code="bad-option",
            )
        self.log_prob = log_prob
        self.chosen = _Options(
            encoder=encoder, statistic="fused" if statistic == "auto" else statistic
        )
        self.device = torch.device("cpu")
        self.moments = torch.full((2, 2), torch.nan, dtype=torch.float64)

    def __repr__(self) -> str:
        return f"DensityModel({getattr(self.log_prob, '__qualname__', type(self.log_prob))})"

    @property
    def decides(self) -> str:
        """Name of the statistic behind the p-values."""
        return self.chosen.statistic

    @classmethod
    def make(cls, seed: int, options: Mapping[str, Any]) -> Self:
        """One that knows no range yet.

        Raises:
            ApproxMassError: an option that it does not have, or a value out of range.
        """
        check_options(cls.name, options, [*cls.option_types(), "log_prob"])
        return cls(**options)

    @classmethod
    def option_types(cls) -> dict[str, Any]:
        """Its options and their types, but for the density itself."""
        return typing.get_type_hints(_Options)

    def options(self) -> dict[str, Any]:
        """As chosen, ready for JSON; the density itself cannot be."""
        return asdict(self.chosen)

    def plan(self, shape: Shape, count: int) -> Plan:
        """Images are taken as they are."""
        if self.chosen.encoder == "auto":
            self.chosen = _Options(encoder="pixels", statistic=self.chosen.statistic)
        return Plan()

    def prepare(self, shape: Shape, device: torch.device, region: Region | None = None) -> None:
        """Compute there."""
        self.device = device

    def features(self, views: Tensor) -> dict[str, Tensor]:
        """What the density sees, for plain lines."""
        return {"inputs": self._inputs(views).flatten(1)}

    def learn(self, data: FitData, run: FitRun) -> None:
        """Take the in-distribution range of each statistic.

        Raises:
            ApproxMassError: a density of another kind of input, one that gives a row another value
                in other company or at another time, or values that overflow.
        """
        views = torch.cat([data.training, data.reference])
        _check_alone(self.log_prob, self._inputs(views[:5]).to(self.device))
        found = self._densities(views)
        for name, what in (("nll", "is not finite"), ("mass", "has no finite gradient")):
            if odd := int((found[name] >= OVERFLOW).sum()):
                raise ApproxMassError(
                    f"log_prob {what} at {odd:,} of {len(views):,} in-distribution inputs: look at "
                    "the range that it expects, or leave these out",
                    code="no-density",
                )
        dimension = views.shape[1:].numel()
        self.moments = torch.stack(
            [range_of(name, values, dimension) for name, values in found.items()]
        )

    def _inputs(self, views: Tensor) -> Tensor:
        if self.chosen.encoder == VECTORS:
            return views.flatten(1).float()
        return unit_pixels(views)

    def _densities(self, views: Tensor) -> dict[str, Tensor]:
        """NLL and mass `(N,)`, float64, on the CPU."""
        parts = []
        for batch, count in fixed_batches(views, _TOGETHER):
            log_p, mass = log_prob_and_mass(self.log_prob, self._inputs(batch).to(self.device))
            # Where there is no density, its gradient says nothing.
            mass = mass.masked_fill(~log_p.isfinite(), torch.inf)
            both = torch.stack([-log_p.detach(), mass]).double().cpu()
            parts.append(capped(both[:, :count]))
        nll, mass = torch.cat(parts, 1) if parts else torch.empty(2, 0, dtype=torch.float64)
        return {"nll": nll, "mass": mass}

    def statistics_of(self, views: Tensor) -> dict[str, Floats]:
        """Statistics `(N,)` by name of views."""
        found = self._densities(views)
        moments = dict(zip(("nll", "mass"), self.moments, strict=True))
        found["typicality"] = (found["nll"] - moments["nll"][0]).abs()
        found["fused"] = fused(found, moments)
        return {name: values.numpy() for name, values in found.items()}

    def explain(
        self, images: Tensor, views: Tensor, boxes: Sequence[Box] | None = None
    ) -> NoReturn:
        """Not for a density of which nothing is known.

        Raises:
            ApproxMassError: always.
        """
        raise ApproxMassError(
            "a density from elsewhere is not explained: fit a detector of the method flow",
            code="no-explanation",
        )

    def to(self, device: torch.device) -> Self:
        """Compute there from now on; a module behind the density is where its owner has put it."""
        self.device = device
        return self

    def state(self) -> dict[str, Tensor]:
        """The in-distribution range."""
        return {"moments": self.moments}

    def facts(self) -> dict[str, Any]:
        """None."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What a person wants to know of it."""
        return {"method": self.name, "density": repr(self)}

    @classmethod
    def from_saved(cls, saved: Saved, encoder: Given) -> Self:
        """The model that was saved, around the density, which its owner gives again.

        Raises:
            ApproxMassError: no density is given.
            ValueError: options and state do not fit together.
        """
        if encoder is None:
            raise ApproxMassError(
                "it scores by a density from elsewhere: load it in Python, "
                "Detector.load(folder, log_prob=...)",
                code="wrong-encoder",
            )
        if saved.facts:
            raise ValueError("facts of another method")
        made = cls(log_prob=encoder, **saved.options)
        moments = saved.state["moments"]
        if moments.shape != made.moments.shape or moments.dtype != made.moments.dtype:
            raise ValueError("another range of the statistics")
        made.moments = moments
        return made


@torch.no_grad()
def _check_alone(log_prob: LogProb, x: Tensor) -> None:
    """Refuse a density whose value at an input is not a function of that input alone."""
    # Beside two others: of two rows a mean and a variance tell no more than which is larger.
    beside = (x[[0, 1, 2]], x[[0, 3, 4]])
    first, second = (log_prob_and_mass(log_prob, some)[0][0] for some in beside)
    near = (first - second).abs() <= _ROUNDING * (1 + first.abs())
    if not bool(near) and first != second and not bool(first.isnan() & second.isnan()):
        raise ApproxMassError(
            "log_prob gives an input another value beside other inputs, or at another time: call "
            "eval() on the model, and draw no noise in it",
            code="no-density",
        )
