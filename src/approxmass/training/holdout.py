"""Images held out from training, at random under a seed.

What belongs together, copies of an image or images of a group, is a unit, and on one side.
"""

__all__ = ["FEWEST_IMAGES", "FEWEST_UNITS", "Shares", "hold_out", "hold_out_tenth", "three_shares"]

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
# Fewest images that leave enough for calibrating at a false-alarm rate of 5%.
FEWEST_IMAGES, _FEWEST_HELD_OUT = 100, 40
# Of which at most this share is held out, and so the fewest units.
_MOST_HELD_OUT = 0.75
FEWEST_UNITS = 54
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
class Shares:
    """The images of a fit in the order in which they are kept, and where in it each share lies.

    Attributes:
        order: Places of the images in their source, `(N,)`.
        reference: For the in-distribution range of each statistic, one image of a unit.
        calibration: For the p-values, one image of a unit.
        training: To train on; images of a unit are together.
        left_out: For nothing: others of the units held out, and their copies.
        groups: A person has said what belongs together.
        again: The images are too few different ones to keep copies apart: they are taken for
            images that come again and again, and copies of one are on both sides.
    """

    order: Places
    reference: slice
    calibration: slice
    training: slice
    left_out: slice
    groups: bool = False
    again: bool = False

    def straddle(self, copies: Places) -> bool:
        """Whether copies of an image are on both sides, or count more than once as held out.

        Arguments:
            copies: Those of one image have one number, `(N,)`, in the order of the source.
        """
        if self.again:
            return False
        held = copies[self.order[: self.calibration.stop]]
        several = not self.groups and len(np.unique(held)) < len(held)
        return several or bool(np.isin(held, copies[self.order[self.training]]).any())


def three_shares(
    copies: Places, holdout: float, seed: int, name: str, *, groups: Places | None = None
) -> Shares:
    """Who trains, who is for reference, who calibrates.

    A unit is on one side, whatever it is. One image of each that is held out is used, drawn at
    random: so the calibration images are exchangeable with an image, drawn in the same way, of a
    new unit, and the p-value of that is valid, exactly; all of them would count as many times as
    they are, and are not independent (Dunn, Wasserman & Ramdas, 2022, "subsampling once"). Copies
    that are far more than others, such as blank frames, are always trained on: they come again, and
    would then be called outliers by a detector that has seen none.

    Arguments:
        copies: Those of one image have one number, `(N,)`: 0, 1, ...; they are the units.
        holdout: Share of the units held out, of which a quarter is for reference; at least 40.
        seed: Draws them.
        name: What errors call the images.
        groups: The units instead, where a person has said what belongs together, `(N,)`: 0, 1, ...
            Of an image that is held out no copy is then trained on, in whatever group it is.

    Raises:
        ApproxMassError: too few images or groups.

    Example:
        >>> shares = three_shares(np.arange(1000), 0.1, 0, "array")
        >>> shares.reference, shares.calibration, shares.training
        (slice(0, 25, None), slice(25, 100, None), slice(100, 1000, None))
        >>> shares = three_shares(np.arange(1000) // 2, 0.1, 0, "array")  # 500 units, 50 held out
        >>> shares.calibration, shares.training, shares.left_out
        (slice(12, 50, None), slice(50, 950, None), slice(950, 1000, None))
    """
    units = copies if groups is None else groups
    count = len(units)
    if count < FEWEST_IMAGES:
        raise ApproxMassError(
            f"{name} has {count} images: give at least {FEWEST_IMAGES}, so that some can be "
            "held out to calibrate",
            code="too-few",
        )
    often = _often(units) if groups is None else np.zeros(int(units.max()) + 1, bool)
    free = int((~often).sum())
    again = free < FEWEST_UNITS
    if again and groups is not None:
        raise ApproxMassError(
            f"{name} has {free} groups: at least {FEWEST_UNITS} are needed, so that 40 can be held "
            "out to calibrate; give smaller groups, or none",
            code="too-few",
        )
    if again:
        units, often, free = np.arange(count), np.zeros(count, bool), count
    held = max(_FEWEST_HELD_OUT, round(holdout * free))
    if held > _MOST_HELD_OUT * free:
        raise ApproxMassError(
            f"holdout {holdout} leaves too few images: use about 0.1", code="too-few"
        )
    drawn = torch.randperm(len(often), generator=torch.Generator().manual_seed(seed)).numpy()
    rank = np.empty(len(often), np.int64)  # of each unit, those held out first
    rank[np.concatenate([drawn[~often[drawn]], drawn[often[drawn]]])] = np.arange(len(often))
    chosen = _one_of_each(units, seed)
    out = rank[units] < held
    # By unit, and within one by place.
    order = np.lexsort((np.arange(count), rank[units]))
    trains = ~out
    if groups is not None:
        trains &= ~np.isin(copies, copies[out & chosen])
    used, left, training = (
        order[mark[order]] for mark in (out & chosen, ~trains & ~(out & chosen), trains)
    )
    trained = slice(held, held + len(training))
    return Shares(
        np.concatenate([used, training, left]),
        slice(0, held // 4),
        slice(held // 4, held),
        trained,
        slice(trained.stop, count),
        groups=groups is not None,
        again=again,
    )


def _often(units: Places) -> Bools:
    """Which units are far more images than others."""
    sizes = np.bincount(units)
    least = max(_OFTEN * len(units), _TIMES * len(units) / len(sizes))
    often: Bools = sizes > least
    return often


def _one_of_each(units: Places, seed: int) -> Bools:
    """Marks one image of each unit, at random."""
    drawn = torch.randperm(len(units), generator=seeded_generator(seed, "one of each", 0)).numpy()
    _, first = np.unique(units[drawn], return_index=True)
    chosen = np.zeros(len(units), bool)
    chosen[drawn[first]] = True
    return chosen
