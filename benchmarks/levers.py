"""What each lever does alone to a penalised step of the compact colour flow, and what did not help.

    python benchmarks/levers.py benchmarks/results/levers.json

Kinds take turns. Then the same steps of training in one thread, in all threads together, and with a
share of the batch for each, of flows of images and of codes. torch.compile comes last, with the
seconds of its start. `make bench` leaves this out: the compilation takes minutes.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from approxmass.flows import Flow, VectorFlow
from approxmass.training import flow as training
from approxmass.training.flow import TrainingSettings
from pixels import build, our_step, settings
from plain import functional_loss, nchw, plain_layers, plain_step
from timing import Clock, Ratio, alternate, rate, ratio, write

SHAPE, BATCH, ROUNDS = (3, 32, 32), 64, 5
ALPHA = settings(BATCH).alpha


def plain(x: Tensor, layout: bool, bf16: bool) -> Callable[[], None]:
    """Torch's layers, with weights channels last if `layout`."""
    flow = build(SHAPE) if layout else nchw(build(SHAPE))

    def work() -> None:
        flow.zero_grad()
        with plain_layers(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            plain_step(flow.log_prob, x, ALPHA)

    return work


def optimizers(flow: Flow) -> dict[str, Callable[[], None]]:
    """A step of AdamW and clipping alone; *flat* has all weights in one vector."""
    weights = list(flow.parameters())

    def make(parameters: list[nn.Parameter], fused: bool | None) -> Callable[[], None]:
        for parameter in weights:
            parameter.grad = torch.randn_like(parameter)
        optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=fused)

        def work() -> None:
            if parameters is not weights:
                (one,) = parameters
                one.grad = torch.cat(
                    [each.grad.flatten() for each in weights if each.grad is not None]
                )
            torch.nn.utils.clip_grad_norm_(parameters, 100)
            optimizer.step()

        return work

    flat = nn.Parameter(torch.cat([each.detach().flatten() for each in weights]))
    return {
        "AdamW": make(weights, None),
        "AdamW, fused": make(weights, True),
        "AdamW, flat": make([flat], None),
    }


def in_threads(flow: Flow, data: Tensor, how: TrainingSettings) -> dict[str, Callable[[], float]]:
    """Steps of training, by who takes part in what."""

    def make(together: int, shares: int) -> Callable[[], float]:
        def run() -> float:
            clock = Clock()
            with (
                patch.object(training, "step_threads", lambda *_: together),
                patch.object(training, "step_shares", lambda *_: shares),
            ):
                copied = copy.deepcopy(flow)
                training.train(copied, data, how, fingerprint="benchmark", on_step=clock)
            return clock.seconds / (len(clock.times) - 1)

        return run

    most = torch.get_num_threads()
    return {
        "one thread": make(1, 1),
        "all together": make(most, 1),
        "a share each": make(1, most),
    }


def threads() -> dict[str, dict[str, Ratio]]:
    """Milliseconds of a step, by flow and batch."""
    found = {}
    for batch in (16, 64):
        data = (torch.rand(9 * batch, *SHAPE) * 255).to(torch.uint8)
        arms = in_threads(build(SHAPE), data, settings(batch))
        found[f"colour, {batch} images"] = alternate(arms, ROUNDS)
    for width, batch in ((64, 64), (129, 1024), (768, 1024)):
        how = TrainingSettings(alpha=4.0, epochs=1, batch_size=batch, precision="bf16")
        arms = in_threads(VectorFlow("realnvp", width), torch.randn(11 * batch, width), how)
        found[f"codes of {width} numbers, {batch}"] = alternate(arms, ROUNDS)
    return {
        name: {arm: _milliseconds(taken) for arm, taken in arms.items()}
        for name, arms in found.items()
    }


def _milliseconds(seconds: list[float]) -> Ratio:
    each = [1e3 * taken for taken in seconds]
    return {"median": statistics.median(each), "low": min(each), "high": max(each)}


def compiled(x: Tensor) -> tuple[Callable[[], None], float]:
    """torch.compile of the plain step, and the seconds of its first call."""
    flow = build(SHAPE)

    fast = torch.compile(functional_loss(flow, ALPHA))

    def work() -> None:
        flow.zero_grad()
        with plain_layers():
            fast(x).backward()

    started = time.perf_counter()
    work()
    return work, time.perf_counter() - started


def main(target: Path) -> None:
    """Measure and write."""
    x = torch.rand(BATCH, *SHAPE)
    best = our_step(build(SHAPE), x, ALPHA, bf16=True)
    arms = {
        "plain": plain(x, False, False),
        "channels last": plain(x, True, False),
        "bfloat16 and channels last": plain(x, True, True),
        "our layers, float32": our_step(build(SHAPE), x, ALPHA, bf16=False),
        "our layers, bfloat16": best,
    }
    seconds = alternate(arms, ROUNDS)
    facts: dict[str, Any] = {
        "command": f"python benchmarks/levers.py {target}",
        "batch": BATCH,
        "kinds": {
            name: {
                "images_per_second": rate(BATCH, taken),
                "times_plain": ratio(seconds["plain"], taken),
            }
            for name, taken in seconds.items()
        },
    }
    facts["optimizer_milliseconds"] = {}
    for name, flow in (("colour", build(SHAPE)), ("codes", VectorFlow("realnvp", 129))):
        taken = alternate(optimizers(flow), 20)
        facts["optimizer_milliseconds"][name] = {
            kind: 1e3 * statistics.median(each) for kind, each in taken.items()
        }
    facts["step_milliseconds"] = threads()
    step, first = compiled(x)
    turns = alternate({"ours": best, "compiled": step}, ROUNDS)
    facts["compiled"] = {
        "first_seconds": first,
        "images_per_second": rate(BATCH, turns["compiled"]),
        "times_ours": ratio(turns["ours"], turns["compiled"]),
    }
    print(facts)
    write(target, facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
