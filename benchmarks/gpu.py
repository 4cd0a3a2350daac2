"""The published flows on a GPU: penalised steps of several kinds beside each other.

    python benchmarks/gpu.py benchmarks/results/gpu.json [compile]

Images a second of one training step (forward, gradient, second derivatives; without the
optimizer, which is the same for all), the most memory, and how far its gradient is from that of
strict float32, untrained. Kinds take turns; median and range. With `compile` only torch.compile is
measured, whose start takes minutes, beside what the library does.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from approxmass.arrays import Shape
from approxmass.flows import Flow, RealNVP, VectorFlow, batchnorm
from approxmass.paper.cost import FlopCounter
from approxmass.runtime.machine import machine_facts
from approxmass.runtime.random import seeded_init
from approxmass.storage.atomic import write_json
from approxmass.training import flow as training
from approxmass.training.cuda_graph import GraphedObjective
from approxmass.training.flow import Objective, TrainingSettings, train
from plain import functional_loss, nchw, plain_layers, plain_step

ALPHA = 2 / 32
ROUNDS = 7
CASES = [
    ("grey", (1, 28, 28), 32),
    ("colour", (3, 32, 32), 32),
    ("grey", (1, 28, 28), 256),
    ("colour", (3, 32, 32), 128),
]


def build(shape: Shape) -> RealNVP:
    """The published flow, untrained."""
    with seeded_init(0):
        return RealNVP.preset("paper", shape).cuda().train()


def strict(on: bool) -> None:
    """Convolutions and products in float32, or in TF32 where torch takes it by default."""
    torch.backends.cudnn.allow_tf32 = not on


def kinds(shape: Shape) -> dict[str, tuple[RealNVP, Callable[[Tensor], None]]]:
    """Each with its own copy of the flow."""
    naive, plain_bf16, ours = nchw(build(shape)), build(shape), build(shape)
    eager_objective = Objective(ours, bf16=True)
    in_float32, graphed = build(shape), build(shape)
    graph32 = GraphedObjective(Objective(in_float32, bf16=False))
    graph = GraphedObjective(Objective(graphed, bf16=True))

    def plain_float32(x: Tensor) -> None:
        strict(True)
        with plain_layers():
            plain_step(naive.log_prob, x, ALPHA)
        strict(False)

    def plain_tf32(x: Tensor) -> None:
        with plain_layers():
            plain_step(naive.log_prob, x, ALPHA)

    def plain_low(x: Tensor) -> None:
        with plain_layers(), torch.autocast("cuda", torch.bfloat16):
            plain_step(plain_bf16.log_prob, x, ALPHA)

    def eager(x: Tensor) -> None:
        eager_objective(x, ALPHA)[0].backward()

    def replayed32(x: Tensor) -> None:
        graph32(x, ALPHA)

    def replayed(x: Tensor) -> None:
        graph(x, ALPHA)

    return {
        "plain, float32": (naive, plain_float32),
        "plain, TF32 convolutions": (naive, plain_tf32),
        "plain, bfloat16": (plain_bf16, plain_low),
        "ours without graph": (ours, eager),
        "ours, TF32 convolutions": (in_float32, replayed32),
        "ours": (graphed, replayed),
    }


def compiled(shape: Shape) -> dict[str, tuple[RealNVP, Callable[[Tensor], None]]]:
    """The plain step compiled, and ours."""
    flow, graphed = build(shape), build(shape)
    graph = GraphedObjective(Objective(graphed, bf16=True))

    fast = torch.compile(functional_loss(flow, ALPHA))

    def norm(self: batchnorm.BatchNorm2d, x: Tensor) -> Tensor:
        """Without the running means: those cannot be changed within torch.func.grad."""
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def step(x: Tensor) -> None:
        with plain_layers():
            batchnorm.BatchNorm2d.forward = norm
            fast(x).backward()

    def replayed(x: Tensor) -> None:
        graph(x, ALPHA)

    return {"torch.compile, bfloat16": (flow, step), "ours": (graphed, replayed)}


def measure(makers: Any, name: str, shape: Shape, batch: int) -> dict[str, Any]:
    """One flow and batch size: every kind."""
    gc.collect()
    torch.cuda.empty_cache()
    x = torch.rand(batch, *shape, device="cuda")
    arms = makers(shape)
    result: dict[str, Any] = {}
    reference: Tensor | None = None
    for kind, (flow, step) in arms.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        flow.zero_grad()
        started = time.perf_counter()
        step(x)
        torch.cuda.synchronize()
        first = time.perf_counter() - started
        gradient = torch.cat(
            [p.grad.flatten().double() for p in flow.parameters() if p.grad is not None]
        )
        reference = gradient if reference is None else reference
        error = ((gradient - reference).norm() / reference.norm()).item()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        result[kind] = {
            "first_seconds": round(first, 2),
            "peak_mib": round(peak),
            "gradient_difference": error,
        }
    times: dict[str, list[float]] = {kind: [] for kind in arms}
    for _ in range(ROUNDS + 3):
        for kind, (flow, step) in arms.items():
            flow.zero_grad()
            torch.cuda.synchronize()
            started = time.perf_counter()
            step(x)
            torch.cuda.synchronize()
            times[kind].append(time.perf_counter() - started)
    for kind, taken in times.items():
        kept = sorted(taken[3:])
        rates = [round(batch / t, 1) for t in (statistics.median(kept), kept[-1], kept[0])]
        result[kind] |= {"images_per_second": rates[0], "range": rates[1:]}
    flow, step = next(iter(arms.values()))
    if "float32" in next(iter(arms)):
        with FlopCounter() as counter:
            step(x)
        result = {"gigaflop_per_image": counter.total / batch / 1e9, "kinds": result}
    else:
        result = {"kinds": result}
    return {"flow": name, "shape": list(shape), "batch": batch, **result}


def matmul_rates() -> dict[str, float]:
    """TFLOP/s of an 8192-square product."""
    rates = {}
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        taken = []
        for _ in range(8):
            torch.cuda.synchronize()
            started = time.perf_counter()
            a @ b
            torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
        rates[str(dtype).removeprefix("torch.")] = round(
            2 * 8192**3 / statistics.median(taken[3:]) / 1e12, 1
        )
    return rates


def trainings() -> dict[str, Any]:
    """`train` itself, with a graph and without: seconds, and the loss that each ends at."""
    found: dict[str, Any] = {}
    vectors = torch.randn(54_000, 129, generator=torch.Generator().manual_seed(0))
    pixels = (torch.rand(2048, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 255).byte()
    jobs: dict[str, tuple[Callable[[], Flow], Tensor, TrainingSettings]] = {
        "vectors": (
            lambda: VectorFlow("realnvp", 129),
            vectors,
            TrainingSettings(alpha=4, epochs=4, precision="bf16"),
        ),
        "pixels": (
            lambda: RealNVP.preset("compact", (1, 28, 28)),
            pixels,
            TrainingSettings(
                alpha=ALPHA, epochs=1, batch_size=16, clip=100, precision="bf16", penalty_every=4
            ),
        ),
    }
    for name, (make, data, settings) in jobs.items():
        losses, seconds = [], []
        for graph in (True, False):
            torch.manual_seed(0)
            flow = make()
            started = time.perf_counter()
            with without_graph(not graph):
                history = train(flow, data, settings)
            seconds.append(time.perf_counter() - started)
            losses.append(history[-1].loss)
        found[name] = {
            "graph_seconds": seconds[0],
            "eager_seconds": seconds[1],
            "last_losses": losses,
        }
    return found


@contextmanager
def without_graph(on: bool) -> Iterator[None]:
    """Within it `train` takes its steps one operation at a time, if `on`."""

    class Plain:
        def __init__(self, objective: Objective) -> None:
            self.objective = objective

        def __call__(self, x: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
            self.objective.zero_grad()
            terms: tuple[Tensor, Tensor, Tensor] = self.objective(x, alpha)
            terms[0].backward()
            return terms

    before = training.GraphedObjective
    if on:
        training.GraphedObjective = Plain
    try:
        yield
    finally:
        training.GraphedObjective = before


def main(target: Path, makers: Any) -> None:
    """Measure, writing what there is after each case."""
    facts: dict[str, Any] = {
        "machine": machine_facts(),
        "matmul_tflops": matmul_rates(),
        "steps": [],
    }
    if makers is kinds:
        facts["train"] = trainings()
        print(json.dumps(facts["train"]), flush=True)
        for case in CASES:
            facts["steps"].append(measure(makers, *case))
            write_json(target, facts)
            print(json.dumps(facts["steps"][-1]), flush=True)
    else:
        for case in CASES[:2]:
            facts["steps"].append(measure(makers, *case))
            print(json.dumps(facts["steps"][-1]), flush=True)
            write_json(target, facts)
    write_json(target, facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), compiled if sys.argv[2:] == ["compile"] else kinds)
