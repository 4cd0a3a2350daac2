"""Images held out from training, at random under a seed."""

__all__ = ["hold_out", "hold_out_tenth"]

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.random import seeded_generator

Places = NDArray[np.int64]

_MOST = 1000


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
