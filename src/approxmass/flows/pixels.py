"""From 8-bit pixels to the real line: dequantisation noise and the logit transform."""

__all__ = ["PIXEL_MAX", "Logit", "bits_per_dim", "dequantise"]

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A dequantised pixel (255 x + u) / 255 with u in [0, 1) lies in [0, 256/255).
PIXEL_MAX = 256 / 255


def dequantise(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Add uniform noise of one grey level: `x + u / 255`, `u ~ U[0, 1)`, so that x has a density.

    Arguments:
        x: Pixels on the 8-bit grid, scaled to [0, 1], any shape.
        generator: Source of the noise.

    Example:
        >>> dequantise(torch.zeros(2), torch.Generator().manual_seed(0)) * 255
        tensor([0.4963, 0.7682])
    """
    noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + noise / 255


Nats = TypeVar("Nats", float, Tensor)


def bits_per_dim(log_prob: Nats, dimension: int) -> Nats:
    """Bits per pixel channel from `log p` in nats over dequantised pixels in [0, 256/255).

    The uniform density over the 256 grey levels has exactly 8 bits.

    Example:
        >>> round(bits_per_dim(-784 * math.log(PIXEL_MAX), 784), 4)
        8.0
    """
    return (math.log(255) - log_prob / dimension) / math.log(2)


class Logit(nn.Module):
    """`y = logit(c + (1 - 2c) z)` with `z = 255/256 x` in [0, 1) and `c = 0.05` (Dinh et al.).

    Example:
        >>> y, logdet = Logit()(torch.tensor([[0.0, 0.5]]))
        >>> Logit().inverse(y)
        tensor([[0.0000, 0.5000]])
    """

    margin = 0.05

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map dequantised pixels `(N, ...)` to `(y, logdet)`, shapes `(N, ...)` and `(N,)`."""
        slope = (1 - 2 * self.margin) / PIXEL_MAX
        y = torch.logit(self.margin + slope * x)
        logdet = F.softplus(y) + F.softplus(-y) + math.log(slope)
        return y, logdet.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """Pixels whose logit is `y`; outside [0, 256/255) where `y` is beyond the margin."""
        return (torch.sigmoid(y) - self.margin) * PIXEL_MAX / (1 - 2 * self.margin)
