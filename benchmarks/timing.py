"""Side-by-side timing: the arms take turns in one process, and a ratio is of the same turn."""

__all__ = [
    "Clock",
    "Ratio",
    "alternate",
    "convolutions",
    "dense_rate",
    "peak_mib",
    "rate",
    "ratio",
    "write",
]

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from approxmass.runtime.machine import machine_facts
from approxmass.storage.atomic import write_json

Ratio = dict[str, float]


def alternate(
    arms: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each arm in each round, after `warm` rounds that do not count.

    An arm that returns a number has timed itself: what comes before its first step does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + warm):
        for name, work in arms.items():
            gc.collect()
            started = time.perf_counter()
            own = work()
            taken = own if isinstance(own, float) else time.perf_counter() - started
            if turn >= warm:
                seconds[name].append(taken)
    return seconds


class Clock:
    """Times what follows the first of several steps."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, *_: object) -> None:
        """A step has ended."""
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """From the end of the first step to that of the last."""
        return self.times[-1] - self.times[0]


def ratio(slow: list[float], fast: list[float]) -> Ratio:
    """How many times faster `fast` is, by rounds: median and range."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(each), "low": min(each), "high": max(each)}


def rate(count: int, seconds: list[float]) -> Ratio:
    """Items a second, by rounds: median and range."""
    each = [count / taken for taken in seconds]
    return {"median": statistics.median(each), "low": min(each), "high": max(each)}


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if "convolution" in str(func):
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def convolutions(work: Callable[[], object]) -> Callable[[], None]:
    """What does again the convolutions of some work, on its own tensors, and nothing else."""
    with _Recorder() as recorder:
        work()

    def replay() -> None:
        for function, args, kwargs in recorder.calls:
            function(*args, **kwargs)

    return replay


def dense_rate(m: int, k: int, n: int, dtype: torch.dtype) -> float:
    """FLOP a second of a matrix product `(m, k) @ (k, n)`; median of 30."""
    a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
    taken = alternate({"product": lambda: a @ b}, rounds=30, warm=5)["product"]
    return 2 * m * k * n / statistics.median(taken)


def peak_mib(
    make: Callable[..., Callable[[], object]], *args: object, total: bool = False
) -> float:
    """MiB of resident memory that the work of `make(*args)` adds at its peak, in a new process.

    Or, with `total`, of the whole process.
    """
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=_peak, args=(make, args, total, result))
    process.start()
    found: float = result.get()
    process.join()
    return found


def _peak(
    make: Callable[..., Callable[[], object]], args: tuple[object, ...], total: bool, result: Any
) -> None:
    work = make(*args)
    before = 0 if total else _high_water_kib()
    work()
    result.put((_high_water_kib() - before) / 1024)


def _high_water_kib() -> int:
    """The most resident memory of this process; `ru_maxrss` would begin with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def write(target: Path, facts: dict[str, Any]) -> None:
    """The facts and the machine."""
    threads = {"threads": torch.get_num_threads()}
    write_json(target, {"machine": machine_facts() | threads, **facts})
    print(f"wrote {target}")
