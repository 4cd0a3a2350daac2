"""This machine: where to compute, and the facts kept beside every result."""

__all__ = [
    "all_processes",
    "cores",
    "default_device",
    "fast_autocast",
    "fast_bf16",
    "is_main_process",
    "machine_facts",
]

import functools
import os
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import PartialState


def machine_facts() -> dict[str, Any]:
    """Versions, processor and accelerator.

    Example:
        >>> sorted(machine_facts())
        ['accelerator', 'cores', 'packages', 'processor', 'python']
    """
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("approxmass", "torch", "zuko", "numpy")},
        "processor": _processor(),
        "cores": cores(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_main_process() -> bool:
    """Whether this process is the only one or the first of several that train together."""
    return int(os.environ.get("RANK", "0")) == 0


def all_processes() -> "PartialState":
    """Accelerate's view of the processes that train together, as its `Accelerator` would see it."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def fast_autocast(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where this machine multiplies faster in it; no change elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16())


@functools.cache
def fast_bf16() -> bool:
    """Whether this machine multiplies faster in bfloat16."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    try:
        with open("/proc/cpuinfo") as file:
            processor = file.read()
    except OSError:
        return False
    return "avx512_bf16" in processor or "amx_bf16" in processor
