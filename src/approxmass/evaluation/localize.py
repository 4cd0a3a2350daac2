"""How well maps show the parts of images that do not belong, where masks say which they are."""

__all__ = ["Localization", "Localizations", "Places"]

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import binomtest

from ..arrays import Bools, Floats
from .intervals import Interval

# Values of maps are counted in so many classes, of about as many pixels of the first maps each.
_CLASSES = 4096
# AU-PRO goes up to this rate of false pixels (Bergmann et al., 2019).
_FALSE = 0.3
_DRAWS = 200
# The classes are told by the first images, so many or of so many pixels.
_MOST_WAITING, _PIXELS_WAITING = 64, 1 << 24
# Images whose counts are added up together.
_ROWS = 256

Counts = NDArray[np.float64]
_Values = NDArray[np.float32]


@dataclass(frozen=True)
class Localization:
    """Figures with 95% intervals.

    Attributes:
        pixel_auroc: Over all pixels of all images: that a pixel of a defect has a higher value
            than another.
        au_pro: Area under the mean share of each defect that is found, up to 30% of the other
            pixels, of the largest that it could be.
        hits: Share of the images with a defect whose hottest place lies on it, within a cell.
        flagged_hits: The same of those that are called outliers; None where there are none.
        defects: Images with a defect.
        flagged: Of these, those called outliers.
    """

    pixel_auroc: Interval
    au_pro: Interval
    hits: Interval
    flagged_hits: Interval | None
    defects: int
    flagged: int


@dataclass(frozen=True)
class Localizations:
    """Figures by set of outliers, each with the in-distribution images.

    Attributes:
        of: What the maps show.
        sets: By name of the set; None where no pixel of it is marked.
        together: Of all sets.
    """

    of: str
    sets: Mapping[str, Localization | None]
    together: Localization | None


class _Counted(NamedTuple):
    """What is kept of an image: pixels in each class of values.

    Attributes:
        kind: Of the image.
        usual: Pixels that are not marked.
        odd: Pixels that are; None where none is.
        shares: Of each defect the share of its pixels, summed over the defects.
        defects: How many these are: what is marked, connected by sides.
        hit: The hottest place lies on a defect, within a cell.
        flagged: Called an outlier.
    """

    kind: str
    usual: NDArray[np.int32]
    odd: NDArray[np.int32] | None = None
    shares: NDArray[np.float32] | None = None
    defects: int = 0
    hit: bool = False
    flagged: bool = False


@dataclass(eq=False)
class Places:
    """Gathers maps and masks, image by image, of which it keeps no pixel.

    Arguments:
        seed: Fixes the intervals.

    Example:
        >>> places = Places()
        >>> surface = np.arange(16.0).reshape(4, 4)
        >>> places.add(surface, surface > 13, cell=1, flagged=True)
        >>> places.add(surface * 0, np.zeros((4, 4), bool), cell=1, flagged=False)
        >>> found = places.figures()
        >>> round(found.pixel_auroc.value, 3), round(found.au_pro.value, 3), found.hits.value
        (1.0, 1.0, 1.0)
    """

    seed: int = 0
    _edges: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    # Images that tell the classes, and so cannot be counted yet.
    _waiting: list[tuple[_Values, Bools, _Counted]] = field(default_factory=list)
    _images: list[_Counted] = field(default_factory=list)

    def add(
        self,
        surface: NDArray[np.floating],
        mask: Bools,
        *,
        cell: float,
        flagged: bool,
        kind: str = "",
    ) -> None:
        """An image.

        Arguments:
            surface: `(H, W)`, its map; NaN where the model does not look.
            mask: `(H, W)`, where the defect is; all False for an image without one.
            cell: Side of a cell of the map in pixels of the image: as far may the hottest place
                lie from the defect.
            flagged: It is called an outlier.
            kind: Of the image, for the figures of some kinds.
        """
        values = np.nan_to_num(surface, nan=-np.inf).astype(np.float32)
        none = np.empty(0, np.int32)
        of = _Counted(kind, none, hit=_is_hit(values, mask, cell), flagged=flagged)
        self._waiting.append((values, mask, of))
        waiting = sum(each.size for each, _, _ in self._waiting)
        if len(self._edges) or len(self._waiting) >= _MOST_WAITING or waiting >= _PIXELS_WAITING:
            self._count()

    def _count(self) -> None:
        if not len(self._edges) and self._waiting:
            known = np.concatenate([v[np.isfinite(v)][:: max(1, v.size // 4096)]
                                    for v, _, _ in self._waiting])  # fmt: skip
            spread = np.quantile(known, np.linspace(0, 1, _CLASSES)[1:-1])
            tail = known.max() + np.linspace(0, 4, 512) * max(float(np.ptp(known)), 1e-12)
            self._edges = np.unique(np.concatenate([spread, tail]))
        for values, mask, of in self._waiting:
            place = np.searchsorted(self._edges, values)
            counted = of._replace(usual=self._counts(place[~mask]))
            if mask.any():
                labels, count = ndimage.label(mask)
                odd, which = place[mask], labels[mask]
                sizes = np.bincount(which, minlength=count + 1)
                counted = counted._replace(
                    odd=self._counts(odd),
                    shares=self._counts(odd, 1 / sizes[which]).astype(np.float32),
                    defects=count,
                )
            self._images.append(counted)
        self._waiting.clear()

    def _counts(self, places: NDArray[np.int64], weights: Floats | None = None) -> NDArray[Any]:
        found = np.bincount(places, weights, minlength=len(self._edges) + 1)
        return found.astype(np.int32) if weights is None else found

    def figures(self, kinds: Collection[str] | None = None) -> Localization | None:
        """All figures, of the images of some kinds or of all; None where no pixel is marked."""
        self._count()
        images = [each for each in self._images if kinds is None or each.kind in kinds]
        odd = [i for i, each in enumerate(images) if each.defects]
        if not odd:
            return None
        # The images themselves, then draws of them, with replacement.
        rng = np.random.default_rng(self.seed)
        n = len(images)
        drawn = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(_DRAWS)]
        weights = np.stack([np.ones(n), *drawn])
        usual = _weighted(weights, [each.usual for each in images])
        some = weights[:, odd]
        marked = _weighted(some, [images[i].odd for i in odd])
        shares = _weighted(some, [images[i].shares for i in odd])
        defects = some @ [images[i].defects for i in odd]
        areas, pros = [], []
        for row in np.flatnonzero(defects):  # of a draw that has none nothing can be said
            areas.append(_auroc(usual[row], marked[row]))
            false = _from_above(usual[row])
            pros.append(_au_pro(false / false[-1], _from_above(shares[row]) / defects[row]))
        hits = np.array([images[i].hit for i in odd])
        called = np.array([images[i].flagged for i in odd])
        return Localization(
            pixel_auroc=_interval(*areas),
            au_pro=_interval(*pros),
            hits=_share(hits),
            flagged_hits=_share(hits[called]) if called.any() else None,
            defects=len(hits),
            flagged=int(called.sum()),
        )


def _is_hit(values: _Values, mask: Bools, cell: float) -> bool:
    """Whether the hottest place lies within a cell of what is marked."""
    marked = np.argwhere(mask)
    hottest = np.unravel_index(int(values.argmax()), values.shape)
    away = np.square(marked - hottest).sum(1)
    return bool(len(away) and np.sqrt(away.min()) <= cell)


def _weighted(weights: Counts, rows: Sequence[NDArray[Any] | None]) -> Counts:
    """`(k, n)` times `(n, classes)`, some rows at a time: as floats they would be large."""
    total: Counts | None = None
    for start in range(0, len(rows), _ROWS):
        some = np.stack([each for each in rows[start : start + _ROWS] if each is not None])
        found = weights[:, start : start + _ROWS] @ some.astype(float)
        total = found if total is None else total + found
    assert total is not None
    return total


def _from_above(counts: Counts) -> Counts:
    return np.concatenate([[0.0], counts[..., ::-1].cumsum(-1)])


def _auroc(usual: Counts, odd: Counts) -> float:
    below = usual.cumsum() - usual
    return float(((below + usual / 2) * odd).sum() / (usual.sum() * odd.sum()))


def _au_pro(false: Counts, found: Counts) -> float:
    at = np.append(false[false < _FALSE], _FALSE)
    return float(np.trapezoid(np.interp(at, false, found), at) / _FALSE)


def _interval(value: float, *draws: float) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _share(hits: Bools) -> Interval:
    found = binomtest(int(hits.sum()), len(hits))
    interval = found.proportion_ci(method="wilson")
    return Interval(float(hits.mean()), float(interval.low), float(interval.high))
