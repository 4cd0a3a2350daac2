"""Networks trained once for the same data and settings, and taken from the cache afterwards.

Results and unfinished runs lie in the cache folder as safetensors, named by a digest of everything
that makes the result.
"""

__all__ = ["constant", "cosine", "step_schedule", "train_once"]

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.machine import machine_facts
from ..runtime.progress import TrainingBar, short
from ..storage.atomic import write_atomic
from ..storage.cache import cache_folder, cache_key, check_cache
from ..storage.locks import alone
from ..storage.tensors import digest
from .checkpoint import pack, taken, unpack
from .loop import Loop, Plan, State, Step, TrainingDivergedError


def constant(done: float) -> float:
    """Learning-rate schedule: factor 1 throughout."""
    return 1.0


def cosine(done: float) -> float:
    """Learning-rate schedule: half a cosine from 1 to 0.

    Example:
        >>> [round(cosine(done), 2) for done in (0.0, 0.5, 1.0)]
        [1.0, 0.5, 0.0]
    """
    return 0.5 * (1 + math.cos(math.pi * done))


def step_schedule(done: float) -> float:
    """Learning-rate schedule: a tenth after half, a hundredth after three quarters of the run."""
    return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01


def train_once(
    name: str,
    settings: Mapping[str, Any],
    data: str,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    step: Callable[[Step], Mapping[str, Tensor]],
    *,
    count: int,
    batch_size: int,
    epochs: int,
    seed: int,
    device: torch.device,
    schedule: Callable[[float], float] = constant,
    validate: Callable[[], float] | None = None,
    progress: bool = False,
) -> State:
    """Train `modules` in place, or take them from the cache where this was done before.

    An unfinished run goes on where it stopped, bit for bit (on the same machine with the same
    number of threads).

    Arguments:
        name: What is trained, for the progress bar and the file names.
        settings: JSON-ready, everything besides `data` that the result depends on.
        data: `digest` of all data that `step` and `validate` see.
        modules: By name: everything that changes in training, buffers included.
        optimizers: By name.
        step: Makes one step and returns scalars to report, the loss first.
        count: Number of items; every epoch goes through them in an order of its own.
        batch_size: Items a step; an incomplete last batch is left out.
        epochs: Passes over the items.
        seed: Fixes the order and the `Step.generator`s.
        device: Where the modules are.
        schedule: Share of the run that is done, to a factor on every learning rate.
        validate: Called after every epoch; the modules with the smallest value are the result.
        progress: Show a progress bar on standard error.

    Returns:
        The last state: its `history` and the `seconds` spent.

    Raises:
        ApproxMassError: the cache cannot be written, or a file in it is damaged.
        TrainingDivergedError: the loss or the weights became NaN; nothing is kept.
        KeyboardInterrupt: stopped; calling again goes on from there.
    """
    packages = machine_facts()["packages"]
    identity = {
        "name": name,
        "settings": dict(settings),
        "data": data,
        "start": digest(*(value for m in modules.values() for value in m.state_dict().values())),
        "batch_size": batch_size,
        "epochs": epochs,
        "seed": seed,
        "device": device.type,
        **{package: packages[package] for package in ("approxmass", "torch")},
    }
    finished = cache_folder() / f"{name}-{cache_key(identity)}.safetensors"
    plan = Plan(
        name=name,
        count=count,
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        schedule=lambda rate, number, steps: rate * schedule(number / steps),
        checkpoint_seconds=_CHECKPOINT_SECONDS,
        keep_good=False,  # nothing of a diverged network is used
    )

    if (state := _known(finished, modules, identity)) is not None:
        return state
    check_cache(finished)
    # Where another process trains the same, what it has learnt is there when it ends.
    with alone(finished, "trains", wait=True):
        if (state := _known(finished, modules, identity)) is not None:
            return state
        unfinished = finished.with_suffix(".unfinished")
        loop = Loop(plan, modules, optimizers, identity, checkpoint=unfinished, validate=validate)
        stopped = _run(loop, step, progress)
        with write_atomic(finished) as beside:
            beside.write_bytes(pack(taken(modules, {}), identity, asdict(loop.state)))
        unfinished.unlink(missing_ok=True)
    if stopped is not None:
        raise stopped
    return loop.state


def _known(
    finished: Path, modules: Mapping[str, nn.Module], identity: Mapping[str, Any]
) -> State | None:
    """The last state of a training that is in the cache, with its modules put back."""
    if not finished.exists():
        return None
    return unpack(finished.read_bytes(), str(finished), modules, {}, identity, State.of)


def _run(
    loop: Loop, step: Callable[[Step], Mapping[str, Tensor]], progress: bool
) -> KeyboardInterrupt | None:
    """Run a loop to its end; what asked it to stop in the last step, if anything did."""
    plan = loop.plan
    bar = TrainingBar(plan.name) if progress else None

    def show(state: State) -> None:
        assert bar is not None
        facts = "  ".join(f"{k} {_few(v)}" for k, v in list(state.last.items())[:3])
        epoch = (state.step - 1) // plan.steps_per_epoch + 1
        bar.show(state.step, plan.steps, f"epoch {epoch}  {facts}")

    with bar or contextlib.nullcontext():
        try:
            loop.run(step, resume=True, on_step=None if bar is None else show)
        except TrainingDivergedError:
            assert loop.checkpoint is not None
            loop.checkpoint.unlink(missing_ok=True)
            raise
        except KeyboardInterrupt as stopped:
            if loop.state.step < plan.steps:
                raise
            return stopped
    return None


_CHECKPOINT_SECONDS = 30.0


def _few(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else short(value)
