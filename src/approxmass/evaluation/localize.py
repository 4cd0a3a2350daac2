"""How well maps show the parts of images that do not belong, where masks say which they are."""

__all__ = ["Localization", "Places"]

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import binomtest

from ..arrays import Bools
from .metrics import Interval

# Values of maps are counted in so many classes, of about as many pixels of the first maps each.
_CLASSES = 4096
# AU-PRO goes up to this rate of false pixels (Bergmann et al., 2019).
_FALSE = 0.3
_DRAWS = 200

Counts = NDArray[np.float64]


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


@dataclass(eq=False)
class Places:
    """Gathers maps and masks, image by image, in flat memory.

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
    _waiting: list[tuple[NDArray[np.float32], Bools]] = field(default_factory=list)
    _usual: list[Counts] = field(default_factory=list)
    _odd: list[Counts] = field(default_factory=list)
    _parts: list[list[Counts]] = field(default_factory=list)
    _hit: list[bool] = field(default_factory=list)
    _called: list[bool] = field(default_factory=list)

    def add(
        self, surface: NDArray[np.floating], mask: Bools, *, cell: float, flagged: bool
    ) -> None:
        """An image.

        Arguments:
            surface: `(H, W)`, its map; NaN where the model does not look.
            mask: `(H, W)`, where the defect is; all False for an image without one.
            cell: Side of a cell of the map in pixels of the image: as far may the hottest place
                lie from the defect.
            flagged: It is called an outlier.
        """
        values = np.nan_to_num(surface, nan=-np.inf).astype(np.float32)
        if mask.any():
            away = ndimage.distance_transform_edt(~mask)
            self._hit.append(bool(away.flat[int(values.argmax())] <= cell))
            self._called.append(flagged)
        self._waiting.append((values, mask))
        if len(self._waiting) >= 64:
            self._count()

    def _count(self) -> None:
        if not len(self._edges):
            known = np.concatenate([v[np.isfinite(v)][:: max(1, v.size // 4096)]
                                    for v, _ in self._waiting])  # fmt: skip
            spread = np.quantile(known, np.linspace(0, 1, _CLASSES)[1:-1])
            tail = known.max() + np.linspace(0, 4, 512) * max(float(np.ptp(known)), 1e-12)
            self._edges = np.unique(np.concatenate([spread, tail]))
        for values, mask in self._waiting:
            place = np.searchsorted(self._edges, values)
            self._usual.append(self._counts(place[~mask]))
            self._odd.append(self._counts(place[mask]))
            labels, count = ndimage.label(mask)
            self._parts.append([self._counts(place[labels == i + 1]) for i in range(count)])
        self._waiting.clear()

    def _counts(self, places: NDArray[np.int64]) -> Counts:
        return np.bincount(places, minlength=len(self._edges) + 1).astype(float)

    def figures(self) -> Localization:
        """All figures; at least one mask must have been given that is not empty."""
        self._count()
        usual, odd = np.stack(self._usual), np.stack(self._odd)
        # A defect's counts from the highest value down, as a share of it, and its image.
        of = [i for i, parts in enumerate(self._parts) for _ in parts]
        found = np.stack([_from_above(c) / c.sum() for parts in self._parts for c in parts])
        everyone = np.ones(len(usual))
        rng = np.random.default_rng(self.seed)
        draws = [
            np.bincount(rng.integers(len(usual), size=len(usual)), minlength=len(usual)).astype(
                float
            )
            for _ in range(_DRAWS)
        ]

        def area(weights: Counts) -> float:
            return _auroc(weights @ usual, weights @ odd)

        def pro(weights: Counts) -> float:
            each = weights[of]
            false = _from_above(weights @ usual)
            return _au_pro(false / false[-1], each @ found / max(each.sum(), 1e-12))

        hits = np.array(self._hit)
        called = np.array(self._called)
        return Localization(
            pixel_auroc=_interval(area(everyone), [area(w) for w in draws if (w @ odd).sum()]),
            au_pro=_interval(pro(everyone), [pro(w) for w in draws if w[of].sum()]),
            hits=_share(hits),
            flagged_hits=_share(hits[called]) if called.any() else None,
            defects=len(hits),
            flagged=int(called.sum()),
        )


def _from_above(counts: Counts) -> Counts:
    return np.concatenate([[0.0], counts[..., ::-1].cumsum(-1)])


def _auroc(usual: Counts, odd: Counts) -> float:
    below = usual.cumsum() - usual
    return float(((below + usual / 2) * odd).sum() / (usual.sum() * odd.sum()))


def _au_pro(false: Counts, found: Counts) -> float:
    at = np.append(false[false < _FALSE], _FALSE)
    return float(np.trapezoid(np.interp(at, false, found), at) / _FALSE)


def _interval(value: float, draws: list[float]) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _share(hits: Bools) -> Interval:
    found = binomtest(int(hits.sum()), len(hits))
    interval = found.proportion_ci(method="wilson")
    return Interval(float(hits.mean()), float(interval.low), float(interval.high))
