"""Encoder, flow and scorer as one piece: what a detector of the method `flow` has learnt."""

__all__ = ["FlowBar", "fit_flow", "flow_tensors", "restore_flow"]

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .artifact import tensors_below
from .encoders import Encoder, PixelEncoder, WhitenedEncoder
from .errors import ApproxMassError
from .flows import Flow, RealNVP, VectorFlow
from .flows.pixels import bits_per_dim, unit_pixels
from .machine import default_device
from .progress import TrainingBar, short
from .scores import Scorer
from .settings import Settings
from .training import EpochRecord, StepReport, train

Shape = tuple[int, int, int]


class FlowBar(TrainingBar):
    """Shows the steps of `train`.

    Arguments:
        pixels: Number of pixels times channels, to show bits/dim; None shows nats.
    """

    def __init__(self, pixels: int | None = None) -> None:
        super().__init__()
        self.pixels = pixels

    def __call__(self, report: StepReport) -> None:
        """Show a step."""
        facts = f"epoch {report.epoch}  loss {short(report.loss)}"
        if self.pixels is None:
            facts += f"  NLL {short(report.nll)} nats"
        else:
            facts += f"  {bits_per_dim(-report.nll, self.pixels):.2f} bits/dim"
        if report.mass is not None:
            facts += f"  mass {short(report.mass)}"
        self.show(report.step, report.steps, facts)


def fit_flow(
    settings: Settings,
    features: nn.Module | None,
    training: Tensor,
    reference: Tensor,
    *,
    fingerprint: str,
    notes: Sequence[str] = (),
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> tuple[Scorer, list[EpochRecord], dict[str, Any]]:
    """Fit the encoder, train the flow and learn the usual range of each statistic.

    Arguments:
        settings: After `resolve`: no space, preset or size left to choose.
        features: The module of the space `features`.
        training: Images `(N, C, H, W)`, uint8, to train on.
        reference: Others, for the usual range of each statistic.
        fingerprint: What a checkpoint knows the images by.
        notes: Remarks to show before the progress bar.
        checkpoint: File for the state of the training.
        resume: Go on from `checkpoint`.
        progress: Show remarks and a progress bar.

    Returns:
        The scorer, a record an epoch, and JSON-ready facts.

    Raises:
        ApproxMassError: as `train`, and settings that do not fit the images.
    """
    channels, height, width = training.shape[1:]
    shape = (channels, height, width)
    encoder: Encoder = PixelEncoder(shape)
    if settings.space != "pixels":
        encoder = WhitenedEncoder(settings.components, features).fit(training, seed=settings.seed)
    flow = _flow(settings, shape, encoder.dimension)
    how = settings.training(channels, encoder.dimension, len(training))
    weights = sum(p.numel() for p in flow.parameters())
    bar = FlowBar(flow.dimension if isinstance(flow, RealNVP) else None) if progress else None
    with bar or contextlib.nullcontext():
        if bar is not None:
            for note in notes:
                bar.remark(note)
            bar.remark(
                f"flow: {weights:,} weights on {flow.dimension} dimensions; "
                f"alpha {how.alpha:.3g}, {how.epochs} epochs"
            )
        history = train(
            flow,
            _inputs(encoder, training),
            how,
            checkpoint=checkpoint,
            resume=resume,
            fingerprint=fingerprint,
            on_step=bar,
        )
    scorer = Scorer(encoder, flow, shape, draws=settings.draws, seed=settings.seed)
    scorer.fit(training, reference)
    facts = {"dimension": encoder.dimension, "weights": weights, "training": asdict(how)}
    return scorer, history, facts


def flow_tensors(scorer: Scorer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `restore_flow` needs: the weights, and the usual range of each statistic."""
    weights = {f"flow.{k}": v for k, v in scorer.flow.state_dict().items()}
    weights |= {f"encoder.{k}": v for k, v in scorer.encoder.state_dict().items()}
    return weights, scorer.reference


def restore_flow(
    settings: Settings,
    features: nn.Module | None,
    shape: Shape,
    weights: Mapping[str, Tensor],
    reference: dict[str, Tensor],
) -> Scorer:
    """The scorer whose `flow_tensors` these are.

    Raises:
        ApproxMassError: fitted with a module of features and now without one, or the reverse.
    """
    if (settings.space == "features") != (features is not None):
        raise ApproxMassError(
            f"it was fitted on {'a' if features is None else 'no'} module of features: "
            f"load it with{'' if features is None else 'out'} features=..."
        )
    if "auto" in (settings.space, settings.preset):
        raise ValueError("a fitted detector has made its choices")
    code = tensors_below(weights, "encoder")
    encoder: Encoder = PixelEncoder(shape)
    if settings.space != "pixels":
        encoder = WhitenedEncoder(settings.components, features)
        for name in ("mean", "axes", "scale", "energy"):
            setattr(encoder, name, code[name])
    encoder.load_state_dict(code)
    flow = _flow(settings, shape, encoder.dimension)
    flow.load_state_dict(tensors_below(weights, "flow"))
    flow.to(default_device())
    scorer = Scorer(encoder, flow, shape, draws=settings.draws, seed=settings.seed)
    scorer.reference = reference
    return scorer


def _flow(settings: Settings, shape: Shape, dimension: int) -> Flow:
    if settings.space != "pixels":
        return VectorFlow(settings.preset, dimension, seed=settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return RealNVP.preset(settings.preset, shape)


@torch.no_grad()
def _inputs(encoder: Encoder, images: Tensor) -> Tensor:
    """What the flow trains on: uint8 pixels as they are, or codes, made once."""
    if isinstance(encoder, PixelEncoder):
        return images
    encoder.to(default_device())
    batches = torch.split(images, 4096)
    return torch.cat([encoder(unit_pixels(batch.to(default_device()))) for batch in batches])
