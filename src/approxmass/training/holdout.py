"""Images held out from training, at random under a seed."""

__all__ = [
    "FEWEST_IMAGES",
    "Folds",
    "Shares",
    "few_left",
    "hold_out",
    "hold_out_tenth",
    "in_folds",
    "three_shares",
]

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ApproxMassError
from ..runtime.random import seeded_generator

Places = NDArray[np.int64]

_MOST = 1000
# Fewest images that leave enough for calibrating at a false-alarm rate of 5%.
FEWEST_IMAGES, _FEWEST_HELD_OUT = 100, 40
# Fewest images for folds; fewer calibration scores than these are few; the share for reference of
# what is not of a fold, and its bounds: the flow needs the others more.
_FEWEST_IN_FOLDS, _FEW = 30, 100
_REFERENCE, _FEWEST_REFERENCE, _MOST_REFERENCE = 0.1, 5, 10


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


def hold_out_tenth(count: int, seed: int) -> tuple[Places, Places]:
    """Places of the images to train on, and of a tenth (at most 1,000) held out, both sorted.

    Example:
        >>> training, held = hold_out_tenth(30, seed=0)
        >>> len(training), len(held)
        (27, 3)
    """
    held = max(1, min(_MOST, round(0.1 * count)))
    training, rest = hold_out(count, held, seeded_generator(seed, "held out", 0))
    return training.sort().values.numpy(), rest.sort().values.numpy()


@dataclass(frozen=True, eq=False)
class Shares:
    """The images of a fit in the order in which they are kept, and where in it each share lies.

    Attributes:
        order: Places of the images in their source, `(N,)`.
        reference: For the in-distribution range of each statistic.
        calibration: For the p-values.
        training: To train on.
    """

    order: Places
    reference: slice
    calibration: slice
    training: slice


def three_shares(count: int, holdout: float, seed: int, name: str) -> Shares:
    """Who trains, who is for reference, who calibrates.

    Arguments:
        count: Images.
        holdout: Share held out, of which a quarter is for reference; at least 40 images.
        seed: Draws them.
        name: What errors call the images.

    Raises:
        ApproxMassError: too few images.

    Example:
        >>> shares = three_shares(1000, 0.1, 0, "array")
        >>> shares.reference, shares.calibration, shares.training
        (slice(0, 25, None), slice(25, 100, None), slice(100, 1000, None))
    """
    if count < FEWEST_IMAGES:
        raise ApproxMassError(
            f"{name} has {count} images: give at least {FEWEST_IMAGES}, so that some can be "
            "held out to calibrate, or calibrate by folds",
            code="too-few",
        )
    held = _held_out(count, holdout)
    if held > 0.75 * count:
        raise ApproxMassError(
            f"holdout {holdout} leaves too few images: use about 0.1", code="too-few"
        )
    training, rest = hold_out(count, held, torch.Generator().manual_seed(seed))
    order = torch.cat([rest, training]).numpy()
    return Shares(order, slice(0, held // 4), slice(held // 4, held), slice(held, count))


def few_left(count: int, holdout: float) -> bool:
    """Whether so few images would be held out to calibrate that folds serve better.

    Example:
        >>> few_left(1000, 0.1), few_left(2000, 0.1)
        (True, False)
    """
    held = _held_out(count, holdout)
    return held - held // 4 < _FEW


def _held_out(count: int, holdout: float) -> int:
    return max(_FEWEST_HELD_OUT, round(holdout * count))


@dataclass(frozen=True, eq=False)
class Folds:
    """The images of a fit in the order in which they are kept, each in a fold.

    Attributes:
        order: Places of the images in their source, `(N,)`.
        fold: That of each in this order, `(N,)` of 0 to K-1: it calibrates the model of its fold.
        reference: By fold, the rows of other folds for the in-distribution range of its model.
        training: By fold, the rows of other folds that its model is trained on.
    """

    order: Places
    fold: Places
    reference: list[Places]
    training: list[Places]


def in_folds(count: int, folds: int, seed: int, name: str) -> Folds:
    """Who calibrates which of several models, and who trains each.

    Arguments:
        count: Images, at least 30.
        folds: How many.
        seed: Draws them.
        name: What errors call the images.

    Raises:
        ApproxMassError: too few images.

    Example:
        >>> folds = in_folds(100, 4, 0, "array")
        >>> [len(rows) for rows in (folds.training[0], folds.reference[0])], folds.fold[:6]
        ([67, 8], array([0, 1, 2, 3, 0, 1]))
    """
    if count < _FEWEST_IN_FOLDS:
        raise ApproxMassError(
            f"{name} has {count} images: give at least {_FEWEST_IN_FOLDS} (100 or more are better)",
            code="too-few",
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    fold = np.arange(count) % folds
    reference, training = [], []
    for k in range(folds):
        rest = np.flatnonzero(fold != k)
        some = min(_MOST_REFERENCE, max(_FEWEST_REFERENCE, round(_REFERENCE * len(rest))))
        reference.append(rest[:some])
        training.append(rest[some:])
    return Folds(order, fold, reference, training)
