"""What drift is found, and how soon, with so many calibration scores: from a simulated table."""

__all__ = ["TABLE", "DriftPower", "drift_power", "power_in_words"]

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Made by tools/drift_power.py, which says how.
TABLE = Path(__file__).with_name("power.json")


@dataclass(frozen=True)
class DriftPower:
    """How well `DriftMonitor` finds a drift that is there from the first image of a stream.

    Attributes:
        drift: What has changed.
        within: Number of images in which it is to be found.
        found: Share of all cases, each with its own calibration scores, in which it is.
        median: Number of images in which it is found in half of the cases; None if never.
    """

    drift: str
    within: int
    found: float
    median: float | None


def drift_power(count: int) -> list[DriftPower]:
    """What is found with so many calibration scores, at one false alarm in 100,000 images.

    Simulated with normal scores, half of the shifts upwards and half downwards; far out is 6
    standard deviations. Between the numbers of the table, linear in the logarithm of `count`;
    beyond its last as for that.

    Arguments:
        count: Number of calibration scores, at least 1.

    Example:
        >>> shift, outliers = drift_power(75)
        >>> shift.drift, shift.within, shift.found > 0.8
        ('a shift of half a standard deviation', 2000, True)
    """
    table = _table()
    at, counts = np.log(count), np.log(table["calibration"])
    powers = []
    for name, own in table["drifts"].items():
        found = float(np.interp(at, counts, own["found"]))
        medians = [np.inf if each is None else each for each in own["median"]]
        median = float(np.interp(at, counts, medians))
        known = found >= 0.5 and np.isfinite(median)
        powers.append(DriftPower(name, own["within"], found, median if known else None))
    return powers


def power_in_words(count: int, unit: str = "image") -> str:
    """`drift_power` in a line, of images or what else a detector takes one of.

    Example:
        >>> power_in_words(75)
        'with 75 calibration scores a shift of half a standard deviation is found within 2,000
        images in ... of 100 cases, 10% of images far out within 1,000 images in ... of 100, at one
        false alarm in 100,000 images'
    """
    first, second = drift_power(count)
    every, of_some = _table()["false_alarm_every"], second.drift.replace("images", f"{unit}s")
    return (
        f"with {count:,} calibration scores {first.drift} is found within {first.within:,} {unit}s "
        f"in {_of_100(first)} of 100 cases, {of_some} within {second.within:,} {unit}s in "
        f"{_of_100(second)} of 100, at one false alarm in {every:,} {unit}s"
    )


def _of_100(power: DriftPower) -> int:
    """Rounded down, so that 100 is said of nothing that may fail."""
    return int(100 * power.found)


@functools.cache
def _table() -> Any:
    return json.loads(TABLE.read_text())
