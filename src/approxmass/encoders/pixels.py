"""The identity: the flow models the pixels themselves."""

__all__ = ["PixelEncoder"]

import math

import torch
from torch import Tensor

from ..arrays import Shape
from .base import Encoder, UnitOf


class PixelEncoder(Encoder):
    """The identity: the flow models the pixels themselves.

    Arguments:
        shape: `(C, H, W)` of the images.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    @property
    def dimension(self) -> int:
        """Pixels times channels."""
        return math.prod(self.shape)

    @property
    def names(self) -> list[str]:
        """None: a pixel is shown in its place."""
        return []

    def fits(self, shape: Shape) -> bool:
        """Only images of its own shape do."""
        return shape == self.shape

    def fit_transform(
        self,
        views: Tensor,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        units: UnitOf | None = None,
    ) -> Tensor:
        """The images as they are, uint8: the training scales them a batch at a time."""
        return views

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` unchanged, `(N, C, H, W)`."""
        return x

    def extra_repr(self) -> str:
        """For `print`."""
        return f"shape={self.shape}"
