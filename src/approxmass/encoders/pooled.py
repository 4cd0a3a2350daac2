"""What the maps of a frozen network hold of an image, whitened in all dimensions."""

__all__ = ["PooledEncoder"]

import hashlib
import math
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from ..arrays import Shape
from ..data.copies import among, folds_of, times_of
from ..data.frame import Box
from ..data.pixels import unit_pixels
from ..data.region import Region, inside_of
from ..errors import ApproxMassError
from ..runtime.random import seeded_generator
from .base import Encoder, UnitOf, through
from .ledoit_wolf import shrunk_covariance, symmetric_root, unit
from .network import Network
from .patches import Patches, patch_maps, patch_widths

# Images that go through the network together, no more and no less: so the arithmetic of each is
# the same whatever it comes with, and what a layer makes of a few stays in the processor's cache.
_TOGETHER = 4
# Goes up with every change of what a view is, here or in a network: kept views and saved
# detectors are then not of today's.
_POOLING = 2
# Of a map without variance over an image.
_FLOOR = 1e-12
# The whitening sees at most this many numbers, of images drawn at random.
_NUMBERS = 2**22
_FOLDS = 5
# Patches that a fit keeps.
_PATCHES = 2**16


class PooledEncoder(Encoder):
    """Means and deviations of the maps of a network over the image, normalised and whitened.

    A view is the mean of each map and the standard deviation of the two before the last. Each of
    these is divided by its length, which takes out contrast and keeps what there is beside what;
    all but the mean of the last map are then made uncorrelated by the symmetric inverse root of
    their covariance, shrunk by Ledoit and Wolf, which few images can bear in all dimensions. So
    the squared length of a code is a squared Mahalanobis distance. The mean of the last map is
    the `summary`, in which distances tell meaning.

    With its parts, a view goes on with what is seen at every place: see `patches`.

    Arguments:
        network: It is not part of the state: its name and digest are saved.
        parts_of: `(C, H, W)` of the images, to keep what is seen at every place; None for none.
        region: Places without a pixel of it are outside; None for none.

    Attributes:
        input: Height and width of the images, with parts.
        widths: Channels of the maps behind the patches; none without parts.
        grid: Rows and columns of places.
    """

    center: Tensor
    whitening: Tensor

    def __init__(
        self, network: Network, *, parts_of: Shape | None = None, region: Region | None = None
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        *widths, summary = network.widths
        self.pools = (*widths, *widths[-2:], summary)
        self.region = region
        self.input = (0, 0)
        self.widths: list[int] = []
        self.grid = (0, 0)
        if parts_of is not None:
            self.input = parts_of[1:]
            self.widths, self.grid = patch_widths(network, self.input)
        for name in ("center", "whitening"):
            self.register_buffer(name, torch.empty(0))

    @property
    def dimension(self) -> int:
        """Numbers of a view without the summary; 928 for lite0."""
        return sum(self.pools[:-1])

    @property
    def names(self) -> list[str]:
        """None: a number of a code mixes all channels."""
        return []

    @property
    def at_once(self) -> int:
        """Four, of which the activations of all layers are held."""
        return _TOGETHER

    def fits(self, shape: Shape) -> bool:
        """Grey or colour, of a size that the network takes."""
        side, stride = self.dimension, self.network.stride
        learnt = [value.shape for value in (self.center, self.whitening)] == [(side,), (side, side)]
        return learnt and shape[0] in (1, 3) and not any(of % stride for of in shape[1:])

    def view(self, images: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
        """Pooled maps `(N, D)` of images `(N, C, H, W)`, uint8 or in [0, 1], on the CPU.

        With parts, what is seen at each place goes on after them, and then the places.
        """
        rows = through(
            self._seen, images, device=self.center.device, size=_TOGETHER, apart=self.network.apart
        )
        if not self.widths:
            return rows
        where = boxes or [Box(0, 0, *self.input)] * len(rows)
        known = [inside_of(box, self.input, self.grid, self.region).ravel() for box in where]
        inside = np.array(known, bool).reshape(len(rows), math.prod(self.grid))
        return self._with_places(rows, torch.from_numpy(inside))

    def view_at_once(self, images: Tensor, inside: Tensor | None = None) -> Tensor:
        """As `view`, of all images together; see `Encoder.view_at_once`."""
        rows = self._seen(unit_pixels(images))
        return rows if inside is None else self._with_places(rows, inside)

    def _with_places(self, rows: Tensor, inside: Tensor) -> Tensor:
        everywhere = torch.arange(math.prod(self.grid)).float()
        return torch.cat([rows, torch.where(inside, everywhere, -1.0)], 1)

    def patches(self, views: Tensor) -> Patches:
        """What is seen at the places of images, of their views."""
        rest = views[:, sum(self.pools) :]
        count = rest.shape[1] // (sum(self.widths) + 1)
        values, places = torch.split(rest, [rest.shape[1] - count, count], dim=1)
        return Patches(values.reshape(views.shape[0], count, -1), places.long())

    def kept(self, views: Tensor, places: Sequence[int], count: int, seed: int) -> Tensor:
        """All pooled maps, and some patches of each image, drawn by its place in the fit.

        Of `count` images together some 65,536 patches are kept, of each at least one.
        """
        if not self.widths:
            return views
        values, where = self.patches(views)
        most = min(where.shape[1], max(1, _PATCHES // count))
        drawn = torch.stack(
            [
                torch.rand(where.shape[1], generator=seeded_generator(seed, "patches", place))
                for place in places
            ]
        )
        # Those outside of the image come last.
        order = (drawn + (where < 0)).argsort(1)[:, :most]
        values = values.gather(1, order[:, :, None].expand(-1, -1, values.shape[2]))
        pooled = views[:, : sum(self.pools)]
        return torch.cat([pooled, values.flatten(1), where.gather(1, order).float()], 1)

    @property
    def view_digest(self) -> str:
        """Of the network, of how its maps are pooled and, with parts, of the region."""
        parts = " with parts" if self.widths else ""
        if self.widths and self.region is not None:
            parts += f" of {self.region.text}"
        return hashlib.sha256(f"{self.network.digest} {_POOLING}{parts}".encode()).hexdigest()

    def _seen(self, x: Tensor) -> Tensor:
        """A view without the places `(N, ...)` of pixels `(N, C, H, W)` in [0, 1]; grey is RGB."""
        x = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        # On a GPU in float32, as here; these flags are the whole process's.
        exact = torch.backends.cudnn.flags(allow_tf32=False) if x.is_cuda else nullcontext()
        with exact:
            maps = [each.float() for each in self.network(x)]
        rows = self._pooled(maps)
        if not self.widths:
            return rows
        patches = torch.cat(patch_maps(maps, self.input), 1)
        return torch.cat([rows, patches.flatten(2).transpose(1, 2).flatten(1)], 1)

    def _pooled(self, maps: list[Tensor]) -> Tensor:
        means = [each.mean((2, 3)) for each in maps]
        centered = [
            each - mean[:, :, None, None]
            for each, mean in zip(maps[-3:-1], means[-3:-1], strict=True)
        ]
        deviations = [(each.square().mean((2, 3)) + _FLOOR).sqrt() for each in centered]
        return torch.cat([*means[:-1], *deviations, means[-1]], 1)

    @torch.no_grad()
    def fit_transform(
        self,
        views: Tensor,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        units: UnitOf | None = None,
    ) -> Tensor:
        """Learn mean and covariance; returns codes `(N, dimension)` as new images have them.

        The code of each image is by a whitening that has not seen it, nor its unit (five folds):
        with few images their own codes would be shorter than those of any other.

        Raises:
            ApproxMassError: fewer than ten images, or images that do not differ.
        """
        if len(views) < 10:
            raise ApproxMassError(
                f"whitening needs at least 10 images, not {len(views)}", code="too-few"
            )
        parts = self._normalised(views)
        if bool((parts == parts[0]).all()):
            raise ApproxMassError(
                "all images are the same: there is nothing to learn from them", code="no-variation"
            )
        order = torch.randperm(len(parts), generator=seeded_generator(seed, "folds", 0))
        most = max(10, _NUMBERS // parts.shape[1])
        seen, codes = order[:most], torch.empty_like(parts)
        self._learn(parts[seen], times_of(among(units, seen)))
        codes[order[most:]] = self._whitened(parts[order[most:]])
        center, whitening = self.center, self.whitening
        for held, others in folds_of(seen, units, _FOLDS):
            self._learn(parts[others], times_of(among(units, others)))
            codes[held] = self._whitened(parts[held])
        self.center, self.whitening = center, whitening
        self.to(device or "cpu")
        return codes

    def _learn(self, parts: Tensor, times: float) -> None:
        values = parts.double()
        center = values.mean(0)
        variances, axes = shrunk_covariance(values - center, times=times)
        self.center = center.float()
        self.whitening = symmetric_root(variances, axes).float()

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels `(N, C, H, W)` in [0, 1] to codes `(N, dimension)`."""
        return self.codes(self._seen(x))

    def codes(self, views: Tensor) -> Tensor:
        """Codes `(N, dimension)` of views."""
        return self._whitened(self._normalised(views))

    def features(self, views: Tensor) -> dict[str, Tensor]:
        """The means of all maps but the last; of the two last ones alone, of length 1."""
        *widths, summary = self.network.widths
        ends = sum(widths)
        last = unit(views[:, ends - widths[-1] : ends])
        return {
            "means": views[:, :ends],
            f"{widths[-1]} channels": last,
            f"{summary} channels": self.summary(views),
        }

    def summary(self, views: Tensor) -> Tensor:
        """The mean of the last map `(N, C)` of views, each divided by its length."""
        return unit(views[:, self.dimension : sum(self.pools)])

    def _normalised(self, views: Tensor) -> Tensor:
        parts = torch.split(views[:, : self.dimension], list(self.pools[:-1]), dim=1)
        return torch.cat([unit(part) for part in parts], 1)

    def _whitened(self, parts: Tensor) -> Tensor:
        return (parts - self.center) @ self.whitening

    def extra_repr(self) -> str:
        """For `print`."""
        return f"{self.network.name}, {'' if len(self.center) else 'not '}fitted"

    def __repr__(self) -> str:
        return f"PooledEncoder({self.extra_repr()})"
