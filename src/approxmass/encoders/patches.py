"""What a frozen network sees at every place of an image, whitened."""

__all__ = ["PatchEncoder", "Patches", "patch_maps", "patch_widths"]

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.copies import folds_of, times_of
from ..runtime.batches import fixed_batches
from ..runtime.random import seeded_generator
from .ledoit_wolf import shrunk_covariance, symmetric_root, unit
from .network import Network

# Maps with coarser cells than this many pixels a side are left out, where there are finer ones.
_CELL = 16
# Principal components whose rest is the residual.
_COMPONENTS = 64
# Directions of a place that are looked at, and patches that knowing nothing of it is worth.
_LOOSE, _WORTH = 16, 100
# Folds by whose others the codes of training images are made, and images that are seen together.
_FOLDS, _TOGETHER = 5, 16
# Patches that the covariance is of.
_MOST = 20_000


class Patches(NamedTuple):
    """Patches of N images: what is seen, `(N, k, C)`, and the places, `(N, k)`, -1 for outside."""

    values: Tensor
    places: Tensor


def _taken(sides: Sequence[tuple[int, int]], shape: tuple[int, int]) -> list[int]:
    """Which of maps of so many cells are taken: all but the last with cells small enough."""
    cells = [max(shape[0] / height, shape[1] / width) for height, width in sides[:-1]]
    fine = [place for place, cell in enumerate(cells) if cell <= _CELL]
    return fine or [cells.index(min(cells))]


def patch_maps(maps: Sequence[Tensor], shape: tuple[int, int]) -> list[Tensor]:
    """Those maps of a network that tell places, `(N, C, h, w)` each, brought to one grid.

    Arguments:
        maps: As a `Network` gives them.
        shape: Height and width of its input.

    Example:
        >>> sides = (64, 32, 16, 8, 8)
        >>> maps = [torch.zeros(1, c, s, s) for c, s in zip((24, 40, 112, 320, 1280), sides)]
        >>> [tuple(each.shape) for each in patch_maps(maps, (256, 256))]
        [(1, 24, 16, 16), (1, 40, 16, 16), (1, 112, 16, 16)]
    """
    sides = [(each.shape[2], each.shape[3]) for each in maps]
    taken = [maps[place] for place in _taken(sides, shape)]
    grid = min((each.shape[2], each.shape[3]) for each in taken)
    # The largest of a cell: a mean would drown what is small.
    return [F.adaptive_max_pool2d(each, grid) for each in taken]


@torch.no_grad()
def patch_widths(network: Network, shape: tuple[int, int]) -> tuple[list[int], tuple[int, int]]:
    """Channels of each map that `patch_maps` takes, and the grid, for inputs of that size."""
    device = next((b.device for b in network.buffers()), torch.device("cpu"))
    maps = patch_maps(network(torch.zeros(1, 3, *shape, device=device)), shape)
    return [each.shape[1] for each in maps], (maps[0].shape[2], maps[0].shape[3])


class PatchEncoder(nn.Module):
    """From patches to codes: each map of length 1, about the mean of its place, whitened.

    The mean of a place is shrunk towards the mean of all by what its sampling error is worth
    (James and Stein, number by number), so that places count where images are aligned and only
    there. Whitened are all places together; then the directions in which a place varies most are
    shortened to the variance of the others, and the determinant of that belongs to the density.
    None is lengthened: where all usual images are alike, a trifle would become an alarm.

    Arguments:
        widths: Channels of the maps, one after the other in the values.
        places: In an image.
    """

    center: Tensor
    whitening: Tensor
    axes: Tensor
    loose: Tensor
    excess: Tensor

    def __init__(self, widths: Sequence[int], places: int) -> None:
        super().__init__()
        self.widths, self.places = list(widths), places
        dimension = sum(widths)
        self.register_buffer("center", torch.zeros(places, dimension))
        self.register_buffer("whitening", torch.zeros(dimension, dimension))
        kept = min(_COMPONENTS, dimension // 2)
        self.register_buffer("axes", torch.zeros(dimension, kept))
        loose = min(_LOOSE, dimension)
        self.register_buffer("loose", torch.zeros(places, dimension, loose))
        self.register_buffer("excess", torch.zeros(places, loose))

    @property
    def dimension(self) -> int:
        """Numbers of a code."""
        return sum(self.widths)

    def fit_transform(
        self, patches: Patches, *, seed: int = 0, units: NDArray[np.int64] | None = None
    ) -> Tensor:
        """Learn from patches of training images; returns the codes `(M, D)` of those inside.

        The covariance is that of some, drawn at random. The codes of an image are by covariances
        of places that have not seen it, nor another of its unit (five folds).

        Raises:
            ApproxMassError: the patches are all the same.
        """
        known = patches.places >= 0
        values, places = self.scaled(patches.values[known]), patches.places[known]
        self.center = self._means(values, places).float()
        values -= self.center[places]
        order = torch.randperm(len(values), generator=seeded_generator(seed, "covariance", 0))
        variances, axes = shrunk_covariance(values[order[:_MOST]].double(), times=times_of(units))
        self.whitening = symmetric_root(variances, axes).float()
        self.axes = axes[:, -self.axes.shape[1] :].float().contiguous()
        codes = values @ self.whitening
        images = torch.arange(len(known))[:, None].expand_as(known)[known]
        own = torch.empty_like(codes)
        for some, _ in folds_of(torch.arange(len(known)), units, _FOLDS):
            held = torch.isin(images, some)
            self._learn_places(codes[~held], places[~held])
            own[held] = self._by_place(codes[held], places[held])
        self._learn_places(codes, places)
        return own

    def _learn_places(self, codes: Tensor, places: Tensor) -> None:
        """The directions in which the codes of each place vary most, and by how much too much."""
        found, excess = torch.zeros_like(self.loose), torch.zeros_like(self.excess)
        for place in range(self.places):
            here = codes[places == place].double()
            if len(here) < 2:
                continue
            # Shrunk towards the identity, which is the covariance of all places.
            weight = len(here) / (len(here) + _WORTH)
            covariance = weight * torch.cov(here.T)
            covariance.diagonal().add_(1 - weight)
            variances, axes = torch.linalg.eigh(covariance)
            found[place] = axes[:, -self.loose.shape[2] :].float()
            spread = variances[-self.loose.shape[2] :].clamp_min(1).rsqrt()
            excess[place] = (1 - spread).float()
        self.loose, self.excess = found, excess

    def _by_place(self, codes: Tensor, places: Tensor) -> Tensor:
        """Codes `(M, D)` at their places `(M,)`, the directions in which these vary shortened."""
        found = torch.empty_like(codes)
        for place in range(self.places):
            here = places == place
            found[here] = _shortened(codes[here], self.loose[place], self.excess[place])
        return found

    def _means(self, values: Tensor, places: Tensor) -> Tensor:
        mean = values.mean(0, dtype=torch.float64)
        counts = torch.bincount(places, minlength=self.places).double()[:, None]
        sums = torch.zeros(2, self.places, self.dimension, dtype=torch.float64)
        for some, at in zip(torch.split(values, 4096), torch.split(places, 4096), strict=True):
            away = some.double() - mean
            sums[0].index_add_(0, at, away)
            sums[1].index_add_(0, at, away.square())
        means = sums[0] / counts.clamp_min(1)
        seen = counts[:, 0] > 0
        within = (sums[1] - counts * means.square()).sum(0) / len(values)
        error = within / counts[seen]
        between = (means[seen].square() - error).mean(0).clamp_min(0)
        shrunk = torch.zeros_like(means)
        shrunk[seen] = means[seen] * (between / (between + error).clamp_min(1e-30))
        return mean + shrunk

    def centered(self, patches: Patches) -> Tensor:
        """Patches `(N, k, D)` as they are seen, less what is usual in their places."""
        return self.scaled(patches.values) - self.center[patches.places.clamp_min(0)]

    def codes(self, centered: Tensor) -> Tensor:
        """Codes `(N, k, D)` of centered patches of all places `(N, k, D)`."""
        codes = centered @ self.whitening
        found = [codes[:0]]
        for some, count in fixed_batches(codes, _TOGETHER):
            at = _shortened(some.transpose(0, 1), self.loose, self.excess[:, None])
            found.append(at.transpose(0, 1)[:count])
        return torch.cat(found)

    @property
    def logdet(self) -> Tensor:
        """Of what is done to the codes of each place, `(k,)`, in nats."""
        return (1 - self.excess).double().log().sum(1)

    def residual(self, centered: Tensor) -> Tensor:
        """Length of what the first principal components leave, `(...)`."""
        rest = centered - (centered @ self.axes) @ self.axes.T
        length: Tensor = torch.linalg.vector_norm(rest, dim=-1)
        return length

    def scaled(self, values: Tensor) -> Tensor:
        """Patches `(..., D)`, each map of length 1."""
        return torch.cat([unit(part) for part in torch.split(values, self.widths, dim=-1)], -1)


def _shortened(codes: Tensor, axes: Tensor, excess: Tensor) -> Tensor:
    """Codes `(..., M, D)`, of whose length along each axis `(..., D, K)` a share is taken off."""
    return codes - (codes @ axes * excess) @ axes.mT
