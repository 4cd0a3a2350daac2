"""The multi-scale RealNVP of Kirichenko et al. (2020), the flow of the paper."""

__all__ = ["RealNVP"]

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..arrays import Shape
from ..errors import ApproxMassError
from .couplings import ChannelCoupling, CheckerboardCoupling, squeeze, unsqueeze
from .pixels import Logit, dequantise
from .resnet import Norm

Couplings = Sequence[CheckerboardCoupling | ChannelCoupling]


def _through(couplings: Couplings, y: Tensor, logdet: Tensor) -> tuple[Tensor, Tensor]:
    for coupling in couplings:
        y, change = coupling(y)
        logdet = logdet + change
    return y, logdet


def _back(couplings: Couplings, y: Tensor) -> Tensor:
    for coupling in reversed(couplings):
        y = coupling.inverse(y)
    return y


class _Scale(nn.Module):
    """Checkerboard couplings; unless last, squeeze, channel couplings and factoring out."""

    def __init__(
        self, shape: Shape, *, mid_channels: int, blocks: int, norm: Norm, last: bool
    ) -> None:
        super().__init__()
        checkerboard = [
            CheckerboardCoupling(
                shape, mid_channels=mid_channels, blocks=blocks, norm=norm, reverse=reverse
            )
            for reverse in ((False, True, False, True) if last else (False, True, False))
        ]
        channel = [
            ChannelCoupling(
                4 * shape[0],
                mid_channels=2 * mid_channels,
                blocks=blocks,
                norm=norm,
                reverse=reverse,
            )
            for reverse in (() if last else (False, True, False))
        ]
        self.shape = shape
        self.mid_channels = mid_channels
        self.checkerboard = cast(Couplings, nn.ModuleList(checkerboard))
        self.channel = cast(Couplings, nn.ModuleList(channel))
        self.last = last

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the part that is done, the part that goes on (None at the end) and logdet."""
        y, logdet = _through(self.checkerboard, y, y.new_zeros(y.shape[0]))
        if self.last:
            return y, None, logdet
        y, logdet = _through(self.channel, squeeze(y), logdet)
        kept, done = y.chunk(2, dim=1)
        return done, kept, logdet

    def inverse(self, done: Tensor, kept: Tensor | None) -> Tensor:
        y = done
        if kept is not None:
            y = unsqueeze(_back(self.channel, torch.cat([kept, done], dim=1)))
        return _back(self.checkerboard, y)

    def extra_repr(self) -> str:
        channel = f", {len(self.channel)} channel couplings of width {2 * self.mid_channels}"
        return (
            f"{self.shape}: {len(self.checkerboard)} checkerboard couplings of width "
            f"{self.mid_channels}{'' if self.last else channel}"
        )


class RealNVP(nn.Module):
    """Normalizing flow on images: dequantised pixels `x` in [0, 256/255) to white noise `z`.

    Every scale has three checkerboard couplings, a 2x2 squeeze, three channel-wise couplings and
    factors out half of the channels; the last has four checkerboard couplings. The width doubles
    from scale to scale. The log-density is in nats over pixels scaled to [0, 1].

    Arguments:
        shape: `(C, H, W)`; H and W divisible by `2 ** (scales - 1)`.
        scales: Number of scales.
        blocks: Residual blocks of each coupling's network.
        mid_channels: Width of the networks of the first scale.
        norm: `batch` as published, which ties the images of a batch together in training, or
            `none`.

    Raises:
        ApproxMassError: a shape that cannot be halved at every scale, or an unknown norm.

    Example:
        >>> flow = RealNVP((1, 28, 28), scales=2, blocks=4, mid_channels=64)  # of the paper
        >>> sum(p.numel() for p in flow.parameters())
        9862664
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        scales: int = 2,
        blocks: int = 4,
        mid_channels: int = 64,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        channels, height, width = shape
        step = 2 ** (scales - 1)
        if height % step or width % step:
            raise ApproxMassError(
                f"a RealNVP of {scales} scales needs height and width divisible by {step}, "
                f"not {height}x{width}: resize the images (size={-(-height // step) * step})",
                code="wrong-shape",
            )
        if norm not in ("batch", "none"):
            raise ApproxMassError(
                f"norm must be 'batch' or 'none', not {norm!r}", code="bad-option"
            )
        self.shape: Shape = (channels, height, width)
        self.blocks = blocks
        self.mid_channels = mid_channels
        self.norm = norm
        self.dimension = channels * height * width
        self.logit = Logit()
        built = []
        self.latent_shapes: list[Shape] = []
        for index in range(scales):
            last = index == scales - 1
            here = (channels, height, width)
            wide = mid_channels * 2**index
            built.append(_Scale(here, mid_channels=wide, blocks=blocks, norm=norm, last=last))
            if not last:
                channels, height, width = 2 * channels, height // 2, width // 2
            self.latent_shapes.append((channels, height, width))
        self.scales = cast(Sequence[_Scale], nn.ModuleList(built))
        for parameter in self.parameters():
            if parameter.ndim == 4:  # channels last: the layout in which convolutions are fast
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @classmethod
    def preset(cls, name: str, shape: Sequence[int], *, norm: Norm | None = None) -> "RealNVP":
        """Build a named size.

        Arguments:
            name: `compact` for CPUs, 0.3M weights; or `paper`, 9.9M grey and 66M in colour.
            shape: `(C, H, W)`.
            norm: `batch` or `none`; None for what the size comes with: `none` if compact, so that
                the images of a batch are not tied together, `batch` as published.

        Raises:
            ApproxMassError: an unknown name.
        """
        if name == "compact":
            return cls(shape, scales=2, blocks=2, mid_channels=16, norm=norm or "none")
        if name != "paper":
            raise ApproxMassError(
                f"unknown preset {name!r} for pixels: use 'compact' or 'paper'", code="bad-option"
            )
        scales, blocks = (2, 4) if shape[0] == 1 else (3, 6)
        return cls(shape, scales=scales, blocks=blocks, mid_channels=64, norm=norm or "batch")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(N, C, H, W)` to latents `(N, C*H*W)` and logdet `(N,)` in nats.

        Raises:
            ApproxMassError: images of another shape than the flow was built for.
        """
        if x.shape[1:] != self.shape:
            raise ApproxMassError(
                f"this flow takes images of shape {self.shape}, not {tuple(x.shape[1:])}",
                code="wrong-shape",
            )
        y: Tensor | None
        y, logdet = self.logit(x)
        latents = []
        for scale in self.scales:
            done, y, change = scale(y)
            latents.append(done.flatten(1))
            logdet = logdet + change
        return torch.cat(latents, dim=1), logdet

    def latent_maps(self, z: Tensor) -> list[Tensor]:
        """Cut latents `(N, C*H*W)` into the factored-out maps `(N, c, h, w)`, finest first."""
        parts = torch.split(z, [math.prod(shape) for shape in self.latent_shapes], dim=1)
        return [p.reshape(-1, *shape) for p, shape in zip(parts, self.latent_shapes, strict=True)]

    def inverse(self, z: Tensor) -> Tensor:
        """The dequantised images `(N, C, H, W)` of latents `(N, C*H*W)`."""
        *finer, y = self.latent_maps(z)
        y = self.scales[-1].inverse(y, None)
        for scale, done in zip(reversed(self.scales[:-1]), reversed(finer), strict=True):
            y = scale.inverse(done, y)
        image: Tensor = self.logit.inverse(y)
        return image

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density `(N,)` in nats of dequantised images `(N, C, H, W)`; deterministic."""
        z, logdet = self(x)
        log_p: Tensor = self.latent_log_prob(z) + logdet
        return log_p

    def latent_log_prob(self, z: Tensor) -> Tensor:
        """Log-density `(N,)` in nats of latents `(N, D)` under the standard normal prior."""
        return -0.5 * (z.square().sum(1) + self.dimension * math.log(2 * math.pi))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` images `(n, C, H, W)` in [0, 1]."""
        device = next(self.parameters()).device
        z = torch.randn(n, self.dimension, generator=generator, device=device)
        return self.inverse(z).clamp(0, 1)

    def perturb(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Training noise: `dequantise`."""
        return dequantise(x, generator)

    def __repr__(self) -> str:
        """A line of what it is and one a scale; `print(flow.scales)` shows all the layers."""
        weights = sum(p.numel() for p in self.parameters())
        return "\n".join(
            [
                f"RealNVP(shape={self.shape}, dimension={self.dimension}, weights={weights:,}",
                f"  scales={len(self.scales)}, blocks={self.blocks}, "
                f"mid_channels={self.mid_channels}, norm={self.norm}",
                *(f"  {scale.extra_repr()}" for scale in self.scales),
                ")",
            ]
        )
