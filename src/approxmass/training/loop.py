"""The one training loop, for flows and baselines, which survives being stopped.

What a step does is given to it. Here are the order of the items, the learning rate, divergence,
requests to stop and checkpoints. All randomness (order, noise) is a function of the seed and the
step number, so a run that is resumed gives bit for bit the weights of one never stopped.
"""

__all__ = ["Loop", "Plan", "State", "Step", "TrainingDivergedError"]

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ApproxMassError
from ..runtime.machine import from_main_process, is_main_process
from ..runtime.random import seeded_generator
from ..runtime.stop import Stopped, stop_requests
from ..storage.atomic import write_atomic
from .checkpoint import pack, put_back, taken, unpack

Values = dict[str, float]


class TrainingDivergedError(ApproxMassError):
    """The loss became NaN or grew without bound; a flow holds its last good weights."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="diverged")


@dataclass(frozen=True)
class Step:
    """One step of a training: which items, and where in the run.

    Attributes:
        number: From 0.
        rows: Places of the items of the batch, on the CPU.
        seed: Of the run.
        last: What the step before reported; empty at the first.
    """

    number: int
    rows: Tensor
    seed: int
    last: Mapping[str, float] = field(default_factory=dict)

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Random numbers for this step and purpose."""
        return seeded_generator(self.seed, purpose, self.number, device)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a training goes through its items.

    Attributes:
        name: What is trained, for messages.
        count: Items; every epoch goes through them in an order of its own.
        batch_size: Items a step; an incomplete last batch is left out.
        epochs: Passes over the items.
        seed: Fixes the order and the generators of the steps.
        schedule: Learning rate at `(first rate, step, steps)`.
        bound: How far above its best the smoothed loss may rise.
        cure: What to do about a loss that diverges.
        checkpoint_seconds: Time between two checkpoints.
        keep_good: On divergence go back to the last good state, and leave it in the checkpoint.
    """

    name: str
    count: int
    batch_size: int
    epochs: int
    seed: int
    schedule: Callable[[float, int, int], float]
    bound: float = math.inf
    cure: str = "choose a smaller learning rate, or check the images"
    checkpoint_seconds: float = 30.0
    keep_good: bool = True

    @property
    def steps_per_epoch(self) -> int:
        """At least 1."""
        return max(1, self.count // self.batch_size)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.epochs * self.steps_per_epoch


@dataclass
class State:
    """Everything that changes in a run besides the tensors; goes into the checkpoint as JSON.

    Attributes:
        step: Steps done.
        seconds: Spent, over all sittings.
        smooth: Running mean of the loss.
        lowest: The smallest running mean so far.
        best: The smallest validation so far.
        last: What the last step reported.
        sums: Of what the steps of the epoch under way reported.
        history: Means of what was reported, an epoch each.
    """

    step: int = 0
    seconds: float = 0.0
    smooth: float = math.nan
    lowest: float = math.inf
    best: float = math.inf
    last: Values = field(default_factory=dict)
    sums: Values = field(default_factory=dict)
    history: list[Values] = field(default_factory=list)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "State":
        """From what `asdict` gave."""
        return cls(**facts)

    def add(self, values: Values, steps_per_epoch: int) -> bool:
        """Take in a step; whether it ended an epoch."""
        self.step += 1
        self.last = values
        self.sums = {name: value + self.sums.get(name, 0.0) for name, value in values.items()}
        if self.step % steps_per_epoch:
            return False
        self.history.append({k: total / steps_per_epoch for k, total in self.sums.items()})
        self.sums = {}
        return True


# What a run goes back to: its tensors, and its state.
_Good = tuple[dict[str, Tensor], State]


class Loop:
    """A training run.

    Arguments:
        plan: How it goes through its items.
        modules: By name (no dots): everything that changes in training, buffers included.
        optimizers: By name (no dots).
        identity: JSON-ready facts that a checkpoint must share with the run that goes on from it.
        checkpoint: File for the state of the run; None for none.
        validate: Called after every epoch; the modules with the smallest value are the result.
        reduce: Mean over processes that train together; None where there is one.
    """

    def __init__(
        self,
        plan: Plan,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, Any],
        identity: Mapping[str, Any],
        *,
        checkpoint: Path | None = None,
        validate: Callable[[], float] | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.plan, self.modules, self.optimizers = plan, modules, optimizers
        self.identity, self.checkpoint = identity, checkpoint
        self.validate, self.reduce = validate, reduce
        self.kept = dict(modules)
        if validate is not None:
            self.kept |= {f"best_{name}": copy.deepcopy(m) for name, m in modules.items()}
        self.rates = {
            name: [group["lr"] for group in optimizer.param_groups]
            for name, optimizer in optimizers.items()
        }
        self.state = State()
        self._order, self._ordered = torch.empty(0, dtype=torch.long), -1

    def run(
        self,
        step: Callable[[Step], Mapping[str, Tensor]],
        *,
        resume: bool = False,
        complete: Callable[[Step, Values], Values] | None = None,
        on_step: Callable[[State], None] | None = None,
    ) -> State:
        """Go through all steps, or through those that are left.

        Arguments:
            step: Makes one step and returns scalars to report, the loss first.
            resume: Go on from the checkpoint; from the start if it is not there.
            complete: From what a step reported to what is kept of it.
            on_step: Called after every step, on the main process.

        Raises:
            ApproxMassError: a checkpoint of another run, or one that cannot be written.
            TrainingDivergedError: see there.
            KeyboardInterrupt: `Stopped`: the run was asked to, and the checkpoint is written.
        """
        plan = self.plan
        packed = self._packed() if resume else None
        if packed is not None:
            self._unpack(packed, str(self.checkpoint))
        stopping = False
        begun, saved_at = time.monotonic() - self.state.seconds, time.monotonic()
        good = self._good() if plan.keep_good else None
        with stop_requests() as stop:
            while self.state.step < plan.steps:
                at = Step(self.state.step, self._rows(), plan.seed, self.state.last)
                self._set_rates(at.number)
                values, stopping = self._report(step(at), bool(stop))
                finite = all(map(math.isfinite, values.values()))
                values = complete(at, values) if complete is not None else values
                loss, state = next(iter(values.values())), self.state
                smooth = loss if math.isnan(state.smooth) else 0.98 * state.smooth + 0.02 * loss
                if not (finite and smooth < state.lowest + plan.bound):
                    self._diverged("grew without bound" if finite else "became NaN", good)
                state.smooth, state.lowest = smooth, min(state.lowest, smooth)
                ended = state.add(values, plan.steps_per_epoch)
                if ended and self.validate is not None:
                    self._validate()
                state.seconds = time.monotonic() - begun
                if on_step is not None and is_main_process():
                    on_step(state)
                due = time.monotonic() - saved_at > plan.checkpoint_seconds or stopping
                if plan.keep_good and (ended or due) and smooth < state.lowest + plan.bound / 10:
                    good = self._good()
                if due:
                    self._save()
                    saved_at = time.monotonic()
                if stopping and state.step < plan.steps:
                    raise Stopped(stop)
            self._finish(good)
            # In the last step: whoever called must not go on. All processes agree on it.
            if stopping if self.reduce is not None else stop:
                raise Stopped(stop)
        return self.state

    def _rows(self) -> Tensor:
        """Places of the items of the next step, by one permutation an epoch."""
        plan = self.plan
        epoch, place = divmod(self.state.step, plan.steps_per_epoch)
        if epoch != self._ordered:
            generator = seeded_generator(plan.seed, "order", epoch)
            self._order, self._ordered = torch.randperm(plan.count, generator=generator), epoch
        return self._order[place * plan.batch_size : (place + 1) * plan.batch_size]

    def _set_rates(self, number: int) -> None:
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self.rates[name], strict=True):
                group["lr"] = self.plan.schedule(rate, number, self.plan.steps)

    def _report(self, report: Mapping[str, Tensor], stop: bool) -> tuple[Values, bool]:
        """What a step reported as numbers; and whether to stop, on which all processes agree."""
        tensors = list(report.values())
        # One transfer a step.
        stacked = torch.stack([*tensors, tensors[0].new_tensor(float(stop))]).detach()
        *numbers, stopping = (stacked if self.reduce is None else self.reduce(stacked)).tolist()
        return dict(zip(report, numbers, strict=True)), bool(stopping)

    def _validate(self) -> None:
        assert self.validate is not None
        self.state.history[-1]["validation"] = value = self.validate()
        if value < self.state.best:
            self.state.best = value
            for name, module in self.modules.items():
                self.kept[f"best_{name}"].load_state_dict(module.state_dict())

    def _finish(self, good: _Good | None) -> None:
        """The result is in the modules, and the whole run in the checkpoint."""
        if self.validate is not None:
            for name, module in self.modules.items():
                module.load_state_dict(self.kept[f"best_{name}"].state_dict())
        learnt = (
            value for module in self.modules.values() for value in module.state_dict().values()
        )
        if not all(bool(value.isfinite().all()) for value in learnt):
            self._diverged("left weights that are no numbers", good)
        self._save()

    def _diverged(self, how: str, good: _Good | None) -> None:
        number, kept = min(self.state.step + 1, self.plan.steps), ""
        if good is not None:
            tensors, self.state = good
            put_back(tensors, self.kept, self.optimizers, stepped=self.state.step > 0)
            self._save()
            kept = f"; the weights of step {self.state.step} are kept"
            kept += f" in {self.checkpoint}: remove it to start anew" if self.checkpoint else ""
        raise TrainingDivergedError(
            f"the training of {self.plan.name} diverged, the loss {how} at step {number} of "
            f"{self.plan.steps}: {self.plan.cure}{kept}"
        )

    def _good(self) -> _Good:
        """A copy of all that changes."""
        tensors = {k: v.clone() for k, v in taken(self.kept, self.optimizers).items()}
        return tensors, copy.deepcopy(self.state)

    def _unpack(self, packed: bytes, name: str) -> None:
        self.state = unpack(packed, name, self.kept, self.optimizers, self.identity, State.of)

    def _packed(self) -> bytes | None:
        """What the checkpoint holds, if it is there; for all processes as the first sees it."""

        def read() -> bytes | None:
            there = self.checkpoint is not None and self.checkpoint.exists()
            return self.checkpoint.read_bytes() if self.checkpoint is not None and there else None

        return read() if self.reduce is None else from_main_process(read)

    def _save(self) -> None:
        if self.checkpoint is not None and is_main_process():
            tensors = taken(self.kept, self.optimizers)
            packed = pack(tensors, self.identity, asdict(self.state))
            with write_atomic(self.checkpoint) as beside:
                beside.write_bytes(packed)
