"""How time and memory grow with the number of images, the dimension and the side.

    python benchmarks/growth.py benchmarks/results/growth.json

Sizes take turns, so that a slow moment of the machine falls on all of them. The exponent is the
slope of log seconds against log size over the upper half of the sizes: 1 is linear.
"""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from approxmass.flows import RealNVP, VectorFlow
from approxmass.runtime.machine import fast_bf16, pick_device
from approxmass.training.flow import TrainingSettings, train
from pixels import our_step
from scoring import fitted, images
from timing import alternate, peak_mib, write

ROUNDS = 3
IMAGES = (4_000, 8_000, 16_000, 32_000, 64_000)
DIMENSIONS = (32, 64, 128, 256, 512)
SIDES = (8, 16, 32, 64)
CPU = torch.device("cpu")


def precision() -> Literal["no", "bf16"]:
    """As a detector trains."""
    return "bf16" if fast_bf16(pick_device()) else "no"


def scoring(count: int) -> Callable[[], object]:
    """Score so many images of 28x28 by a flow on whitened codes."""
    detector, data = fitted("pca", 2000), images(count, (28, 28))
    return lambda: detector.score(data)


def training(count: int) -> Callable[[], object]:
    """One penalised epoch over so many codes."""
    data = torch.randn(count, 129)
    how = TrainingSettings(alpha=4, epochs=1, precision=precision())
    return lambda: train(VectorFlow("realnvp", 129), data, how, fingerprint="benchmark")


def dimension(size: int) -> Callable[[], object]:
    """Ten penalised steps of 512 codes of so many numbers."""
    data = torch.randn(10 * 512, size)
    how = TrainingSettings(alpha=4, epochs=1, precision=precision())
    return lambda: train(VectorFlow("realnvp", size), data, how, fingerprint="benchmark")


def side(size: int) -> Callable[[], object]:
    """A penalised step of 16 colour images of so many pixels a side."""
    torch.manual_seed(0)
    flow = RealNVP.preset("compact", (3, size, size)).train()
    return our_step(flow, torch.rand(16, 3, size, size), 2 / 32, fast_bf16(CPU))


def measure(make: Callable[[int], Callable[[], object]], sizes: tuple[int, ...]) -> dict[str, Any]:
    """Seconds and memory at every size."""
    taken = alternate({str(size): make(size) for size in sizes}, ROUNDS)
    seconds = [statistics.median(taken[str(size)]) for size in sizes]
    half = len(sizes) // 2
    slope = float(np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)[0])
    return {
        "sizes": list(sizes),
        "seconds": seconds,
        "range": [[min(taken[str(size)]), max(taken[str(size)])] for size in sizes],
        "peak_mib": [peak_mib(make, size) for size in sizes],
        "exponent": slope,
    }


def main(target: Path) -> None:
    """Measure and write."""
    facts = {
        "scoring, images": measure(scoring, IMAGES),
        "training, images": measure(training, IMAGES),
        "training, dimension": measure(dimension, DIMENSIONS),
        "training, side": measure(side, SIDES),
    }
    print({name: round(found["exponent"], 2) for name, found in facts.items()})
    write(target, {"command": f"python benchmarks/growth.py {target}", "growth": facts})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
