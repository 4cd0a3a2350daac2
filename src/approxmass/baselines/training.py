"""Training of the baselines: once for the same data and settings, and resumed where it stopped.

Results and unfinished runs lie in a cache folder, `$APPROXMASS_CACHE` or `approxmass` in the
user's cache, as safetensors named by a digest of everything that makes the result.
"""

__all__ = [
    "Step",
    "cache_folder",
    "constant",
    "cosine",
    "split",
    "step_schedule",
    "train_once",
]

import contextlib
import copy
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..artifact import check_file, write_atomic
from ..errors import ApproxMassError
from ..machine import default_device, machine_facts
from ..progress import TrainingBar, short
from ..resumable import digest, pack, seeded_generator, stop_requests, unpack

Places = NDArray[np.int64]

_CHECKPOINT_SECONDS = 30.0
# To choose and to fit what must not see the test data.
_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.1, 1000


@dataclass(frozen=True)
class Step:
    """One step of a training: which items, and where in the run."""

    number: int  # from 0
    rows: Tensor  # places of the items of the batch
    seed: int

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers for this step and purpose, on the CPU."""
        return seeded_generator(self.seed, purpose, self.number)


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


def cache_folder() -> Path:
    """Where trained networks are kept for the next time."""
    given = os.environ.get("APPROXMASS_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "approxmass"


def split(count: int, seed: int) -> tuple[Places, Places]:
    """Places of the images to train on, and of a tenth (at most 1,000) held out from it.

    Example:
        >>> training, held = split(30, seed=0)
        >>> len(training), len(held)
        (27, 3)
    """
    order = torch.randperm(count, generator=seeded_generator(seed, "held out", 0)).numpy()
    held = max(1, min(_MOST_HELD_OUT, round(_HELD_OUT_SHARE * count)))
    return np.sort(order[held:]), np.sort(order[:held])


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
    schedule: Callable[[float], float] = constant,
    validate: Callable[[], float] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
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
        schedule: Share of the run that is done, to a factor on every learning rate.
        validate: Called after every epoch; the modules with the smallest value are the result.
        progress: Show a progress bar on standard error.

    Returns:
        `history` (means of the reported scalars, an epoch each) and `seconds` spent.

    Raises:
        ApproxMassError: the loss or the weights became NaN, or the cache cannot be written.
        KeyboardInterrupt: stopped; calling again goes on from there.
    """
    identity = {
        "name": name,
        "settings": dict(settings),
        "data": data,
        "start": digest(*(value for m in modules.values() for value in m.state_dict().values())),
        "batch_size": batch_size,
        "epochs": epochs,
        "seed": seed,
        "device": default_device().type,
        **{name: machine_facts()["packages"][name] for name in ("approxmass", "torch")},
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    finished = cache_folder() / f"{name}-{key}.safetensors"
    unfinished = finished.with_suffix(".unfinished")
    if finished.exists():
        return unpack(finished.read_bytes(), str(finished), modules, {}, identity, dict)

    _check_cache(finished)
    best = {f"best_{part}": copy.deepcopy(module) for part, module in modules.items()}
    kept = {**modules, **(best if validate else {})}
    steps_per_epoch = max(1, count // batch_size)
    steps = epochs * steps_per_epoch
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "best": math.inf, "sums": {}, "history": []}
    if unfinished.exists():
        packed = unfinished.read_bytes()
        state = unpack(packed, str(unfinished), kept, optimizers, identity, dict)
    rates = {
        part: [group["lr"] for group in optimizer.param_groups]
        for part, optimizer in optimizers.items()
    }
    bar = TrainingBar(name) if progress else None
    diverged = ApproxMassError(
        f"the training of {name} diverged: choose a smaller learning rate, or check the images"
    )
    order, order_epoch = torch.empty(0, dtype=torch.long), -1
    begun, saved_at = time.monotonic() - state["seconds"], time.monotonic()
    with bar or contextlib.nullcontext(), stop_requests() as stop:
        while state["step"] < steps:
            number = state["step"]
            epoch, place = divmod(number, steps_per_epoch)
            if epoch != order_epoch:
                order = torch.randperm(count, generator=seeded_generator(seed, "order", epoch))
                order_epoch = epoch
            for part, optimizer in optimizers.items():
                for group, rate in zip(optimizer.param_groups, rates[part], strict=True):
                    group["lr"] = rate * schedule(number / steps)
            rows = order[place * batch_size : (place + 1) * batch_size]
            report = step(Step(number, rows, seed))
            values = dict(zip(report, torch.stack(list(report.values())).tolist(), strict=True))
            if not all(map(math.isfinite, values.values())):
                raise diverged
            state["step"] = number + 1
            sums = state["sums"]
            state["sums"] = {k: v + sums.get(k, 0.0) for k, v in values.items()}
            if state["step"] % steps_per_epoch == 0:
                record = {k: v / steps_per_epoch for k, v in state["sums"].items()}
                state["sums"] = {}
                if validate is not None:
                    record["validation"] = value = validate()
                    if value < state["best"]:
                        state["best"] = value
                        for part, module in modules.items():
                            best[f"best_{part}"].load_state_dict(module.state_dict())
                state["history"].append(record)
            if bar is not None:
                facts = "  ".join(f"{k} {_few(v)}" for k, v in list(values.items())[:3])
                bar.show(state["step"], steps, f"epoch {epoch + 1}  {facts}")
            state["seconds"] = time.monotonic() - begun
            due = time.monotonic() - saved_at > _CHECKPOINT_SECONDS
            if (due or stop) and state["step"] < steps:
                with write_atomic(unfinished) as beside:
                    beside.write_bytes(pack(kept, optimizers, identity, state))
                saved_at = time.monotonic()
            if stop and state["step"] < steps:
                raise KeyboardInterrupt
        if validate is not None:
            for part, module in modules.items():
                module.load_state_dict(best[f"best_{part}"].state_dict())
        learnt = (value for module in modules.values() for value in module.state_dict().values())
        if not all(bool(value.isfinite().all()) for value in learnt):
            unfinished.unlink(missing_ok=True)
            raise diverged
        with write_atomic(finished) as beside:
            beside.write_bytes(pack(modules, {}, identity, state))
        unfinished.unlink(missing_ok=True)
        if stop:  # in the last step: whoever called must not go on
            raise KeyboardInterrupt
    return state


def _check_cache(place: Path) -> None:
    """Before any work: the cache can be written."""
    try:
        check_file(place)
    except ApproxMassError as error:
        raise ApproxMassError(f"{error}: set APPROXMASS_CACHE to another folder") from error


def _few(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else short(value)
