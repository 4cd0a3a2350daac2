"""A server under attack, what is known of it, and what came of it."""

__all__ = [
    "DESCRIPTORS",
    "FORM",
    "JSON",
    "TOKEN",
    "Attack",
    "Connection",
    "Found",
    "Target",
    "form",
    "serve",
    "started",
]

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# The clients of the benchmark.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import serve
from serving import FORM, JSON, Connection, form, started

TOKEN = "correct-horse"
DESCRIPTORS = 200


@dataclass
class Found:
    """What came of an attack."""

    requests: int = 0
    findings: list[str] = field(default_factory=list)
    worst: dict[str, float] = field(default_factory=dict)

    def most(self, name: str, value: float, limit: float = np.inf) -> None:
        """Note the largest of a number, and a finding where it is over a limit."""
        self.worst[name] = max(round(float(value), 3), self.worst.get(name, 0.0))
        if value > limit:
            self.findings.append(f"{name}: {value:.3f}, over {limit:g}")


@dataclass(frozen=True)
class Target:
    """A server that runs, and what it should answer."""

    url: str
    process: int
    expected: serve.Expected

    def link(self, *, token: bool = True) -> Connection:
        """A connection that is not yet open."""
        return Connection(self.url, TOKEN if token else None)

    def memory(self, what: str) -> float:
        """`VmRSS`, or `VmHWM`, the most since `forget`, in MiB."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(status.partition(f"{what}:")[2].split()[0]) / 1024

    def forget(self) -> float:
        """Have the most start anew; what it is now."""
        Path(f"/proc/{self.process}/clear_refs").write_text("5")
        return self.memory("VmHWM")

    def files(self) -> int:
        """Descriptors that are open."""
        return len(os.listdir(f"/proc/{self.process}/fd"))


Attack = Callable[[Target, float, np.random.Generator, Found], Awaitable[None]]
