"""The flow's model: an encoder, a flow trained with the penalty, and the scores of both."""

__all__ = ["FlowModel"]

import contextlib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import Floats, Shape
from ..data.frame import Box
from ..data.region import Region
from ..encoders import Encoder, PooledEncoder, VectorEncoder, WhitenedEncoder
from ..encoders.base import UnitOf
from ..encoders.patches import Patches
from ..errors import ApproxMassError
from ..explain.attribution import Surfaces, by_column, gradients
from ..flows import RealNVP
from ..runtime.schema import Count, Side, held_to
from ..storage.exported import exported, program_of
from ..storage.tensors import load_exactly, tensors_below
from ..training.flow import EpochRecord, TrainingSettings, train
from .bar import FlowBar
from .base import FitData, FitRun, Given, Plan, Saved, Statistic
from .kinds import MODULE, VECTORS, Kind, kind_of
from .parts import MAPPED, Parts
from .scorer import FlowScorer
from .settings import FlowOptions, check_options

# Among what is saved: the exported module that is the encoder.
_PROGRAM = "exported module"
# Images of which whole views are kept in a fit.
_MOST_WHOLE = 256


class FlowModel:
    """A normalizing flow behind an encoder, a `Model`.

    Arguments:
        seed: Fixes the initial weights, the training and the draws.
        encoder: As of `Detector`.
        options: Those of `FlowOptions` besides.

    Attributes:
        scorer: All that is learnt, one module; there after `learn`.
        training: How the flow was trained; there after `learn`.
        history: An entry an epoch.
    """

    name: ClassVar[str] = "flow"
    needs_labels: ClassVar[bool] = False
    takes_outliers: ClassVar[bool] = False
    explains: ClassVar[bool] = True

    def __init__(self, *, seed: int = 0, encoder: str | nn.Module = "auto", **options: Any) -> None:
        self.module = encoder if isinstance(encoder, nn.Module) else None
        if not isinstance(encoder, str | nn.Module):
            raise ApproxMassError(
                f"encoder must be a name or a module, not {type(encoder).__name__}",
                code="bad-option",
            )
        if encoder == MODULE:
            raise ApproxMassError("give the encoder as a module", code="bad-option")
        kind = MODULE if isinstance(encoder, nn.Module) else encoder
        self.seed = seed
        self.asked = FlowOptions(encoder=kind, **options)
        self.chosen = self.asked  # after `plan`: what `auto` has become
        self.region: Region | None = None
        self.encoder: Encoder  # made by `prepare`, fitted by `learn`
        self.scorer: FlowScorer
        self.training: TrainingSettings
        self.history: Sequence[EpochRecord] = ()
        self._kind: Kind

    def __repr__(self) -> str:
        chosen = self.chosen
        if not hasattr(self, "scorer"):
            return f"FlowModel({chosen.encoder}, not fitted)"
        return (
            f"FlowModel({chosen.encoder}, {self.scorer.encoder.dimension} dimensions, "
            f"{chosen.preset}, {_weights(self.scorer.flow):,} weights)"
        )

    @classmethod
    def make(cls, seed: int, options: Mapping[str, Any]) -> Self:
        """One that has learnt nothing.

        Raises:
            ApproxMassError: an option that it does not have, or a value out of range.
        """
        check_options(cls.name, options, cls.option_types())
        return cls(seed=seed, **options)

    @classmethod
    def option_types(cls) -> dict[str, Any]:
        """Its options and their types."""
        return typing.get_type_hints(FlowOptions)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Those that its flow has."""
        return self.scorer.statistics

    @property
    def decides(self) -> str:
        """Name of the statistic behind the p-values."""
        return self.chosen.statistic

    def options(self) -> dict[str, Any]:
        """As chosen, ready for JSON."""
        return asdict(self.chosen)

    def plan(self, shape: Shape, count: int) -> Plan:
        """Replace what is `auto` for so many images of `shape`."""
        self.chosen, notes = self.asked.resolve(shape, count)
        self._kind = kind_of(self.chosen.encoder)
        return replace(self._kind.plan(shape), notes=notes)

    @property
    def quick(self) -> bool:
        """On codes: several flows over them are soon trained."""
        return self.chosen.encoder not in ("pixels", MODULE) and self.chosen.parts is not True

    @property
    def view_digest(self) -> str | None:
        """The encoder's."""
        return self.encoder.view_digest

    def prepare(self, shape: Shape, device: torch.device, region: Region | None = None) -> None:
        """Make the encoder, not fitted, for images of `shape`, blank outside of a region."""
        self.region = region
        self.encoder = self._encoder(shape).to(device)

    def _encoder(self, shape: Shape) -> Encoder:
        chosen = self.chosen
        parts = chosen.parts is True
        return self._kind.encoder(shape, chosen.components, parts, self.module, self.region)

    def view(self, images: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
        """What the encoder makes of images `(N, C, H, W)`, uint8."""
        return self.encoder.view(images, boxes)

    def kept(self, views: Tensor, places: Sequence[int], count: int) -> Tensor:
        """What the encoder keeps of views."""
        return self.encoder.kept(views, places, count, self.seed)

    def whole(self, count: int) -> int:
        """With parts, up to 256 images and no more than those that the flows do not see."""
        return min(_MOST_WHOLE, self._kind.unseen(count)) if self.chosen.parts is True else 0

    def features(self, views: Tensor) -> dict[str, Tensor]:
        """What the encoder has for plain lines."""
        return self.encoder.features(views)

    def patches(self, views: Tensor) -> Patches | None:
        """With parts, what is seen at the places of images of their views."""
        parts = self.scorer.parts
        if parts is None or not isinstance(self.encoder, PooledEncoder):
            return None
        values, places = self.encoder.patches(views)
        return Patches(parts.code.scaled(values), places)

    def learn(self, data: FitData, run: FitRun) -> None:
        """Fit the encoder, train the flow and learn the in-distribution range of each statistic.

        Raises:
            ApproxMassError: as `train`, and options that do not fit the images.
        """
        shape = data.shape
        kind, chosen, encoder = self._kind, self.chosen, self.encoder
        codes = encoder.fit_transform(
            data.training, seed=self.seed, device=run.device, units=data.units
        )
        unseen = _between(data.units, kind.unseen(len(codes)))
        codes, for_ranges = codes[unseen:], codes[:unseen].clone()
        flow = kind.flow(chosen.preset, shape, encoder.dimension, self.seed, chosen.alpha)
        training = kind.training(chosen.preset, len(codes), shape, encoder.dimension, run.device)
        given: dict[str, Any] = {
            name: value
            for name in ("alpha", "epochs")
            if (value := getattr(chosen, name)) != "auto"
        }
        self.training = replace(training, seed=self.seed, **given)
        bar = None
        if run.progress:
            bar = FlowBar(flow.dimension if isinstance(flow, RealNVP) else None)
        with bar or contextlib.nullcontext():
            if bar is not None:
                for note in run.notes:
                    bar.remark(note)
                bar.remark(
                    f"flow: {_weights(flow):,} weights on {flow.dimension} dimensions; "
                    f"alpha {self.training.alpha:.3g}, {self.training.epochs} epochs"
                )
            self.history = ()
            if _weights(flow):
                self.history = train(
                    flow,
                    codes,
                    self.training,
                    checkpoint=run.checkpoint,
                    resume=run.resume,
                    fingerprint=data.sha256,
                    on_step=bar,
                    device=run.device,
                )
        del codes
        parts = self._parts()
        if parts is not None and isinstance(encoder, PooledEncoder):
            seen = encoder.patches(data.training[unseen:])
            units = None if data.units is None else data.units[unseen:]
            parts.learn(seen, data.sha256, run, seed=self.seed, alpha=chosen.alpha, units=units)
        self.scorer = FlowScorer(
            encoder, flow, shape, parts=parts, draws=chosen.draws, seed=self.seed
        )
        self.scorer.fit(
            data.training,
            data.reference,
            codes=for_ranges,
            whole=data.whole,
            units=data.units,
        )

    def calm(self) -> bool:
        """Of rows of numbers take their normal density, unless a person has chosen the flow."""
        chosen, left_to_us = self.chosen, self.asked.preset == "auto"
        if left_to_us and chosen.encoder == VECTORS:
            self.chosen = replace(chosen, preset="gaussian")
        return chosen != self.chosen

    def _parts(self) -> Parts | None:
        """The patch level of the encoder, nothing learnt."""
        if not isinstance(self.encoder, PooledEncoder) or not self.encoder.widths:
            return None
        return Parts.of(self.encoder, seed=self.seed, alpha=self.chosen.alpha)

    def statistics_of(self, views: Tensor) -> dict[str, Floats]:
        """Statistics `(N,)` by name of views."""
        return self.scorer.statistics_of(views)

    def own_probe(self) -> dict[str, Floats]:
        """NLL and mass of codes that its flows have drawn."""
        return self.scorer.own_probe()

    @property
    def mapped(self) -> str:
        """What its maps show."""
        return MAPPED if self.scorer.parts is not None else f"gradient of {self.decides}"

    @property
    def component_names(self) -> list[str]:
        """Of the numbers of a code, with a gradient."""
        return [] if self.scorer.parts is not None else self.encoder.names

    def explain(
        self, images: Tensor, views: Tensor, boxes: Sequence[Box] | None = None
    ) -> tuple[dict[str, Floats], Surfaces]:
        """Statistics, and where images `(N, C, H, W)`, uint8, do not belong."""
        scorer, encoder = self.scorer, self.encoder
        found: list[Tensor] = []
        statistics = scorer.statistics_of(views, found)
        if isinstance(encoder, VectorEncoder):
            value = scorer.decides_at(self.decides)
            return statistics, by_column(encoder, value, views, scorer.device, scorer.batch_size)
        if scorer.parts is not None and isinstance(encoder, PooledEncoder):
            maps = torch.cat(found).view(-1, *encoder.grid).numpy()
            return statistics, Surfaces(maps, np.empty((len(maps), 0)))
        return statistics, gradients(
            encoder,
            scorer.decides_at(self.decides),
            images,
            boxes,
            region=self.region,
            device=scorer.device,
            batch_size=min(scorer.batch_size, encoder.at_once),
        )

    def to(self, device: torch.device) -> Self:
        """Compute there from now on."""
        self.scorer.to(device)
        return self

    def state(self) -> dict[str, Tensor]:
        """The `state_dict` of the scorer, and where it can be exported the module."""
        state = self.scorer.state_dict()
        if isinstance(self.encoder, WhitenedEncoder) and self.encoder.module is not None:
            example = torch.zeros(2, *self.scorer.shape, device=self.scorer.device)
            program = exported(self.encoder.module, example)
            if program is not None:
                state[_PROGRAM] = program
        return state

    def facts(self) -> dict[str, Any]:
        """Dimension, weights, and how the training went."""
        return {
            "dimension": self.scorer.encoder.dimension,
            "weights": _weights(self.scorer.flow),
            "views": self.view_digest,
            "training": asdict(self.training),
            "history": [asdict(record) for record in self.history],
        }

    def describe(self) -> dict[str, Any]:
        """What a person wants to know of it."""
        found = {
            "encoder": self.chosen.encoder,
            "flow": f"{self.chosen.preset}, {_weights(self.scorer.flow):,} weights",
            "dimension": self.scorer.encoder.dimension,
        }
        if not self.history:
            return found
        last = self.history[-1]
        mass = "" if last.mass is None else f", mass {last.mass:,.2f}"
        return found | {
            "alpha": self.training.alpha,
            "epochs": self.training.epochs,
            "last epoch": f"NLL {last.nll:,.2f} nats{mass}",
        }

    @classmethod
    def from_saved(cls, saved: Saved, encoder: Given) -> Self:
        """The model that was saved; see `Model`.

        Raises:
            ApproxMassError: fitted with a module as its encoder and now without one, or the
                reverse.
            ValueError: options, state and facts do not fit together.
        """
        options, state, shape = saved.options, dict(saved.state), saved.shape
        program = state.pop(_PROGRAM, None)
        if options["encoder"] == MODULE and encoder is None and program is not None:
            encoder = program_of(program)
        if encoder is not None and not isinstance(encoder, nn.Module):
            raise ApproxMassError(
                "it has a flow of its own: load it without log_prob=...", code="wrong-encoder"
            )
        if (options["encoder"] == MODULE) != (encoder is not None):
            raise ApproxMassError(
                f"it was fitted with {'a' if encoder is None else 'no'} module as its encoder: "
                f"load it with{'' if encoder is None else 'out'} encoder=...",
                code="wrong-encoder",
            )
        if "auto" in (options["encoder"], options["preset"], options["statistic"]):
            raise ValueError("a fitted model has made its choices")
        made = cls(seed=saved.seed, **{**options, "encoder": encoder or options["encoder"]})
        facts = held_to(_Facts, saved.facts, "model")
        made.training, made.history = facts.training, facts.history
        made._kind, chosen = kind_of(made.chosen.encoder), made.chosen
        made.region = saved.region
        code = made._encoder(shape)
        if code.view_digest != facts.views:
            raise ApproxMassError(
                f"it was fitted with other weights of {chosen.encoder}, or by another version: fit "
                "again",
                code="wrong-encoder",
            )
        load_exactly(code, tensors_below(state, "encoder"))
        if not code.fits(shape):
            raise ValueError(f"the encoder is not for images of shape {shape}")
        flow = made._kind.flow(chosen.preset, shape, code.dimension, saved.seed, chosen.alpha)
        made.encoder = code
        made.scorer = FlowScorer(
            code, flow, shape, parts=made._parts(), draws=chosen.draws, seed=saved.seed
        )
        load_exactly(made.scorer, state)
        if (facts.dimension, facts.weights) != (code.dimension, _weights(flow)):
            raise ValueError("another number of weights")
        if made.decides not in [statistic.name for statistic in made.statistics]:
            raise ValueError(f"it has no statistic {made.decides}")
        ended = made.history[-1].epoch if made.history else 0
        if ended != (made.training.epochs if _weights(flow) else 0):
            raise ValueError("the training has another number of epochs")
        return made


@dataclass(frozen=True)
class _Facts:
    """Of the model, in `detector.json`."""

    dimension: Side
    weights: Count
    views: str | None
    training: TrainingSettings
    history: list[EpochRecord]


def _between(units: UnitOf | None, row: int) -> int:
    """The row nearest to one at which a unit begins, so that none is on both sides."""
    if units is None or row == 0:
        return row
    begins = np.flatnonzero(np.diff(units)) + 1
    return int(begins[np.abs(begins - row).argmin()]) if len(begins) else row


def _weights(flow: nn.Module) -> int:
    return sum(p.numel() for p in flow.parameters())
