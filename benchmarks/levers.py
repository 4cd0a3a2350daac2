"""What each lever does alone to a penalised step of the compact colour flow, and what did not help.

    python benchmarks/levers.py benchmarks/results/levers.json

Kinds take turns. torch.compile comes last, with the seconds of its start. `make bench` leaves this
out: the compilation takes minutes.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixels import build, our_step, settings
from plain import functional_loss, nchw, plain_layers, plain_step
from timing import alternate, rate, ratio, write

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


def optimizers() -> dict[str, Callable[[], None]]:
    """A step of AdamW and clipping alone."""

    def make(fused: bool) -> Callable[[], None]:
        flow = build(SHAPE)
        for parameter in flow.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-5, fused=fused)

        def work() -> None:
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 100)
            optimizer.step()

        return work

    return {"AdamW": make(False), "AdamW, fused": make(True)}


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
    taken = alternate(optimizers(), 20)
    facts["optimizer_milliseconds"] = {k: 1e3 * sorted(v)[len(v) // 2] for k, v in taken.items()}
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
