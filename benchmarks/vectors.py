"""Training on whitened codes: against zuko's own loop and normflows', and a whole fit.

    python benchmarks/vectors.py benchmarks/results/vectors.json [DATA]

With DATA, a folder of image sets, the fit is of FashionMNIST's 60,000 training images; without, of
as many random ones. A run is ten steps of AdamW, after the first, on batches of 1,024 codes of 129
numbers, as a detector takes them; zuko's penalised loop also in batches of 512, twice as many.
zuko's loop and ours are also run where threads wait as they do by default.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import normflows as nf
import numpy as np
import torch
import zuko
from torch import Tensor, nn

from approxmass import Detector, open_images
from approxmass.flows import VectorFlow
from approxmass.paper.cost import FlopCounter
from approxmass.runtime.machine import pick_device
from approxmass.training import recipes
from approxmass.training.flow import TrainingSettings, train
from plain import penalised_gradient, plain_step, relative_errors
from timing import Clock, alternate, dense_rate, rate, ratio, write

DIMENSION, BATCH, STEPS, ROUNDS = 129, 1024, 10, 7
COUNT = 60_000


def zuko_flow() -> nn.Module:
    """What `VectorFlow` is made of."""
    torch.manual_seed(0)
    flow: nn.Module = zuko.flows.RealNVP(
        DIMENSION, transforms=6, randmask=True, hidden_features=(256, 256)
    )
    return flow


def normflows_flow() -> nn.Module:
    """As many affine couplings of as wide networks."""
    torch.manual_seed(0)
    half = (DIMENSION + 1) // 2
    steps: list[nn.Module] = []
    for _ in range(6):
        widths = [half, 256, 256, 2 * (DIMENSION - half)]
        steps.append(nf.flows.AffineCouplingBlock(nf.nets.MLP(widths, init_zeros=True)))
        steps.append(nf.flows.Permute(DIMENSION, mode="shuffle"))
    flow: nn.Module = nf.NormalizingFlow(nf.distributions.DiagGaussian(DIMENSION), steps)
    return flow


def loop(
    flow: nn.Module, data: Tensor, step: Callable[[Tensor], None], batch: int = BATCH
) -> Callable[[], None]:
    """A training loop as the two libraries' documents have it."""

    def run() -> float:
        optimizer, clock = torch.optim.AdamW(flow.parameters(), lr=1e-3), Clock()
        for i, x in enumerate(data.split(batch)):
            optimizer.zero_grad()
            step(x)
            optimizer.step()
            if (i + 1) % (BATCH // batch) == 0:
                clock()
        return clock.seconds

    return run


def how(**changed: Any) -> TrainingSettings:
    """What a detector trains with, for one epoch."""
    given = recipes.for_codes(COUNT, DIMENSION, pick_device())
    return replace(given, **{"epochs": 1, **changed})


def ours(data: Tensor, **changed: Any) -> Callable[[], object]:
    """The library's own training."""
    settings = how(**changed)

    def run() -> float:
        flow, clock = VectorFlow("realnvp", DIMENSION), Clock()
        train(flow, data, settings, fingerprint="benchmark", on_step=clock)
        return clock.seconds

    return run


def gradient_errors(data: Tensor) -> dict[str, float]:
    """Relative error of the penalised gradient, against zuko in float64."""
    flow, alpha, x = VectorFlow("realnvp", DIMENSION), how().alpha, data[:BATCH]

    def gradient(
        log_prob: Callable[[Tensor], Tensor], dtype: torch.dtype, bf16: bool = False
    ) -> Tensor:
        return penalised_gradient(flow.to(dtype), log_prob, x.to(dtype), alpha, bf16)

    reference = gradient(lambda y: flow.flow().log_prob(y), torch.float64)
    found = {
        "float32": gradient(flow.log_prob, torch.float32),
        "bfloat16": gradient(flow.log_prob, torch.float32, bf16=True),
    }
    return relative_errors(found, reference)


def training() -> dict[str, Any]:
    """Loops side by side."""
    data, count = codes(), STEPS * BATCH
    theirs, plain, other = zuko_flow(), zuko_flow(), normflows_flow()
    alpha = how().alpha

    def penalised(x: Tensor) -> None:
        plain_step(lambda y: theirs().log_prob(y), x, alpha)

    def likelihood(x: Tensor) -> None:
        (-plain().log_prob(x).mean()).backward()

    def kullback(x: Tensor) -> None:
        other.forward_kld(x).backward()  # type: ignore[operator]

    seconds = alternate(
        {
            "zuko, double backpropagation": loop(theirs, data, penalised),
            "the same, batches of 512": loop(theirs, data, penalised, 512),
            "ours": ours(data),
            "ours, float32": ours(data, precision="no"),
            "ours, every 4th": ours(data, penalty_every=4),
            "zuko, likelihood alone": loop(plain, data, likelihood),
            "normflows, likelihood alone": loop(other, data, kullback),
            "ours, likelihood alone": ours(data, alpha=0.0),
        },
        ROUNDS,
    )
    with FlopCounter() as counter:
        ours(data)()
    slow, nll = seconds["zuko, double backpropagation"], seconds["ours, likelihood alone"]
    return {
        "images_per_second": {name: rate(count, taken) for name, taken in seconds.items()},
        "times_zuko": {
            name: ratio(slow, seconds[name])
            for name in ("ours", "ours, float32", "ours, every 4th")
        },
        "times_likelihood": {
            name: ratio(seconds[f"{name}, likelihood alone"], nll) for name in ("zuko", "normflows")
        },
        "megaflop_per_image": counter.total / len(data) / 1e6,
        "product_gigaflop_per_second": {
            name: dense_rate(BATCH, 256, 256, dtype) / 1e9
            for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
        },
        "gradient_error": gradient_errors(data),
    }


def under_defaults() -> dict[str, Any]:
    """How much faster than zuko's loop in a process whose threads spin as long as GNU's do."""
    call = [sys.executable, __file__, "--loops"]
    # As long as libgomp's where nobody has said anything, which importing the package does.
    environment = os.environ | {"GOMP_SPINCOUNT": "300000"}
    said = subprocess.run(call, env=environment, stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def loops() -> dict[str, Any]:
    """zuko's loop and ours, side by side."""
    data = codes()
    theirs, alpha = zuko_flow(), how().alpha
    seconds = alternate(
        {
            "zuko": loop(
                theirs, data, lambda x: plain_step(lambda y: theirs().log_prob(y), x, alpha)
            ),
            "ours": ours(data),
        },
        ROUNDS,
    )
    count = STEPS * BATCH
    rates = {name: rate(count, taken) for name, taken in seconds.items()}
    return {"images_per_second": rates, "times_zuko": ratio(seconds["zuko"], seconds["ours"])}


def codes() -> Tensor:
    """What the loops train on."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((STEPS + 1) * BATCH, DIMENSION, generator=generator)


def whole_fit(data: Path | None) -> dict[str, Any]:
    """Seconds from images to a calibrated detector."""
    if data is None:
        rng = np.random.default_rng(0)
        images, name = rng.integers(0, 256, (COUNT, 28, 28), dtype=np.uint8), "random"
    else:
        images, name = open_images(data / "fashion_mnist" / "train.parquet").read(), "FashionMNIST"
    taken = []
    for seed in range(3):
        started = time.perf_counter()
        Detector("pca", seed=seed).fit(images)
        taken.append(time.perf_counter() - started)
    return {"images": name, "count": len(images), "seconds": sorted(taken)}


def main(target: Path, data: Path | None) -> None:
    """Measure and write."""
    facts = {
        "training": training(),
        "under_defaults": under_defaults(),
        "fit": whole_fit(data),
    }
    print(
        {k: round(v["median"], 2) for k, v in facts["training"]["times_zuko"].items()}, facts["fit"]
    )
    command = f"python benchmarks/vectors.py {target}" + (f" {data}" if data else "")
    write(target, {"command": command, **facts})


if __name__ == "__main__":
    if sys.argv[1] == "--loops":
        print(json.dumps(loops()))
        sys.exit()
    main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None)
