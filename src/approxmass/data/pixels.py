"""8-bit pixels to numbers in [0, 1]."""

__all__ = ["unit_pixels"]

import torch
from torch import Tensor


def unit_pixels(x: Tensor) -> Tensor:
    """Scale uint8 pixels to [0, 1]; what is floating point already is left as it is.

    Example:
        >>> unit_pixels(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    return x.float() / 255 if x.dtype == torch.uint8 else x
