"""Penalised maximum-likelihood training of a flow.

Hugging Face Accelerate averages gradients over processes. Checkpoints are safetensors:
Accelerate's own would be pickled.
"""

__all__ = [
    "EpochRecord",
    "Objective",
    "StepReport",
    "TrainingDivergedError",
    "TrainingSettings",
    "train",
]

import functools
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn

from ..data.pixels import unit_pixels
from ..errors import ApproxMassError
from ..flows import Flow, VectorFlow
from ..mass import penalized_loss, training_terms
from ..runtime.machine import pick_device
from ..runtime.schema import Count, Finite, Positive
from .cuda_graph import GraphedObjective
from .loop import Loop, Plan, State, Step, TrainingDivergedError
from .threads import StepThreads, step_shares, step_threads

# A smoothed loss this many nats per dimension above its best has left for good; weights with one
# within a tenth of that are worth keeping.
_DIVERGED = 10.0


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; a checkpoint fits only the settings it was made with."""

    alpha: Finite  # weight of the mass in the loss, per-sample convention
    epochs: Count
    penalty_every: Count = 1  # take the mass every so many steps, with so many times its weight
    batch_size: Count = 512  # over all processes together
    learning_rate: Finite = 1e-3  # peak; warm-up over 1% of the steps, then cosine to 0
    weight_decay: Finite = 0.01  # on the gains of weight-normalised layers where there are any
    clip: Finite = 5.0  # largest L2 norm of the gradient
    seed: Count = 0
    precision: Literal["no", "bf16"] = "no"  # of matrix products; "no" is float32
    checkpoint_seconds: Positive = 60.0

    def __post_init__(self) -> None:
        for name in ("epochs", "penalty_every", "batch_size", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ApproxMassError(
                    f"{name} must be above 0, not {getattr(self, name)}", code="bad-option"
                )
        if not 0 <= self.alpha < math.inf:
            raise ApproxMassError(
                f"alpha must be a number of at least 0, not {self.alpha}", code="bad-option"
            )
        if self.penalty_every != int(self.penalty_every):
            raise ApproxMassError(
                f"penalty_every must be whole, not {self.penalty_every}", code="bad-option"
            )
        if self.precision not in ("no", "bf16"):
            raise ApproxMassError(
                f"precision must be 'no' or 'bf16', not {self.precision!r}", code="bad-option"
            )


@dataclass(frozen=True)
class StepReport:
    """What a progress bar needs to know after a step; `mass` is None where alpha is 0.

    The mass is that of the last step that took it, and counts in the loss with weight alpha.
    `seconds` are those of the run so far, over all sittings.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    nll: float
    mass: float | None
    seconds: float = 0.0


@dataclass(frozen=True)
class EpochRecord:
    """Means over one epoch, in nats; `mass` is None where alpha is 0."""

    epoch: Count
    loss: Finite
    nll: Finite
    mass: Finite | None
    learning_rate: Finite


class Objective(nn.Module):
    """The loss as a forward pass, so that the wrapper for several processes sees all of it."""

    def __init__(self, flow: Flow, bf16: bool) -> None:
        super().__init__()
        self.flow = flow
        self.bf16 = bf16

    def forward(self, x: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        """The loss at weight `alpha` of the penalty, its NLL and its mass; scalars."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            if alpha and isinstance(self.flow, VectorFlow):
                log_p, gradient = self.flow.log_prob_and_gradient(x)
                mass = torch.linalg.vector_norm(gradient, dim=1)
            else:
                log_p, mass = training_terms(self.flow.log_prob, x, alpha)
        loss = penalized_loss(log_p, mass, alpha)
        return loss, -log_p.detach().mean(), mass.detach().mean()


def train(
    flow: Flow,
    data: Tensor,
    settings: TrainingSettings,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    fingerprint: str | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    device: torch.device | str | None = None,
) -> list[EpochRecord]:
    """Train `flow` in place by maximum likelihood with the approximate-mass penalty.

    With `penalty_every=k` all steps but every k-th leave the penalty out and the other has k times
    as much of it: the same objective in the mean for less time (lazy regularisation, as Karras et
    al. 2020 train StyleGAN2).

    Arguments:
        flow: An untrained flow (or a trained one, to train on).
        data: Inputs of the flow `(N, ...)`: float, or uint8 pixels, which are scaled to [0, 1].
        settings: How to train.
        checkpoint: File to write the state of the run to, every `checkpoint_seconds` and when
            the process is asked to stop (Ctrl-C, SIGTERM, SIGHUP); None for no checkpoints.
        resume: Go on from `checkpoint`; from the start if it is not there.
        fingerprint: What a checkpoint knows the data by; None for a digest of `data`.
        on_step: Called after every step, on the main process.
        device: Where to train; None for a GPU where there is one.

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
        raise ApproxMassError("there is no data to train on", code="too-few")
    fingerprint = fingerprint or hashlib.sha256(data.cpu().contiguous().numpy().data).hexdigest()
    work = _Work(flow, data, settings, pick_device(device))
    plan = work.plan
    loop = Loop(
        plan,
        {"flow": flow},
        {"optimizer": work.optimizer},
        _identity(flow, fingerprint, settings),
        checkpoint=checkpoint,
        reduce=work.mean if work.processes > 1 else None,
    )

    def report(state: State) -> None:
        assert on_step is not None
        loss, nll, mass = state.last.values()
        epoch = (state.step - 1) // plan.steps_per_epoch + 1
        shown = mass if settings.alpha else None
        on_step(StepReport(state.step, plan.steps, epoch, loss, nll, shown, state.seconds))

    with work.threads:
        state = loop.run(
            work.step,
            resume=resume,
            complete=work.complete,
            on_step=None if on_step is None else report,
        )
    flow.eval()
    return [
        EpochRecord(
            epoch,
            means["loss"],
            means["nll"],
            means["mass"] if settings.alpha else None,
            _learning_rate(settings.learning_rate, epoch * plan.steps_per_epoch - 1, plan.steps),
        )
        for epoch, means in enumerate(state.history, 1)
    ]


class _Work:
    """The steps of a run: what is computed where, by how many processes."""

    def __init__(
        self, flow: Flow, data: Tensor, settings: TrainingSettings, device: torch.device
    ) -> None:
        self.accelerator = _accelerator()
        self.processes = self.accelerator.num_processes
        self.flow, self.settings, self.device = flow, settings, device
        self.data = data.to(device)
        flow.to(device).train()
        batch = min(settings.batch_size, len(data))
        own = math.ceil(batch / self.processes)
        shared = device.type == "cpu" and self.processes == 1
        self.threads = StepThreads(
            step_threads(flow, self.data, own),
            step_shares(flow, self.data, own) if shared else 1,
        )
        # Not fused: that goes by the order in memory, in which weights and moments that were
        # resumed from a checkpoint can differ.
        optimizer = torch.optim.AdamW(
            _parameter_groups(flow, settings), lr=settings.learning_rate, foreach=True
        )
        objective = Objective(flow, settings.precision == "bf16")
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        # The averaging of gradients over processes is not for a graph.
        graphed = device.type == "cuda" and self.processes == 1
        self.backward = GraphedObjective(self.objective) if graphed else self._eager
        if self.threads.shares > 1:
            self.backward = self._in_shares
        self.plan = Plan(
            name="the flow",
            count=len(data),
            batch_size=batch,
            epochs=settings.epochs,
            seed=settings.seed,
            schedule=_learning_rate,
            bound=_DIVERGED * math.prod(data.shape[1:]),
            cure=(
                f"choose a smaller alpha than {settings.alpha:g} or a smaller learning rate than "
                f"{settings.learning_rate:g}, or check the images"
            ),
            checkpoint_seconds=settings.checkpoint_seconds,
        )

    def step(self, at: Step) -> dict[str, Tensor]:
        """One step: the loss that was differentiated, its NLL and mass, the gradient's norm."""
        settings = self.settings
        x = unit_pixels(self.data[at.rows.to(self.device)])
        # The noise is drawn for the whole batch, so that it does not depend on the processes.
        x = self.flow.perturb(x, at.generator("noise", self.device))
        lazy = self._is_lazy(at)
        loss, nll, mass = self.backward(x, 0.0 if lazy else settings.penalty_every * settings.alpha)
        clip = settings.clip * (1 if lazy else settings.penalty_every)
        norm = self.accelerator.clip_grad_norm_(self.flow.parameters(), clip)
        self.optimizer.step()
        return {"loss": loss.detach(), "nll": nll, "mass": mass, "norm": norm.to(nll.dtype)}

    def complete(self, at: Step, values: dict[str, float]) -> dict[str, float]:
        """What counts of a step: where it left the penalty out, the mass is that of the last."""
        loss, nll, mass = values["loss"], values["nll"], values["mass"]
        if self._is_lazy(at):
            mass = at.last.get("mass", 0.0)
        if self.settings.penalty_every > 1:
            loss = nll + self.settings.alpha * mass
        return {"loss": loss, "nll": nll, "mass": mass}

    def mean(self, values: Tensor) -> Tensor:
        """Over processes, so that all take the same decision."""
        reduced: Tensor = self.accelerator.reduce(values, "mean")
        return reduced

    def _is_lazy(self, at: Step) -> bool:
        return at.number % self.settings.penalty_every != 0

    def _eager(self, x: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        """The terms of a batch, of which each process takes a share, and the gradients.

        What is averaged over processes is the mean over all rows, however many each has; one
        that has none takes a row that does not count.
        """
        mine = x[self.accelerator.process_index :: self.processes]
        weight = len(mine) * self.processes / len(x)
        self.optimizer.zero_grad()
        terms = self.objective(mine if len(mine) else x[:1], alpha)
        loss, nll, mass = (weight * term for term in terms)
        self.accelerator.backward(loss)
        return loss, nll, mass

    def _in_shares(self, x: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        """As `_eager`, each thread of a share of the batch; summed in their order."""
        parameters = [each for each in self.flow.parameters() if each.requires_grad]

        def one(rows: Tensor) -> tuple[list[Tensor], tuple[Tensor | None, ...]]:
            terms = [len(rows) / len(x) * term for term in self.objective(rows, alpha)]
            found = torch.autograd.grad(terms[0], parameters, allow_unused=True)
            return [term.detach() for term in terms], found

        # As processes take theirs.
        shares = [x[i :: self.threads.shares] for i in range(min(self.threads.shares, len(x)))]
        found = self.threads.map(one, shares)
        for parameter, *shares in zip(
            parameters, *(gradients for _, gradients in found), strict=True
        ):
            known = [each for each in shares if each is not None]
            parameter.grad = functools.reduce(torch.add, known) if known else None
        loss, nll, mass = (
            functools.reduce(torch.add, of) for of in zip(*(t for t, _ in found), strict=True)
        )
        return loss, nll, mass


def _accelerator() -> Accelerator:
    """One that computes as the settings of a training say, whatever the environment says.

    Raises:
        ApproxMassError: this process has made another one, which all later ones agree with.
    """
    try:
        made = Accelerator(
            device_placement=False,
            mixed_precision="no",
            dynamo_backend="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
        if made.state.dynamo_plugin.backend.value != "NO":
            raise ValueError("compiled")
    except ValueError as error:
        raise ApproxMassError(
            "an Accelerator made before in this process has another precision or compiles: fit "
            "in a process of its own",
            code="bad-option",
        ) from error
    return made


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
    """Warm-up over 1% of the steps, then half a cosine."""
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
