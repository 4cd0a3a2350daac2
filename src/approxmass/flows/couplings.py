"""Affine couplings of the image flow, and the squeeze between its scales (Dinh et al., 2017)."""

__all__ = ["ChannelCoupling", "CheckerboardCoupling", "squeeze", "unsqueeze"]

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ..arrays import Shape
from .resnet import Norm, ResNet


class _ChannelGain(nn.Module):
    """One weight-normalised factor a channel, starting at 1: the bound of the log-scale."""

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class _AffineCoupling(nn.Module, ABC):
    """`y = (x + t) exp(s)` on one part of the input, with `s, t` from the other part."""

    def __init__(self, net: ResNet, channels: int) -> None:
        super().__init__()
        self.net = net
        self.gain = weight_norm(_ChannelGain(channels))

    def log_scale_and_shift(
        self, given: Tensor, where: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The bounded log-scale `s = gain * tanh(.)` and the shift `t` from the given part.

        Both are 0 where `where` is 0.
        """
        # Back to precision and layout of the input: under autocast the network answers in bfloat16,
        # and its channels-last halves would be strided.
        answer = self.net(given).to(given.dtype, memory_format=torch.contiguous_format)
        raw, t = (answer if where is None else answer * where).chunk(2, dim=1)
        return self.gain(torch.tanh(raw)), t

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(N, C, H, W)` to `(y, logdet)`, shapes `(N, C, H, W)` and `(N,)`."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """The `x` whose forward image is `y`."""


class CheckerboardCoupling(_AffineCoupling):
    """Change the pixels of one colour of a checkerboard, given those of the other.

    Arguments:
        shape: `(C, H, W)` of the input.
        mid_channels: Width of the network.
        blocks: Residual blocks of the network.
        norm: Norm layer of the network.
        reverse: Change the pixels with odd `row + column` is False, the even ones True.
    """

    mask: Tensor
    change: Tensor

    def __init__(
        self, shape: Shape, *, mid_channels: int, blocks: int, norm: Norm, reverse: bool
    ) -> None:
        channels, height, width = shape
        net = ResNet(
            channels,
            2 * channels,
            mid_channels=mid_channels,
            blocks=blocks,
            norm=norm,
            half_empty=True,
        )
        super().__init__(net, channels)
        self.shape = shape
        self.reverse = reverse
        parity = (torch.arange(height)[:, None] + torch.arange(width)) % 2
        keep = parity == (0 if reverse else 1)
        # Not part of the weights: they follow from the shape.
        self.register_buffer("mask", keep.float()[None, None], persistent=False)
        self.register_buffer("change", (~keep).float()[None, None], persistent=False)

    def _masked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_scale_and_shift(x * self.mask, self.change)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(N, C, H, W)` to `(y, logdet)`, shapes `(N, C, H, W)` and `(N,)`."""
        s, t = self._masked(x)
        return (x + t) * s.exp(), s.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """The `x` whose forward image is `y`."""
        s, t = self._masked(y)  # the part that s and t depend on is the same in x and y
        return y * (-s).exp() - t

    def extra_repr(self) -> str:
        """Shape, and which colour of the checkerboard changes, for `print`."""
        return f"shape={self.shape}, reverse={self.reverse}"


class ChannelCoupling(_AffineCoupling):
    """Change one half of the channels given the other half.

    Arguments:
        channels: Number of channels C, even.
        mid_channels: Width of the network.
        blocks: Residual blocks of the network.
        norm: Norm layer of the network.
        reverse: Change the first half if False, the second half if True.
    """

    def __init__(
        self, channels: int, *, mid_channels: int, blocks: int, norm: Norm, reverse: bool
    ) -> None:
        half = channels // 2
        net = ResNet(half, 2 * half, mid_channels=mid_channels, blocks=blocks, norm=norm)
        super().__init__(net, half)
        self.channels = channels
        self.reverse = reverse

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, dim=1)
        return (second, first) if self.reverse else (first, second)

    def _join(self, change: Tensor, given: Tensor) -> Tensor:
        return torch.cat([given, change] if self.reverse else [change, given], dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(N, C, H, W)` to `(y, logdet)`, shapes `(N, C, H, W)` and `(N,)`."""
        change, given = self._split(x)
        s, t = self.log_scale_and_shift(given)
        return self._join((change + t) * s.exp(), given), s.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """The `x` whose forward image is `y`."""
        change, given = self._split(y)
        s, t = self.log_scale_and_shift(given)
        return self._join(change * (-s).exp() - t, given)

    def extra_repr(self) -> str:
        """Channels, and which half of them changes, for `print`."""
        return f"channels={self.channels}, reverse={self.reverse}"


# Order of the four pixels of a 2x2 cell: the diagonal first, so that each half of the squeezed
# channels is one colour of the checkerboard and holds every input channel.
_CELL = ((0, 0), (1, 1), (0, 1), (1, 0))


def squeeze(x: Tensor) -> Tensor:
    """Trade space for channels: `(N, C, H, W) -> (N, 4C, H/2, W/2)`; H and W even.

    Example:
        >>> squeeze(torch.tensor([[[[1, 2], [3, 4]]]])).flatten().tolist()
        [1, 4, 2, 3]
    """
    return torch.cat([x[:, :, i::2, j::2] for i, j in _CELL], dim=1)


def unsqueeze(x: Tensor) -> Tensor:
    """Inverse of `squeeze`: `(N, 4C, H, W) -> (N, C, 2H, 2W)`."""
    n, c, h, w = x.shape
    out = x.new_empty(n, c // 4, 2 * h, 2 * w)
    for (i, j), part in zip(_CELL, x.chunk(4, dim=1), strict=True):
        out[:, :, i::2, j::2] = part
    return out
