"""Facts about this machine and these packages, kept beside every result."""

__all__ = ["machine_facts"]

import os
import platform
from importlib.metadata import version
from typing import Any

import torch


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
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
