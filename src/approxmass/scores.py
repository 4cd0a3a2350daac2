"""The scores of images."""

__all__ = ["Scores"]

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Bools, Floats
from .errors import ApproxMassError

# Rows that a notebook shows.
_SHOWN = 5


def _no_names() -> NDArray[np.object_]:
    return np.empty(0, object)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scores:
    """Scores of N images, one row each; every array is `(N,)`.

    A notebook shows the first rows, and `to_pandas` and `to_arrow` give all as a table.

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
        names: Of the images, as the source calls them: file names, else numbers from 0.

    Example:
        >>> p = np.array([0.4, 0.01])
        >>> Scores(
        ...     log_prob=-p, mass=p, statistic=p, p_value=p, is_outlier=p <= 0.05,
        ...     statistics={"mass": p}, names=np.array(["a.png", "b.png"], object),
        ... ).to_arrow().select(["name", "p_value", "is_outlier"]).to_pylist()[1]
        {'name': 'b.png', 'p_value': 0.01, 'is_outlier': True}
    """

    log_prob: Floats
    mass: Floats
    statistic: Floats
    p_value: Floats
    is_outlier: Bools
    statistics: Mapping[str, Floats]
    group: NDArray[np.object_] | None = None
    first: Floats | None = None
    names: NDArray[np.object_] = field(default_factory=_no_names)

    def __post_init__(self) -> None:
        if len(self.names) != len(self):
            if len(self.names):
                raise ApproxMassError(
                    f"there are {len(self.names):,} names for {len(self):,} scores: give one each",
                    code="bad-scores",
                )
            numbers = np.array([str(i) for i in range(len(self))], object)
            object.__setattr__(self, "names", numbers)

    def __len__(self) -> int:
        return len(self.p_value)

    @property
    def streamed(self) -> Floats:
        """The statistic by which images are tested together, for a shift or a drift.

        By folds that of the first alone, which no image of its fold was learnt by.
        """
        return self.statistic if self.first is None else self.first

    def named(self, names: Sequence[Any]) -> "Scores":
        """The same, of images that are called so; numbers become words."""
        return replace(self, names=np.array([str(name) for name in names], object))

    @classmethod
    def of(
        cls,
        statistics: Mapping[str, Floats],
        decides: str,
        p_value: Floats,
        rate: float,
        *,
        group: NDArray[np.object_] | None = None,
        first: Floats | None = None,
    ) -> "Scores":
        """Of images with these statistics and p-values, of which one decides at a rate.

        Example:
            >>> Scores.of({"nll": np.array([7.0])}, "nll", np.array([0.01]), 0.05).is_outlier
            array([ True])
        """
        none = np.full(len(p_value), np.nan)
        return cls(
            log_prob=-statistics.get("nll", none),
            mass=statistics.get("mass", none),
            statistic=statistics[decides],
            p_value=p_value,
            is_outlier=p_value <= rate,
            statistics=statistics,
            group=group,
            first=first,
        )

    def some(self, rows: Bools | NDArray[np.int64]) -> "Scores":
        """Those of some of the images."""
        found = {
            name: getattr(self, name)[rows]
            for name in ("log_prob", "mass", "statistic", "p_value", "is_outlier", "names")
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
            names=column("names"),
            group=None if parts[0].group is None else column("group"),
            first=None if parts[0].first is None else column("first"),
            statistics={n: np.concatenate([part.statistics[n] for part in parts]) for n in names},
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of a table of scores, in their order.

        `name`, `log_prob` (nats, of a method with a density), every statistic but the NLL,
        `statistic`, `p_value`, `is_outlier`, and of detectors calibrated per group `group`.
        """
        found: dict[str, NDArray[Any]] = {"name": self.names}
        if "nll" in self.statistics:
            found["log_prob"] = self.log_prob
        found |= {name: each for name, each in self.statistics.items() if name != "nll"}
        found |= {"statistic": self.statistic, "p_value": self.p_value}
        found |= {"is_outlier": self.is_outlier}
        return found if self.group is None else {**found, "group": self.group}

    def to_arrow(self, more: Mapping[str, NDArray[Any]] | None = None) -> Any:
        """All as an Arrow table, the one that `approxmass score` writes.

        Its last column, `error`, says there why an image has no score; here each has one.

        Arguments:
            more: Further columns, `(N,)` each, to stand before `error`.
        """
        import pyarrow as pa

        columns = self.columns() | dict(more or {})
        table = {
            # Text says nothing of itself where there is none.
            name: pa.array(each, pa.string() if each.dtype == object else None)
            for name, each in columns.items()
        }
        return pa.table(table | {"error": pa.nulls(len(self), pa.string())})

    def to_pandas(self) -> Any:
        """That table as a frame of pandas.

        Raises:
            ApproxMassError: pandas is not installed.
        """
        if find_spec("pandas") is None:
            raise ApproxMassError(
                "to_pandas needs pandas: pip install pandas (or take to_arrow)",
                code="missing-library",
            )
        return self.to_arrow().to_pandas()

    def __repr__(self) -> str:
        return f"Scores({self._said()})"

    def _said(self) -> str:
        """All together, in few words."""
        if not len(self):
            return "none scored"
        called = int(self.is_outlier.sum())
        outliers = f"{called:,} outlier{'' if called == 1 else 's'} at 5%"
        return f"{len(self):,} scored, {outliers}, smallest p-value {self.p_value.min():.3g}"

    def _repr_html_(self) -> str:
        """The first rows and all in few words, for a notebook."""
        columns = self.columns()
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        rows = "".join(
            f"<tr>{''.join(_cell(values[row]) for values in columns.values())}</tr>"
            for row in range(min(_SHOWN, len(self)))
        )
        left = len(self) - _SHOWN
        more = f"<p>... and {left:,} more: <code>to_pandas()</code> has all</p>" if left > 0 else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<div><p>{html.escape(self._said())}</p>{table}{more}</div>"


def _cell(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, float | np.floating):
        return f'<td style="text-align: right">{value:.4g}</td>'
    return f'<td style="text-align: left">{html.escape(str(value))}</td>'
