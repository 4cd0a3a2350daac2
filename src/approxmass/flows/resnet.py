"""The network inside a coupling of the image flow: a residual net with skip connections."""

__all__ = ["Norm", "ResNet"]

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .batchnorm import BatchNorm2d
from .layers import conv2d

Norm = Literal["batch", "none"]


def _norm(kind: Norm, channels: int) -> nn.Module:
    return BatchNorm2d(channels) if kind == "batch" else nn.Identity()


class _Conv(nn.Conv2d):
    """Convolution that keeps the size, of the rectified input if `relu`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, relu: bool, bias: bool) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, relu=self.relu)


def _conv(
    inputs: int, outputs: int, kernel: int, *, relu: bool = True, bias: bool = True
) -> nn.Module:
    normed: nn.Module = weight_norm(_Conv(inputs, outputs, kernel, relu=relu, bias=bias))
    return normed


class _Block(nn.Module):
    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.channels, self.norm = channels, norm
        self.norm1 = _norm(norm, channels)
        self.conv1 = _conv(channels, channels, 3, bias=False)
        self.norm2 = _norm(norm, channels)
        self.conv2 = _conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(self.norm1(x))
        out: Tensor = self.conv2(self.norm2(hidden)).add_(x)
        return out

    def extra_repr(self) -> str:
        return f"channels={self.channels}, norm={self.norm}"


class ResNet(nn.Module):
    """Residual network `(N, C, H, W) -> (N, outputs, H, W)` as in Kirichenko et al. (2020).

    Input norm, `relu([x, -x])`, weight-normalised convolutions, `blocks` pre-activation residual
    blocks; 1x1 convolutions of the stem and of every block are summed into the output head.

    With `norm="none"` the head starts at zero, so that the coupling starts as the identity:
    nothing else would keep the activations in range at the start.

    Arguments:
        inputs: Channels C of the input.
        outputs: Channels of the output.
        mid_channels: Width.
        blocks: Number of residual blocks.
        norm: `batch` (BatchNorm) or `none`.
        half_empty: Half of the input is masked to zero: double it after BatchNorm.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        mid_channels: int,
        blocks: int,
        norm: Norm = "batch",
        half_empty: bool = False,
    ) -> None:
        super().__init__()
        self.described = (
            f"inputs={inputs}, outputs={outputs}, mid_channels={mid_channels}, blocks={blocks}, "
            f"norm={norm}"
        )
        self.gain = 2.0 if half_empty and norm == "batch" else 1.0
        self.norm_in = _norm(norm, inputs)
        self.stem = _conv(2 * inputs, mid_channels, 3)
        self.blocks = nn.ModuleList(_Block(mid_channels, norm) for _ in range(blocks))
        self.skips = nn.ModuleList(
            _conv(mid_channels, mid_channels, 1, relu=False) for _ in range(blocks + 1)
        )
        self.norm_out = _norm(norm, mid_channels)
        self.head = _conv(mid_channels, outputs, 1)
        if norm == "none":
            # The gain of the weight norm: zero gain is a zero weight that still gets a gradient.
            nn.init.zeros_(self.head.get_parameter("parametrizations.weight.original0"))
            nn.init.zeros_(self.head.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, inputs, H, W)` to `(N, outputs, H, W)`."""
        x = self.norm_in(x)
        x = x * self.gain if self.gain != 1 else x
        x = self.stem(torch.cat([x, -x], dim=1))
        total = self.skips[0](x)
        for block, skip in zip(self.blocks, self.skips[1:], strict=True):
            x = block(x)
            total = skip(x).add_(total)
        out: Tensor = self.head(self.norm_out(total))
        return out

    def extra_repr(self) -> str:
        """Its arguments, for `print`."""
        return self.described
