"""The patch level: one density over what is seen at the places of images."""

__all__ = ["MAPPED", "PARTS", "Parts", "highest"]

import contextlib
import math
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from ..encoders import PooledEncoder
from ..encoders.base import UnitOf
from ..encoders.patches import PatchEncoder, Patches
from ..flows import VectorFlow
from ..runtime.batches import fixed_batches
from ..training import recipes
from ..training.checkpoint import second_of
from ..training.flow import train
from .bar import FlowBar
from .base import FitRun
from .kinds import Alpha
from .statistics import capped, nll_and_mass

# Its statistics, of a place; those of an image are the mean of its highest share of places.
PARTS = ("patch_nll", "patch_mass", "patch_residual")
_HIGHEST = 0.05
# The one that a map shows.
MAPPED = "patch_nll"
# Patches that go through the flow together, no more and no less, as the arithmetic wants.
_TOGETHER = 4096


class Parts(nn.Module):
    """From patches of images to a statistic of every place, and of every image.

    Arguments:
        code: From patches to codes.
        flow: Over the codes.

    Example:
        >>> flow = VectorFlow("identity", 4)
        >>> parts = Parts(PatchEncoder([4], 6), flow.requires_grad_(False))
        >>> values = torch.randn(50, 6, 4, generator=torch.Generator().manual_seed(0))
        >>> patches = Patches(values, torch.arange(6).expand(50, 6))
        >>> codes = parts.code.fit_transform(patches)
        >>> {name: tuple(each.shape) for name, each in parts.maps(patches).items()}
        {'patch_nll': (50, 6), 'patch_mass': (50, 6), 'patch_residual': (50, 6)}
    """

    def __init__(self, code: PatchEncoder, flow: VectorFlow) -> None:
        super().__init__()
        self.code = code
        self.flow = flow

    @classmethod
    def of(cls, encoder: PooledEncoder, *, seed: int, alpha: Alpha) -> Self:
        """The patch level of an encoder that has parts, nothing learnt.

        Arguments:
            encoder: Says which patches there are.
            seed: Fixes the initial weights.
            alpha: Weight of the mass that it is to be trained with.
        """
        code = PatchEncoder(encoder.widths, math.prod(encoder.grid))
        jitter = recipes.patch_noise(alpha)
        return cls(code, VectorFlow("patches", code.dimension, seed=seed, jitter=jitter))

    def learn(
        self,
        patches: Patches,
        fingerprint: str,
        run: FitRun,
        *,
        seed: int,
        alpha: Alpha,
        units: UnitOf | None = None,
    ) -> None:
        """Learn the codes and train the flow.

        Arguments:
            patches: Of training images.
            fingerprint: Of these images, for the checkpoint.
            run: How; the state of the training is kept beside the checkpoint.
            seed: Fixes what is drawn.
            alpha: Weight of the mass, or `auto`.
            units: Of the images: those of one belong together; None for each by itself.

        Raises:
            ApproxMassError: as `train`.
        """
        codes = self.code.fit_transform(patches, seed=seed, units=units)
        training = replace(recipes.for_patches(len(codes), codes.shape[1]), seed=seed)
        if alpha != "auto":
            training = replace(training, alpha=alpha)
        bar = FlowBar() if run.progress else None
        with bar or contextlib.nullcontext():
            if bar is not None:
                bar.remark(
                    f"parts: {len(codes):,} patches of {codes.shape[1]} dimensions; alpha "
                    f"{training.alpha:.3g}, {training.epochs} epochs"
                )
            train(
                self.flow,
                codes,
                training,
                checkpoint=None if run.checkpoint is None else second_of(run.checkpoint),
                resume=run.resume,
                fingerprint=fingerprint,
                on_step=bar,
                device=run.device,
            )
        self.code.to(run.device)

    def maps(self, patches: Patches) -> dict[str, Tensor]:
        """Each of `PARTS` at every place `(N, k)`, float64; minus infinity outside of an image."""
        outside = patches.places < 0
        centered = self.code.centered(patches)
        nll, mass = self.densities(self.code.codes(centered).flatten(0, 1))
        residual = capped(self.code.residual(centered).double())
        nll = capped(nll.view_as(residual) - self.code.logdet)
        found = (nll, mass.view_as(residual), residual)
        return {
            name: values.masked_fill(outside, -torch.inf)
            for name, values in zip(PARTS, found, strict=True)
        }

    def forward(self, patches: Patches, seen: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Each of `PARTS` of every image `(N,)`: see `highest`; the one mapped goes to `seen`."""
        maps = self.maps(patches)
        if seen is not None:
            seen.append(maps[MAPPED])
        return {name: highest(values) for name, values in maps.items()}

    @torch.no_grad()
    def densities(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """NLL and mass `(N,)`, float64, of codes `(N, dimension)`."""
        found = []
        for some, count in fixed_batches(codes, _TOGETHER):
            nll, mass = nll_and_mass(self.flow, some)
            found.append((nll[:count], mass[:count]))
        nll, mass = (torch.cat(each) for each in zip(*found, strict=True))
        return nll, mass


def highest(values: Tensor) -> Tensor:
    """The mean of the highest twentieth of each row `(N, k)`, of what is not minus infinity.

    Example:
        >>> highest(torch.tensor([[1.0, 3.0, 2.0, -torch.inf]]))
        tensor([3.])
    """
    known = values > -torch.inf
    counts = (_HIGHEST * known.sum(1)).round().long().clamp_min(1)
    ordered = values.sort(1, descending=True).values
    ordered = ordered.masked_fill(~(ordered > -torch.inf), 0)
    sums: Tensor = ordered.cumsum(1).gather(1, counts[:, None] - 1)[:, 0]
    return sums / counts
