"""What the published settings would cost here, from the FLOPs and the time of a small part."""

__all__ = ["Cost", "FlopCounter", "full_costs"]

import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..arrays import Shape
from ..baselines import BASELINES
from ..flows.pixels import dequantise
from ..mass import penalized_loss, training_terms
from ..runtime.machine import fast_autocast, pick_device
from . import one_class, pairs
from .catalog import CATALOG
from .figures import FIGURES
from .methods import BareBaseline
from .one_class import TABLES
from .pixel_flow import TRAININGS, recipe
from .table1 import PAIRS

# Images in a measurement of a flow, whose step is long.
_FEW = 4
# Images in an epoch of a baseline, and how many are left to train on when a tenth is held out:
# whole batches of every size that is in use.
_SOME, _TRAINED = 569, 512


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A training: floating-point operations (a multiply-add is two), and seconds at that rate."""

    name: str
    flops: float
    seconds: float

    def __str__(self) -> str:
        rate = self.flops / self.seconds / 1e12
        hours = self.seconds / 3600
        return (
            f"{self.name}: {self.flops:.1e} FLOP, about {hours:,.1f} hours here, one process "
            f"({rate:.2f} TFLOP/s measured)"
        )


def full_costs(name: str, only: Collection[str] = ()) -> list[Cost]:
    """The trainings of a table or figure at full scale; measures each for some seconds.

    Arguments:
        name: Of the table or figure.
        only: Its rows; none for all.
    """

    def wanted(*rows: str) -> bool:
        return not only or any(row in only for row in rows)

    if name in TABLES:
        return _one_class(name, wanted)
    if name == "table2":
        return [cost for key in ("grey", "colour") for cost in _block(key, wanted)]
    keys = [FIGURES[name].pair] if name in FIGURES else list(PAIRS)
    return [
        _flow(f"RealNVP {key}, {training}", *_images(PAIRS[key].id), training)
        for key in keys
        for training in TRAININGS
        if training != "untrained" and wanted(training)
    ]


def _one_class(name: str, wanted: Callable[..., bool]) -> list[Cost]:
    shape, count = _images(TABLES[name].images)
    found = []
    if wanted("flow"):
        found.append(_flow("RealNVP, ten classes", shape, count, "penalised"))
    return found + [
        _baseline(f"{row}, ten classes", method, shape, count)
        for row, method in one_class.TRAINED.items()
        if wanted(row)
    ]


def _block(key: str, wanted: Callable[..., bool]) -> list[Cost]:
    """Of a block of Table 2."""
    shape, count = _images(pairs.BLOCKS[key].id)
    found = [
        _flow(f"RealNVP {key}, {training}", shape, count, training)
        for row, training in (("pixels", "penalised"), ("pixels-vanilla", "vanilla"))
        if wanted(row)
    ]
    # These share their network.
    if wanted("energy", "mahalanobis", "mahalanobis-fgsm", "energy-tuned"):
        energy = pairs.CLASSIFIERS["energy"]
        found.append(_baseline(f"classifier {key}", energy, shape, count))
    if wanted("godin"):
        found.append(_baseline(f"G-ODIN {key}", pairs.CLASSIFIERS["godin"], shape, count))
    return found


def _images(name: str) -> tuple[Shape, int]:
    shape = (3, 32, 32) if name.startswith("cifar") else (1, 28, 28)
    return shape, CATALOG[name].images["train"]


def _flow(name: str, shape: Shape, count: int, training: str) -> Cost:
    how, alpha, device = recipe("full", shape[0]), TRAININGS[training], pick_device()
    flow = how.build(shape).to(device).train()
    x = dequantise(torch.rand(_FEW, *shape)).to(device)

    def step() -> None:
        with fast_autocast(device):
            log_p, mass = training_terms(flow.log_prob, x, alpha)
        penalized_loss(log_p, mass, alpha).backward()  # type: ignore[no-untyped-call]

    flops, seconds = _measure(step)
    times = count * how.epochs[-1] / _FEW
    return Cost(name=name, flops=flops * times, seconds=seconds * times)


def _baseline(name: str, method: BareBaseline, shape: Shape, count: int) -> Cost:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_SOME, *shape), dtype=np.uint8)
    labels = np.arange(_SOME) % 10
    options = method.options("full")

    def epoch() -> None:
        with _empty_cache():
            BASELINES[method.baseline].make(0, {**options, "epochs": 1}).fit(images, labels)

    flops, seconds = _measure(epoch)
    times = count * options["epochs"] / _TRAINED
    return Cost(name=name, flops=flops * times, seconds=seconds * times)


def _measure(work: Callable[[], object]) -> tuple[float, float]:
    """FLOPs of some work, and seconds of it when it is done again, uncounted and warm."""
    with FlopCounter() as counter:  # type: ignore[no-untyped-call]
        work()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return float(counter.total), time.perf_counter() - started


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what torch counts for each operation.

    Its own `FlopCounterMode` also follows modules, which fails on a second derivative.
    """

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


@contextmanager
def _empty_cache() -> Iterator[None]:
    """What is trained within is neither found nor kept."""
    before = os.environ.get("APPROXMASS_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["APPROXMASS_CACHE"] = str(Path(folder))
        try:
            yield
        finally:
            if before is None:
                del os.environ["APPROXMASS_CACHE"]
            else:
                os.environ["APPROXMASS_CACHE"] = before
