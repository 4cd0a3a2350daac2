"""Processor cores that this process may use: by affinity, and by the quota of its container."""

__all__ = ["cores"]

import functools
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores() -> int:
    """Processor cores that this process may use, at least 1.

    Example:
        >>> 1 <= cores() <= os.cpu_count()
        True
    """
    allowed = getattr(os, "sched_getaffinity", None)  # not everywhere
    most = len(allowed(0)) if allowed else os.cpu_count() or 1
    quota = _quota(_CGROUPS, _OWN)
    # Part of a core is none: threads that wait for each other wait for the one that was stopped.
    return most if quota is None else max(1, min(most, int(quota)))


@functools.cache
def _quota(root: Path, own: Path) -> float | None:
    """Cores' worth of time that the control groups of this process leave it; None for no limit.

    Arguments:
        root: Where the control groups are mounted, version 1, 2 or both.
        own: Those of this process, a line each.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += [_second_version(group) for group in _upwards(root, path)]
            found += [_second_version(group) for group in _upwards(root / "unified", path)]
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                found += [_first_version(group) for group in _upwards(root / name, path)]
    return min((each for each in found if each is not None), default=None)


def _upwards(root: Path, path: str) -> list[Path]:
    """A group and all that hold it: each has a limit of its own.

    Within a container the path may be that of the host, and only the root be seen.
    """
    group = root / path.strip("/")
    return [group, *(each for each in group.parents if each.is_relative_to(root))]


def _second_version(group: Path) -> float | None:
    numbers = _numbers(group / "cpu.max")  # "max 100000" where there is no limit
    return numbers[0] / numbers[1] if len(numbers) == 2 else None


def _first_version(group: Path) -> float | None:
    quota, period = (_numbers(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if len(quota) != 1 or len(period) != 1 or quota[0] <= 0:
        return None
    return quota[0] / period[0]


def _numbers(file: Path) -> list[int]:
    """What a file holds; nothing where it is not there, or holds words."""
    try:
        return [int(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return []
