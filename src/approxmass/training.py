"""Penalised maximum-likelihood training of a flow, which survives being stopped.

All randomness (order of the data, training noise) is a function of the seed and the step number,
so a run that is resumed from a checkpoint gives bit for bit the weights of one never stopped.
Hugging Face Accelerate places the model and averages gradients over processes.
Checkpoints are safetensors: Accelerate's own would be pickled.
"""

__all__ = [
    "EpochRecord",
    "Objective",
    "StepReport",
    "TrainingDivergedError",
    "TrainingSettings",
    "train",
]

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .artifact import write_atomic
from .cuda_graph import GraphedObjective
from .errors import ApproxMassError
from .flows import Flow
from .flows.pixels import unit_pixels
from .mass import penalized_loss, training_terms
from .resumable import pack, seeded_generator, stop_requests, unpack

# A smoothed loss this many nats per dimension above its best has left for good; weights with one
# within a tenth of that are worth keeping.
_DIVERGED = 10.0


class TrainingDivergedError(ApproxMassError):
    """The loss became NaN or grew without bound; the flow holds its last good weights."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; a checkpoint fits only the settings it was made with."""

    alpha: float  # weight of the mass in the loss, per-sample convention
    epochs: int
    penalty_every: int = 1  # take the mass every so many steps, with so many times its weight
    batch_size: int = 512  # over all processes together
    learning_rate: float = 1e-3  # peak; warm-up over 1% of the steps, then cosine to 0
    weight_decay: float = 0.01  # on the gains of weight-normalised layers where there are any
    clip: float = 5.0  # largest L2 norm of the gradient
    seed: int = 0
    precision: Literal["no", "bf16"] = "no"  # of matrix products; "no" is float32
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("epochs", "penalty_every", "batch_size", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ApproxMassError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.alpha < math.inf:
            raise ApproxMassError(f"alpha must be a number of at least 0, not {self.alpha}")
        if self.penalty_every != int(self.penalty_every):
            raise ApproxMassError(f"penalty_every must be whole, not {self.penalty_every}")
        if self.precision not in ("no", "bf16"):
            raise ApproxMassError(f"precision must be 'no' or 'bf16', not {self.precision!r}")


@dataclass(frozen=True)
class StepReport:
    """What a progress bar needs to know after a step; `mass` is None where alpha is 0.

    The mass is that of the last step that took it, and counts in the loss with weight alpha.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    nll: float
    mass: float | None


@dataclass(frozen=True)
class EpochRecord:
    """Means over one epoch, in nats; `mass` is None where alpha is 0."""

    epoch: int
    loss: float
    nll: float
    mass: float | None
    learning_rate: float


class Objective(nn.Module):
    """The loss as a forward pass, so that the wrapper for several processes sees all of it."""

    def __init__(self, flow: Flow, bf16: bool) -> None:
        super().__init__()
        self.flow = flow
        self.bf16 = bf16

    def forward(self, x: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        """The loss at weight `alpha` of the penalty, its NLL and its mass; scalars."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            log_p, mass = training_terms(self.flow.log_prob, x, alpha)
        loss = penalized_loss(log_p, mass, alpha)
        return loss, -log_p.detach().mean(), mass.detach().mean()


@dataclass
class _State:
    """Everything that changes in a run besides the tensors; goes into the checkpoint as JSON."""

    step: int = 0
    smooth: float = math.nan  # running mean of the loss
    best: float = math.inf  # smallest running mean so far
    mass: float = 0.0  # of the last step that took it
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)  # loss, nll, mass of the epoch under way
    history: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "_State":
        """From what `asdict` gave."""
        return cls(**facts | {"sums": tuple(facts["sums"]), "history": tuple(facts["history"])})


def train(
    flow: Flow,
    data: Tensor,
    settings: TrainingSettings,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    fingerprint: str | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> list[EpochRecord]:
    """Train `flow` in place on all rows of `data`.

    The data goes to the device once. Each step takes a batch, adds the flow's training noise and
    minimises `penalized_nll`; an incomplete last batch is left for the next epoch's order. With
    `penalty_every` k above 1, k - 1 of k steps leave the penalty out and the other has k times as
    much of it: the same objective in the mean for less time (lazy regularisation, as Karras et al.
    2020 train StyleGAN2).

    Arguments:
        flow: An untrained flow (or a trained one, to train on).
        data: Inputs of the flow `(N, ...)`: float, or uint8 pixels, which are scaled to [0, 1].
        settings: How to train.
        checkpoint: File to write the state of the run to, every `checkpoint_seconds` and when
            the process is asked to stop (Ctrl-C, SIGTERM); None for no checkpoints.
        resume: Go on from `checkpoint`; from the start if it is not there.
        fingerprint: What a checkpoint knows the data by; None for a digest of `data`.
        on_step: Called after every step, on the main process.

    Returns:
        One record an epoch.

    Raises:
        ApproxMassError: no data, or a checkpoint of another run.
        TrainingDivergedError: see there.
        KeyboardInterrupt: the run was asked to stop; the checkpoint has been written.

    Example:
        >>> from approxmass.flows import VectorFlow
        >>> x = torch.randn(512, 2, generator=torch.Generator().manual_seed(0))
        >>> settings = TrainingSettings(alpha=0.5, epochs=3, batch_size=64)
        >>> history = train(VectorFlow("realnvp", 2), x, settings)
        >>> history[-1].loss < history[0].loss
        True
    """
    if len(data) == 0:
        raise ApproxMassError("there is no data to train on")
    accelerator = Accelerator()
    device, processes = accelerator.device, accelerator.num_processes
    data = data.to(device)
    flow.to(device).train()
    # Not fused: that goes by the order in memory, in which weights and moments that were resumed
    # from a checkpoint can differ.
    optimizer = torch.optim.AdamW(
        _parameter_groups(flow, settings), lr=settings.learning_rate, foreach=True
    )
    objective = Objective(flow, settings.precision == "bf16")
    objective, optimizer = accelerator.prepare(objective, optimizer)

    def eager(x: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        optimizer.zero_grad()
        terms: tuple[Tensor, Tensor, Tensor] = objective(x, alpha)
        accelerator.backward(terms[0])
        return terms

    # The averaging of gradients over processes is not for a graph.
    graphed = device.type == "cuda" and processes == 1
    step = GraphedObjective(objective) if graphed else eager

    batch = min(settings.batch_size, len(data))
    batch = max(processes, batch // processes * processes)
    steps_per_epoch = max(1, len(data) // batch)
    steps = settings.epochs * steps_per_epoch
    spread = _DIVERGED * math.prod(data.shape[1:])
    fingerprint = fingerprint or hashlib.sha256(data.cpu().contiguous().numpy().data).hexdigest()
    identity = _identity(flow, fingerprint, settings)
    parts = {"flow": flow}, {"optimizer": optimizer}

    state = _State()
    if resume and checkpoint is not None and checkpoint.exists():
        state = unpack(checkpoint.read_bytes(), str(checkpoint), *parts, identity, _State.of)
    good = pack(*parts, identity, asdict(state))

    def save(packed: bytes) -> None:
        if checkpoint is not None and accelerator.is_main_process:
            with write_atomic(checkpoint) as beside:
                beside.write_bytes(packed)

    saved_at = time.monotonic()
    order, order_epoch = torch.empty(0, dtype=torch.long), -1
    with stop_requests() as stop:
        while state.step < steps:
            epoch, place = divmod(state.step, steps_per_epoch)
            if epoch != order_epoch:
                generator = seeded_generator(settings.seed, "order", epoch)
                order = torch.randperm(len(data), generator=generator).to(device)
                order_epoch = epoch
            x = unit_pixels(data[order[place * batch : (place + 1) * batch]])
            # The noise is drawn for the whole batch, so that it does not depend on the processes.
            x = flow.perturb(x, seeded_generator(settings.seed, "noise", state.step, device))
            x = x[accelerator.process_index :: processes]

            rate = _learning_rate(settings.learning_rate, state.step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            lazy = state.step % settings.penalty_every != 0
            loss, nll, mass = step(x, 0.0 if lazy else settings.penalty_every * settings.alpha)
            clip = settings.clip * (1 if lazy else settings.penalty_every)
            norm = accelerator.clip_grad_norm_(flow.parameters(), clip)
            # One transfer a step; summed over processes, so that all take the same decision.
            report = torch.stack([loss.detach(), nll, mass, loss.new_tensor(float(bool(stop)))])
            report = accelerator.reduce(report, "mean")
            loss_now, nll_now, mass_now, stopping = report.tolist()
            finite = math.isfinite(loss_now) and bool(norm.isfinite())
            if lazy:  # what the loss would be, as far as is known
                mass_now = state.mass
            if settings.penalty_every > 1:
                loss_now = nll_now + settings.alpha * mass_now

            smooth = loss_now if math.isnan(state.smooth) else 0.98 * state.smooth + 0.02 * loss_now
            if not (finite and smooth < state.best + spread):
                kept = unpack(good, "the last good state", *parts, identity, _State.of)
                save(good)
                where = f" in {checkpoint}: remove it to start anew" if checkpoint else ""
                raise TrainingDivergedError(
                    f"the loss {'grew without bound' if finite else 'became NaN'} at step "
                    f"{state.step + 1} of {steps} (alpha {settings.alpha:g}, learning rate "
                    f"{settings.learning_rate:g}): choose a smaller alpha, or check the images; "
                    f"the weights of step {kept.step} are kept{where}"
                )
            optimizer.step()

            state.step += 1
            state.smooth, state.best, state.mass = smooth, min(state.best, smooth), mass_now
            values = (loss_now, nll_now, mass_now)
            sums = [a + b for a, b in zip(state.sums, values, strict=True)]
            state.sums = (sums[0], sums[1], sums[2])
            ended = state.step % steps_per_epoch == 0
            if ended:
                mean = [total / steps_per_epoch for total in state.sums]
                mean_mass = mean[2] if settings.alpha else None
                record = EpochRecord(epoch + 1, mean[0], mean[1], mean_mass, rate)
                state.history += (asdict(record),)
                state.sums = (0.0, 0.0, 0.0)
            if on_step is not None and accelerator.is_main_process:
                shown = mass_now if settings.alpha else None
                on_step(StepReport(state.step, steps, epoch + 1, loss_now, nll_now, shown))
            due = time.monotonic() - saved_at > settings.checkpoint_seconds
            if ended or due or stopping:
                packed = pack(*parts, identity, asdict(state))
                good = packed if smooth < state.best + spread / 10 else good
                if due or stopping:
                    save(packed)
                    saved_at = time.monotonic()
            if stopping and state.step < steps:
                raise KeyboardInterrupt
    save(pack(*parts, identity, asdict(state)))
    flow.eval()
    return [EpochRecord(**record) for record in state.history]


def _parameter_groups(flow: Flow, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Decay the gains of weight-normalised layers, the published choice, or else every weight."""
    gains = [p for name, p in flow.named_parameters() if name.endswith("original0")]
    if not gains:
        return [{"params": list(flow.parameters()), "weight_decay": settings.weight_decay}]
    others = [p for name, p in flow.named_parameters() if not name.endswith("original0")]
    return [
        {"params": gains, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _learning_rate(peak: float, step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / max(1.0, 0.01 * steps))
    return peak * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def _identity(flow: Flow, fingerprint: str, settings: TrainingSettings) -> dict[str, Any]:
    """What must agree between a checkpoint and the run that goes on from it."""
    facts = asdict(settings)
    facts.pop("checkpoint_seconds")
    layout = [(name, list(value.shape)) for name, value in flow.state_dict().items()]
    facts["flow"] = hashlib.sha256(json.dumps(layout).encode()).hexdigest()[:16]
    facts["data"] = fingerprint[:16]
    return facts
