"""Images held out from training, at random under a seed.

What belongs together, copies of an image or images of a group, is a unit, and on one side.
"""

__all__ = [
    "FEWEST_ROWS",
    "FEWEST_UNITS",
    "FEWEST_WHOLE",
    "Shares",
    "Units",
    "few_left",
    "hold_out",
    "hold_out_tenth",
    "straddle",
    "three_shares",
]

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arrays import Bools
from ..errors import ApproxMassError
from ..runtime.random import seeded_generator

Places = NDArray[np.int64]

_MOST = 1000
# Fewest units of which some can be held out to calibrate at a false-alarm rate of 5%, fewest of
# these, and fewest for folds.
FEWEST_WHOLE, _FEWEST_HELD_OUT, FEWEST_UNITS = 100, 40, 30
# The same of rows of numbers.
FEWEST_ROWS = 10
# Fewer calibration scores than these are few.
_FEW = 100
# Fewest units of which a baseline can hold some out.
_FEWEST_TENTH = 10
# A copy of an image is always trained on if it is more than this share of all, and so many times
# more than its share among different ones.
_OFTEN, _TIMES = 0.01, 10


def hold_out(count: int, held: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of the images to train on, and of those held out, in the order of their draw.

    Arguments:
        count: Images.
        held: How many of them are held out.
        generator: Draws them.

    Example:
        >>> training, held = hold_out(4, 1, torch.Generator().manual_seed(0))
        >>> sorted([*training.tolist(), *held.tolist()]), len(held)
        ([0, 1, 2, 3], 1)
    """
    order = torch.randperm(count, generator=generator)
    return order[held:], order[:held]


def hold_out_tenth(units: Places, seed: int) -> tuple[Places, Places]:
    """Places of the images to train on, and of those held out, both sorted.

    Held out is a tenth of the units, at most 1,000; of fewer than ten, of the images.

    Arguments:
        units: Of each image, `(N,)`: 0, 1, ...
        seed: Draws them.

    Example:
        >>> training, held = hold_out_tenth(np.arange(30), seed=0)
        >>> len(training), len(held)
        (27, 3)
        >>> training, held = hold_out_tenth(np.arange(30) // 3, seed=0)  # ten units of three
        >>> len(held), len(set(held // 3))
        (3, 1)
    """
    count = int(units.max()) + 1
    if count < _FEWEST_TENTH:
        count, units = len(units), np.arange(len(units))
    held = max(1, min(_MOST, round(0.1 * count)))
    _, rest = hold_out(count, held, seeded_generator(seed, "held out", 0))
    out = np.isin(units, rest.numpy())
    return np.flatnonzero(~out), np.flatnonzero(out)


@dataclass(frozen=True, eq=False)
class Units:
    """What belongs together among the images of a fit.

    Copies that are far more than others, such as blank frames, are never held out: they come again,
    and would then be called outliers by a detector that has seen none.

    Attributes:
        of: The unit of each image, `(N,)`: 0, 1, ...
        copies: Those of one image have one number, `(N,)`.
        free: Which units may be held out.
        grouped: A person has said what belongs together.
        again: The images are too few different ones to keep copies apart: they are taken for
            images that come again and again, each is a unit, and copies are on both sides.
        each: What one of the images is, in words: an image, or a row.
    """

    of: Places
    copies: Places
    free: Bools
    grouped: bool = False
    again: bool = False
    each: str = "image"

    @classmethod
    def among(
        cls,
        copies: Places,
        groups: Places | None,
        name: str,
        fewest: int = FEWEST_UNITS,
        each: str = "image",
    ) -> "Units":
        """The groups where there are some, else copies, where enough of these differ.

        Arguments:
            copies: Those of one image have one number, `(N,)`: 0, 1, ...
            groups: What a person has said belongs together, `(N,)`: 0, 1, ...
            name: What errors call the images.
            fewest: Images or groups that there must be.
            each: See the class.

        Raises:
            ApproxMassError: there are fewer.
        """
        of = copies if groups is None else groups
        if len(of) < fewest:
            raise ApproxMassError(
                f"{name} has {len(of)} {each}s: give at least {fewest} (100 or more are better)",
                code="too-few",
            )
        count = int(of.max()) + 1
        free = ~_often(of) if groups is None else np.ones(count, bool)
        if free.sum() >= fewest:
            return cls(of, copies, free, grouped=groups is not None, each=each)
        if groups is not None:
            raise ApproxMassError(
                f"{name} has {count} groups: give at least {fewest}, smaller ones, or none",
                code="too-few",
            )
        return cls(np.arange(len(of)), copies, np.ones(len(of), bool), again=True, each=each)

    @property
    def count(self) -> int:
        """Units that may be held out."""
        return int(self.free.sum())

    @property
    def said(self) -> str:
        """What they are, and how many."""
        if self.grouped:
            return f"{self.count} groups"
        different = " different" if len(self.free) < len(self.of) else ""
        return f"{self.count}{different} {self.each}s"

    def ranked(self, seed: int) -> Places:
        """The rank of each unit in the order of a draw, those that may be held out first."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(self.free), generator=generator).numpy()
        rank = np.empty(len(drawn), np.int64)
        rank[np.concatenate([drawn[self.free[drawn]], drawn[~self.free[drawn]]])] = np.arange(
            len(drawn)
        )
        return rank

    def one_of_each(self, seed: int) -> Bools:
        """Marks one image of each unit, at random."""
        generator = seeded_generator(seed, "one of each", 0)
        drawn = torch.randperm(len(self.of), generator=generator).numpy()
        _, first = np.unique(self.of[drawn], return_index=True)
        chosen = np.zeros(len(self.of), bool)
        chosen[drawn[first]] = True
        return chosen

    def copied(self, rows: Bools, among: Bools) -> Bools:
        """Which of all images are copies of one of `rows`; none where copies are not apart."""
        if self.again:
            return np.zeros(len(rows), bool)
        found: Bools = among & np.isin(self.copies, self.copies[rows])
        return found


def _often(units: Places) -> Bools:
    """Which units are far more images than others."""
    sizes = np.bincount(units)
    least = max(_OFTEN * len(units), _TIMES * len(units) / len(sizes))
    often: Bools = sizes > least
    return often


def straddle(parts: Iterable[tuple[Places, Places]], copies: Places) -> bool:
    """Whether copies of an image are on both sides of a split.

    Arguments:
        parts: Places of images that are held out, and of those that are then trained on.
        copies: Those of one image have one number, `(N,)`.
    """
    return any(bool(np.isin(copies[held], copies[trained]).any()) for held, trained in parts)


@dataclass(frozen=True, eq=False)
class Shares:
    """The images of a fit in the order in which they are kept, and where in it each share lies.

    Attributes:
        units: What belongs together, and is on one side.
        order: Places of the images in their source, `(N,)`.
        reference: For the in-distribution range of each statistic, one image of a unit.
        calibration: For the p-values, one image of a unit.
        training: To train on; images of a unit are together.
    """

    units: Units
    order: Places
    reference: slice
    calibration: slice
    training: slice

    def sides(self) -> list[tuple[Places, Places]]:
        """Places held out, and of those then trained on."""
        return [(self.order[: self.calibration.stop], self.order[self.training])]


def three_shares(units: Units, holdout: float, seed: int, name: str) -> Shares:
    """Who trains, who is for reference, who calibrates.

    A unit is on one side, whatever it is. One image of each that is held out is used, drawn at
    random: so the calibration images are exchangeable with an image, drawn in the same way, of a
    new unit, and the p-value of that is valid, exactly; all of them would count as many times as
    they are, and are not independent (Dunn, Wasserman & Ramdas, 2022, "subsampling once"). The
    others of such a unit, and copies of those used, are left out.

    Arguments:
        units: What belongs together.
        holdout: Share of the units held out, of which a quarter is for reference; at least 40.
        seed: Draws them.
        name: What errors call the images.

    Raises:
        ApproxMassError: too few units.

    Example:
        >>> def shares(copies):
        ...     return three_shares(Units.among(copies, None, "array"), 0.1, 0, "array")
        >>> found = shares(np.arange(1000))
        >>> found.reference, found.calibration, found.training
        (slice(0, 25, None), slice(25, 100, None), slice(100, 1000, None))
        >>> found = shares(np.arange(1000) // 2)  # 500 units, 50 held out
        >>> found.calibration, found.training
        (slice(12, 50, None), slice(50, 950, None))
    """
    if units.count < FEWEST_WHOLE:
        raise ApproxMassError(
            f"{name} has {units.said}: give at least {FEWEST_WHOLE}, so that some can be "
            "held out to calibrate, or calibrate by folds",
            code="too-few",
        )
    held = _held_out(units.count, holdout)
    if held > 0.75 * units.count:
        raise ApproxMassError(
            f"holdout {holdout} leaves too few {units.each}s: use about 0.1", code="too-few"
        )
    rank = units.ranked(seed)[units.of]
    out = rank < held
    used = out & units.one_of_each(seed)
    trains = ~out & ~units.copied(used, ~out)
    by_unit = np.lexsort((np.arange(len(rank)), rank))
    order = np.concatenate([by_unit[mark[by_unit]] for mark in (used, trains, ~used & ~trains)])
    training = slice(held, held + int(trains.sum()))
    return Shares(units, order, slice(0, held // 4), slice(held // 4, held), training)


def few_left(count: int, holdout: float) -> bool:
    """Whether so few units would be held out to calibrate that folds serve better.

    Example:
        >>> few_left(1000, 0.1), few_left(2000, 0.1)
        (True, False)
    """
    held = _held_out(count, holdout)
    return held - held // 4 < _FEW


def _held_out(count: int, holdout: float) -> int:
    return max(_FEWEST_HELD_OUT, round(holdout * count))
