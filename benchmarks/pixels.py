"""Penalised training of the compact RealNVP, against the same network in plain PyTorch.

    python benchmarks/pixels.py benchmarks/results/pixels.json

A run is some steps of training with AdamW and clipping, after the first: ours is `train` itself.
The plain one is double backpropagation in float32, NCHW. The convolutions of a step, done again
alone on the same tensors, are the floor: a step cannot take less.
"""

import copy
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from approxmass.arrays import Shape
from approxmass.flows import RealNVP
from approxmass.paper.cost import FlopCounter
from approxmass.runtime.machine import fast_bf16, pick_device
from approxmass.training import recipes
from approxmass.training.flow import Objective, TrainingSettings, train
from plain import nchw, penalised_gradient, plain_layers, plain_step, relative_errors
from timing import Clock, alternate, convolutions, peak_mib, rate, ratio, write

SHAPES = {"grey 28x28": (1, 28, 28), "colour 32x32": (3, 32, 32)}
# Batch size: steps of a run (a multiple of 4, for a penalty every fourth) and rounds.
RUNS = {16: (8, 3), 64: (8, 3)}


def build(shape: Shape) -> RealNVP:
    """A compact flow whose couplings do something already."""
    torch.manual_seed(0)
    flow = RealNVP.preset("compact", shape).train()
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if "head" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return flow


def settings(batch: int, **changed: Any) -> TrainingSettings:
    """What a detector trains with, for one epoch."""
    given = recipes.for_pixels(1, pick_device())
    return replace(given, **{"batch_size": batch, "epochs": 1, **changed})


def plain_run(flow: RealNVP, data: Tensor, how: TrainingSettings) -> float:
    """The same objective and optimiser as one writes them."""
    optimizer = torch.optim.AdamW(
        flow.parameters(), how.learning_rate, weight_decay=how.weight_decay
    )
    order, clock = torch.randperm(len(data)), Clock()
    for start in range(0, len(data), how.batch_size):
        x = data[order[start : start + how.batch_size]].float() / 255
        optimizer.zero_grad()
        plain_step(flow.log_prob, flow.perturb(x), how.alpha)
        torch.nn.utils.clip_grad_norm_(flow.parameters(), how.clip)
        optimizer.step()
        clock()
    return clock.seconds


def our_step(flow: RealNVP, x: Tensor, alpha: float, bf16: bool) -> Callable[[], None]:
    """A penalised step as `train` takes it, without the optimiser."""
    objective = Objective(flow, bf16=bf16)

    def work() -> None:
        objective.zero_grad()
        objective(x, alpha)[0].backward()

    return work


def one_step(kind: str, shape: Shape, batch: int) -> Callable[[], object]:
    """One step of a kind, without the optimiser."""
    x = torch.rand(batch, *shape)
    alpha = settings(batch).alpha
    if kind == "ours":
        return our_step(build(shape), x, alpha, fast_bf16(x.device))
    flow = nchw(build(shape))

    def work() -> None:
        with plain_layers():
            plain_step(flow.log_prob, x, alpha)

    return work


def gradient_errors(shape: Shape) -> dict[str, float]:
    """Relative error of the penalised gradient, against torch's own layers in float64."""
    x = torch.rand(16, *shape, dtype=torch.float64)
    alpha = settings(16).alpha

    def gradient(dtype: torch.dtype, bf16: bool = False) -> Tensor:
        flow = build(shape).to(dtype)
        return penalised_gradient(flow, flow.log_prob, x.to(dtype), alpha, bf16)

    with plain_layers():
        reference = gradient(torch.float64)
    found = {"float32": gradient(torch.float32), "bfloat16": gradient(torch.float32, bf16=True)}
    return relative_errors(found, reference)


def measure(shape: Shape, batch: int) -> dict[str, Any]:
    """Everything about one shape and batch size."""
    steps, rounds = RUNS[batch]
    count = steps * batch
    data = (torch.rand(count + batch, *shape) * 255).to(torch.uint8)
    flow = build(shape)

    def ours(**changed: Any) -> Callable[[], object]:
        how = settings(batch, **changed)

        def run() -> float:
            clock = Clock()
            train(copy.deepcopy(flow), data, how, fingerprint="benchmark", on_step=clock)
            return clock.seconds

        return run

    def plain(alpha: float) -> Callable[[], object]:
        how = settings(batch, alpha=alpha)

        def run() -> float:
            with plain_layers():
                return plain_run(nchw(copy.deepcopy(flow)), data, how)

        return run

    alpha = settings(batch).alpha
    seconds = alternate(
        {
            "plain": plain(alpha),
            "ours": ours(),
            "ours, float32": ours(precision="no"),
            "ours, every 4th": ours(penalty_every=4),
            "plain, likelihood alone": plain(0.0),
            "ours, likelihood alone": ours(alpha=0.0),
        },
        rounds,
    )
    step = one_step("ours", shape, batch)
    with FlopCounter() as counter:
        step()
    turns = alternate({"step": step, "convolutions": convolutions(step)}, 2 * rounds)
    floor = statistics.median(turns["convolutions"])
    return {
        "batch": batch,
        "images_per_second": {name: rate(count, taken) for name, taken in seconds.items()},
        "times_plain": {
            name: ratio(seconds["plain"], seconds[name])
            for name in ("ours", "ours, float32", "ours, every 4th")
        },
        "times_plain_likelihood": ratio(
            seconds["plain, likelihood alone"], seconds["ours, likelihood alone"]
        ),
        "gigaflop_per_image": counter.total / batch / 1e9,
        "convolution_gigaflop_per_second": counter.total / floor / 1e9,
        "share_of_convolution_rate": ratio(turns["convolutions"], turns["step"]),
        "peak_mib": {kind: peak_mib(one_step, kind, shape, batch) for kind in ("plain", "ours")},
    }


def main(target: Path) -> None:
    """Measure and write."""
    rows = []
    for name, shape in SHAPES.items():
        errors = gradient_errors(shape)
        for batch in RUNS:
            row = {"flow": name, **measure(shape, batch), "gradient_error": errors}
            rows.append(row)
            print(name, batch, {k: round(v["median"], 2) for k, v in row["times_plain"].items()})
    write(target, {"command": f"python benchmarks/pixels.py {target}", "rows": rows})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
