"""Where in an image it does not belong: a value at every place, and what is usual."""

__all__ = ["Explanation", "Surfaces", "as_given", "by_column", "cell_side", "gradients", "peaks_of"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from torch import Tensor

from ..arrays import Bools, Floats
from ..calibration import FALSE_ALARM_RATE, fold_p_values, p_values, threshold
from ..data.frame import Box
from ..data.pixels import unit_pixels
from ..data.region import Region
from ..encoders import Encoder, VectorEncoder
from ..errors import ApproxMassError
from ..runtime.batches import fixed_batches
from ..scores import Scores

# Standard deviation of the smoothing, as a share of the side: one pixel of 28.
_SMOOTH = 1 / 28


@dataclass(frozen=True, eq=False)
class Surfaces:
    """What a model has to say of the places of N images, in their frame.

    Attributes:
        maps: `(N, h, w)` over the frame, larger = more out-of-distribution; minus infinity where
            there is no image, or none of its region.
        components: `(N, D)`, at least 0: of whitened codes the share of each number of the code
            in the squared gradient; else `(N, 0)`.
    """

    maps: Floats
    components: Floats


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where each of N images does not belong.

    Attributes:
        maps: `(H, W)` of each image as it was given: what `of` names, at every pixel; larger =
            more out-of-distribution; NaN where the model does not look.
        of: Of a detector with parts their negative log-likelihood, `patch_nll`, in nats; else the
            squared gradient, by pixel, of the statistic behind the p-values, smoothed.
        cells: `(N,)`, side of a cell of each map, of which it has one value, in its pixels.
        peaks: `(N,)`, the largest value of each map.
        usual: `(n,)`, that of images that calibrate; of none where each group has its own.
        components: `(N, D)`, at least 0: of whitened codes the share of each number of the code
            in the squared gradient; else `(N, 0)`.
        names: Of the D numbers: `1` for the first principal component and so on, and last, where
            there is one, `residual` for the energy that they leave out.
        scores: Of the same images.
        by_group: As `usual`, by group, where each has its own.
        by_fold: `(K, N)`, peaks of the maps by each of K models, where images calibrate by folds;
            the map is then the mean of theirs.
        fold: `(n,)`, which of these gave each of `usual`.
    """

    maps: list[NDArray[np.float32]]
    of: str
    cells: Floats
    peaks: Floats
    usual: Floats
    components: Floats
    names: list[str]
    scores: Scores
    by_group: Mapping[str, Floats] = field(default_factory=dict)
    by_fold: Floats | None = None
    fold: NDArray[np.int64] | None = None

    @classmethod
    def join(cls, parts: "Sequence[Explanation]") -> "Explanation":
        """Those of several chunks by one detector, one after the other; at least one."""
        first = parts[0]
        return cls(
            maps=[each for part in parts for each in part.maps],
            of=first.of,
            cells=np.concatenate([part.cells for part in parts]),
            peaks=np.concatenate([part.peaks for part in parts]),
            usual=first.usual,
            components=np.concatenate([part.components for part in parts]),
            names=first.names,
            scores=Scores.join([part.scores for part in parts]),
            by_group=first.by_group,
            by_fold=None
            if first.by_fold is None
            else np.concatenate([part.by_fold for part in parts if part.by_fold is not None], 1),
            fold=first.fold,
        )

    def usual_of(self, place: int) -> Floats:
        """`usual` of the group of the image at a place."""
        group = self.scores.group
        return self.usual if group is None else self.by_group[group[place]]

    @property
    def p_value(self) -> Floats:
        """Of each image by its peak, `(N,)`: conformal, like those of the scores."""
        if self.by_fold is not None and self.fold is not None:
            return fold_p_values(self.usual, self.fold, self.by_fold)
        if self.scores.group is None:
            return p_values(self.usual, self.peaks)
        found = np.empty(len(self.peaks))
        for group in set(self.scores.group):
            rows = self.scores.group == group
            found[rows] = p_values(self.by_group[group], self.peaks[rows])
        return found

    def threshold(self, rate: float = FALSE_ALARM_RATE, place: int | None = None) -> float:
        """What no place exceeds in at least `1 - rate` of in-distribution images.

        Infinite where there are too few images for that rate. A map exceeds it where, and only
        where, the p-value of the image is at most `rate`; by folds nearly so.

        Arguments:
            rate: Of in-distribution images whose maps exceed it.
            place: Of an image: the threshold of its group. None where there are no groups.

        Raises:
            ApproxMassError: each group has its own.

        Example:
            >>> none = np.empty(0)
            >>> scores = Scores(
            ...     log_prob=none, mass=none, statistic=none, p_value=none,
            ...     is_outlier=none > 0, statistics={},
            ... )
            >>> found = Explanation([], "x", none, none, np.arange(39.0), none, [], scores)
            >>> round(found.threshold(0.05)), found.threshold(0.01)
            (37, inf)
        """
        if place is None and self.scores.group is not None:
            raise ApproxMassError(
                "each group of images has its own threshold: say of which image, threshold(rate, "
                "place)",
                code="bad-group",
            )
        return threshold(self.usual if place is None else self.usual_of(place), rate)


def peaks_of(surfaces: Surfaces) -> Floats:
    """The largest value of each map, `(N,)`."""
    peaks: Floats = surfaces.maps.reshape(len(surfaces.maps), -1).max(1)
    return peaks


def as_given(
    surface: Floats,
    box: Box | None,
    frame: tuple[int, int],
    size: tuple[int, int],
    region: Region | None = None,
) -> NDArray[np.float32]:
    """A map `(h, w)` over a frame as a map `(H, W)` of the image that lies in a box of it.

    Between the middles of cells values are interpolated, so that none exceeds the peak; one that is
    not known has the value of the nearest that is. Outside of a region is NaN.

    Example:
        >>> as_given(np.array([[0.0, 8.0]]), None, (1, 2), (1, 4)).tolist()
        [[0.0, 2.0, 6.0, 8.0]]
    """
    place = Box(0, 0, *frame) if box is None else box
    axes = []
    for axis, (start, length) in enumerate(((place.top, place.height), (place.left, place.width))):
        cell = frame[axis] / surface.shape[axis]
        middles = start + (np.arange(size[axis]) + 0.5) * length / size[axis]
        axes.append(middles / cell - 0.5)
    unknown = ~np.isfinite(surface)
    if unknown.any():
        nearest = distance_transform_edt(unknown, return_distances=False, return_indices=True)
        surface = surface[tuple(nearest)]
    at = np.meshgrid(*axes, indexing="ij")
    found: NDArray[np.float32] = map_coordinates(surface, at, order=1, mode="nearest").astype(
        np.float32
    )
    if region is not None:
        found[~region.at(*size)] = np.nan
    return found


def cell_side(
    grid: tuple[int, ...], box: Box | None, frame: tuple[int, int], size: tuple[int, int]
) -> float:
    """The longer side of a cell of a map as `as_given` makes it, in pixels.

    Arguments:
        grid: Cells of the frame, down and across.
        box: As of `as_given`; so are
        frame and
        size.

    Example:
        >>> cell_side((4, 4), Box(16, 0, 32, 64), (64, 64), (100, 200))
        50.0
    """
    place = Box(0, 0, *frame) if box is None else box
    within = (place.height, place.width)
    sides = zip(frame, grid, size, within, strict=True)
    return max(whole / cells * given / seen for whole, cells, given, seen in sides)


def gradients(
    encoder: Encoder,
    statistic: Callable[[Tensor], Tensor],
    images: Tensor,
    boxes: Sequence[Box] | None,
    *,
    region: Region | None = None,
    device: torch.device,
    batch_size: int,
) -> Surfaces:
    """Squared gradients of a statistic of codes by pixel, summed over channels and smoothed.

    Arguments:
        encoder: From pixels to codes.
        statistic: From codes to values `(N,)`.
        images: `(N, C, H, W)`, uint8.
        boxes: Where in the frame each image lies; None for all over.
        region: Of the images; what is outside of it is no part of the maps.
        device: Where encoder and statistic are.
        batch_size: Images at a time, no more and no less.
    """
    maps, components = [], []
    for batch, count in fixed_batches(images, batch_size):
        pixels = unit_pixels(batch.to(device)).requires_grad_()
        with torch.enable_grad():
            code = encoder(pixels)
            values = statistic(code)
        by_pixel, by_number = torch.autograd.grad(values.sum(), (pixels, code))
        squared = by_pixel[:count].square().sum(1).cpu().double()
        maps.append(squared.nan_to_num(posinf=torch.finfo(torch.float64).max).numpy())
        shares = _shares(by_number[:count].square().flatten(1).cpu().double().numpy())
        components.append(shares[:, : len(encoder.names)])
    squared_maps = np.concatenate(maps)
    if region is not None:
        frame = (squared_maps.shape[1], squared_maps.shape[2])
        where = boxes or [Box(0, 0, *frame)] * len(squared_maps)
        for surface, box in zip(squared_maps, where, strict=True):
            surface[...] = _smoothed_inside(surface, region.placed(box, frame))
        return Surfaces(squared_maps, np.concatenate(components))
    smoothed = _smoothed(squared_maps)
    for surface, box in zip(smoothed, boxes or [], strict=False):
        outside = np.ones(surface.shape, bool)
        outside[box.top : box.top + box.height, box.left : box.left + box.width] = False
        surface[outside] = -np.inf
    return Surfaces(smoothed, np.concatenate(components))


def by_column(
    encoder: VectorEncoder,
    statistic: Callable[[Tensor], Tensor],
    rows: Tensor,
    device: torch.device,
    batch_size: int,
) -> Surfaces:
    """Squared gradients of a statistic of codes by column, all at one scale: maps `(N, 1, D)`.

    Arguments:
        encoder: From rows to codes.
        statistic: From codes to values `(N,)`.
        rows: `(N, 1, 1, D)`, float64.
        device: Where encoder and statistic are.
        batch_size: Rows at a time, no more and no less.
    """
    parts = []
    for batch, count in fixed_batches(rows, batch_size):
        scaled = encoder.scaled(batch.to(device)).requires_grad_()
        with torch.enable_grad():
            values = statistic(encoder.whitened(scaled))
        (by_number,) = torch.autograd.grad(values.sum(), scaled)
        squared = by_number[:count].square().cpu().double()
        parts.append(squared.nan_to_num(posinf=torch.finfo(torch.float64).max).numpy())
    found = np.concatenate([np.empty((0, rows.shape[-1])), *parts])
    return Surfaces(found[:, None, :], _shares(found))


def _smoothed(maps: Floats) -> Floats:
    """Maps `(..., H, W)`, mirrored at the borders, so that nothing is lost there."""
    spread = _SMOOTH * max(maps.shape[-2:])
    found: Floats = gaussian_filter(maps, spread, mode="reflect", axes=(-2, -1))
    return found


def _smoothed_inside(surface: Floats, inside: Bools) -> Floats:
    """A map `(H, W)` smoothed over what is inside alone; minus infinity outside."""
    found: Floats = np.full_like(surface, -np.inf)
    weight = _smoothed(inside.astype(float))
    np.divide(_smoothed(np.where(inside, surface, 0)), weight, out=found, where=inside)
    return found


def _shares(values: Floats) -> Floats:
    """Each row divided by its sum; equal shares where that is 0 or no number."""
    flat = np.nan_to_num(values.reshape(len(values), -1), posinf=0.0)
    total = flat.sum(1, keepdims=True)
    shares: Floats = np.full_like(flat, 1 / max(1, flat.shape[1]))
    np.divide(flat, total, out=shares, where=total > 0)
    return shares.reshape(values.shape)
