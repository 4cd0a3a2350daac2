"""The scores of images."""

__all__ = ["Scores"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Bools, Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scores of N images, one row each; every array is `(N,)`.

    Attributes:
        log_prob: In nats over what the flow models: pixels scaled to [0, 1] with the encoder
            `pixels`, the code of any other. NaN for methods without a density.
        mass: Approximate mass; NaN for methods without a density.
        statistic: The one behind the p-value; larger = more out-of-distribution.
        p_value: Small = out-of-distribution.
        is_outlier: `p_value <= 0.05`.
        statistics: Every statistic of the method, by name.
        group: Of detectors calibrated per group: the group by which each p-value is, `(N,)` of
            str; None of others.
        first: Where images calibrate by folds: `statistic`, which is then a mean over folds, by the
            model of the first alone, `(N,)`; None of others.
    """

    log_prob: Floats
    mass: Floats
    statistic: Floats
    p_value: Floats
    is_outlier: Bools
    statistics: Mapping[str, Floats]
    group: NDArray[np.object_] | None = None
    first: Floats | None = None

    def __len__(self) -> int:
        return len(self.p_value)

    @property
    def streamed(self) -> Floats:
        """The statistic by which images are tested together, for a shift or a drift.

        By folds that of the first alone, which no image of its fold was learnt by.
        """
        return self.statistic if self.first is None else self.first

    def some(self, rows: Bools | NDArray[np.int64]) -> "Scores":
        """Those of some of the images."""
        found = {
            name: getattr(self, name)[rows]
            for name in ("log_prob", "mass", "statistic", "p_value", "is_outlier")
        }
        return Scores(
            **found,
            statistics={name: values[rows] for name, values in self.statistics.items()},
            group=None if self.group is None else self.group[rows],
            first=None if self.first is None else self.first[rows],
        )

    @classmethod
    def join(cls, parts: Sequence["Scores"]) -> "Scores":
        """The scores of one or more pieces, one after the other."""

        def column(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        names = parts[0].statistics
        return cls(
            log_prob=column("log_prob"),
            mass=column("mass"),
            statistic=column("statistic"),
            p_value=column("p_value"),
            is_outlier=column("is_outlier"),
            group=None if parts[0].group is None else column("group"),
            first=None if parts[0].first is None else column("first"),
            statistics={n: np.concatenate([part.statistics[n] for part in parts]) for n in names},
        )
