"""A small network with weights of its own, so that tests of what surrounds one are quick."""

import torch
import torch.nn.functional as F
from torch import Tensor

from approxmass.encoders.network import Network

WIDTHS = (4, 6, 5, 7, 9)


class TinyNetwork(Network):
    """Five maps, each at half the resolution of the one before, down to a quarter.

    Attributes:
        seen: Images in each call so far.
    """

    name = "lite0"  # which it stands in for
    widths = WIDTHS
    stride = 8
    side = 32

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.digest = f"tiny {seed}"
        self.seen: list[int] = []
        self.weights = []
        for inputs, outputs in zip((3, *WIDTHS), WIDTHS, strict=False):
            weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
            self.weights.append(weight / (9 * inputs) ** 0.5)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps, between -1 and 1."""
        if x.any():  # not to learn the sizes of the maps
            self.seen.append(len(x))
        y, maps = 4 * (x - 0.5), []
        for i, weight in enumerate(self.weights):
            y = F.conv2d(y, weight.to(y), stride=2 if i < 2 else 1, padding=1).tanh()
            maps.append(y)
        return maps
