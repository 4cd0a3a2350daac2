"""Can the published numbers be those of a balanced, per-image evaluation?

AUROC, AUPR and the TNR at 95% TPR of one list of scores bound each other. Which rows of Table 2
lie outside the bounds is a matter of arithmetic: no data and no model is needed.
"""

__all__ = ["Verdict", "audit", "audit_averages", "aupr_range", "auroc_range", "markdown"]

import math
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from ..arrays import Bools, Floats
from .published import AVERAGES, MASS, TABLE2, TABLE3, TABLE4, Average, Row

# The tables are printed to three decimals.
ROUNDING = 0.0005
# What the grids of the two searches may miss; checked against closed forms by a test.
GRID_ERROR = 0.0005
# Shares of ID tried besides one half: that of the energy's released test script, and one that the
# released script of the mass comes below for most sets.
SHARES = {"5/6": 5 / 6, "0.12": 0.12}
# Steps of recall and of the other axis in the search for the smallest area, and in the one for the
# largest.
_MIN_STEPS, _MAX_STEPS = 200, 40


def auroc_range(tnr95: float) -> tuple[float, float]:
    """Least and largest AUROC that a TNR at 95% TPR allows, whichever class is positive.

    Example:
        >>> low, high = auroc_range(0.872)
        >>> round(low, 4), round(high, 4)
        (0.8284, 0.9936)
    """
    return 0.95 * tnr95, 1 - 0.05 * (1 - tnr95)


def aupr_range(
    auroc: float, at: float | None = None, through: float = 0.0, *, kappa: float = 1.0
) -> tuple[float, float] | None:
    """Least and largest area under the precision-recall curve, given the AUROC and one ROC point.

    The false-positive rate x is a nondecreasing function of the recall t with mean `1 - auroc`, and
    the AUPR is the mean of `t / (t + kappa x(t))`. That is convex in x: the largest value lies at
    a step function, the smallest is found by its Lagrangian, for which dynamic programming over
    monotone curves is exact on the grid.

    Arguments:
        auroc: In [0, 1].
        at: Recall at which the ROC curve is known; None for no such point.
        through: False-positive rate there: the curve may jump there, but only across it.
        kappa: Negatives for each positive; 1 for balanced classes.

    Returns:
        The range, or None where no curve has this AUROC and runs through this point.

    Example:
        >>> low, high = aupr_range(0.968)
        >>> round(high, 4) == round(1 - math.log(2 / 1.968), 4)  # a closed form without a point
        True
    """
    mean = 1 - auroc
    at, low, high = (1.0, 0.0, 1.0) if at is None else (at, through, through)
    # Up to `at` the curve lies in [0, high], from there on in [low, 1].
    if not (1 - at) * low - 1e-9 <= mean <= at * high + (1 - at) + 1e-9:
        return None
    return _least(mean, at, low, high, kappa), _largest(mean, at, low, high, kappa)


def _area(start: Floats, end: Floats, level: Floats | float, kappa: float) -> Floats:
    """Integral of `t / (t + kappa level)` from `start` to `end`."""
    offset = np.asarray(kappa * level, np.float64)
    logarithm = np.log(np.maximum(end + offset, 1e-300) / np.maximum(start + offset, 1e-300))
    area: Floats = end - start - np.where(offset > 0, offset * logarithm, 0.0)
    return area


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """Part of the curve: recalls from `start` to `end`, at levels from `bottom` to `top`."""

    start: float
    end: float
    bottom: float
    top: float

    @property
    def recalls(self) -> Floats:
        """Where a step may lie."""
        return np.linspace(self.start, self.end, _MAX_STEPS)

    def under(self, leave: Floats, arrive: Floats) -> Floats:
        """Integral of the curve that is `bottom` up to `leave` and `top` from `arrive` on."""
        return (leave - self.start) * self.bottom + (self.end - arrive) * self.top

    def area(self, leave: Floats, arrive: Floats, level: Floats | float, kappa: float) -> Floats:
        """Area under the precision over these recalls, with the curve at `level` in between."""
        below = _area(np.full_like(leave, self.start), leave, self.bottom, kappa)
        above = _area(arrive, np.full_like(arrive, self.end), self.top, kappa)
        return below + _area(leave, arrive, level, kappa) + above


def _largest(mean: float, at: float, low: float, high: float, kappa: float) -> float:
    """Over step functions x(t): one step before `at`, one after it, and one of the two in parts.

    With the step before `at` in parts it looks like this, where `high` and `low` are the same
    unless there is no such point and the curve ends at `at` = 1::

        1                                  .--------
                                           |
        high, low            .-------------'
                             |
        level          .-----'
                       |
        0         -----'
                  0  leave arrive   at   jump      1   recall t

    With the step after `at` in parts, the one from 0 to `high` is a jump, and the level lies
    between `low` and 1.
    """
    before = _Side(start=0.0, end=at, bottom=0.0, top=high)
    after = _Side(start=at, end=1.0, bottom=low, top=1.0)
    return max(
        _largest_split(before, after, mean, kappa), _largest_split(after, before, mean, kappa)
    )


def _largest_split(split: _Side, whole: _Side, mean: float, kappa: float) -> float:
    """As `_largest`, with the step of `split` in two; -inf where no level gives `mean`."""
    leave, arrive, jump = _places(split, whole, mean)
    rest = mean - split.under(leave, arrive) - whole.under(jump, jump)
    width = arrive - leave
    wide = width > 1e-12
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(wide, rest / width, split.bottom)
    allowed = (level >= split.bottom - 1e-9) & (level <= split.top + 1e-9)
    keep: Bools = allowed & (wide | (np.abs(rest) < 1e-9))
    if not keep.any():
        return -math.inf
    leave, arrive, jump, level = leave[keep], arrive[keep], jump[keep], level[keep].clip(0, 1)
    areas = split.area(leave, arrive, level, kappa) + whole.area(jump, jump, 0.0, kappa)
    return float(areas.max())


def _places(split: _Side, whole: _Side, mean: float) -> tuple[Floats, Floats, Floats]:
    """Where to leave the bottom and to arrive at the top on one side, and to jump on the other."""
    leave, arrive, jump = (
        each.ravel()
        for each in np.meshgrid(split.recalls, split.recalls, whole.recalls, indexing="ij")
    )
    keep = leave < arrive
    leave, arrive, jump = leave[keep], arrive[keep], jump[keep]
    if split.top <= split.bottom:
        return leave, arrive, jump
    # And, for each jump, the one place of a step in one piece at which the mean comes out.
    jumps = whole.recalls
    rest = mean - whole.under(jumps, jumps) - (split.end - split.start) * split.bottom
    place = split.end - rest / (split.top - split.bottom)
    inside = (place >= split.start - 1e-12) & (place <= split.end + 1e-12)
    place, jumps = place[inside], jumps[inside]
    return (
        np.concatenate([leave, place]),
        np.concatenate([arrive, place]),
        np.concatenate([jump, jumps]),
    )


def _least(mean: float, at: float, low: float, high: float, kappa: float) -> float:
    """The largest value of the Lagrangian dual, which the convex programme attains."""
    edges = np.unique(np.concatenate([np.linspace(0, 1, _MIN_STEPS + 1), [at]]))
    starts, ends = edges[:-1, None], edges[1:, None]
    # Fine near 0, where the integrand bends most.
    levels = np.unique(np.concatenate([np.linspace(0, 1, _MIN_STEPS) ** 2, [low, high]]))
    cells = _area(starts, ends, levels[None], kappa)
    widths = (ends - starts) * levels[None]
    early = ends <= at + 1e-12
    forbidden = np.where(early, levels[None] > high + 1e-12, levels[None] < low - 1e-12)
    cells = np.where(forbidden, np.inf, cells)

    def dual(multiplier: float) -> float:
        total = np.zeros(len(levels))
        for cost in cells + multiplier * widths:
            # From here at any level not below the one before.
            total = np.minimum.accumulate(total) + cost
        return float(total.min()) - multiplier * mean

    found = minimize_scalar(lambda m: -dual(m), bounds=(-60.0, 60.0), method="bounded")
    return float(-found.fun)


@dataclass(frozen=True)
class Verdict:
    """What the bounds say of one row, for balanced classes.

    A range is None where AUROC and TNR alone cannot be. `same`: AUPR and TNR have the same
    positive class; `opposite`: they do not.
    """

    row: Row
    auroc: tuple[float, float]  # that the TNR allows
    any: tuple[float, float]  # AUPR, leaving the TNR aside
    same: tuple[float, float] | None
    opposite: tuple[float, float] | None
    possible: list[str]  # of "same", "opposite"
    possible_at: dict[str, bool]  # by share of ID, ID being the positive class of all three

    @property
    def verdict(self) -> str:
        """In words."""
        row = self.row
        if self.same is None and self.opposite is None:
            return (
                f"impossible: TNR {row.tnr95:g} needs an AUROC of {self.auroc[0]:.3f} to "
                f"{self.auroc[1]:.3f}"
            )
        if not _within(row.aupr, self.any):
            return f"impossible: AUPR can be {self.any[0]:.3f} to {self.any[1]:.3f} at this AUROC"
        if not self.possible:
            return "impossible under either positive class"
        if len(self.possible) == 1:
            which = {"same": "the same positive class", "opposite": "opposite positive classes"}
            return f"only if AUPR and TNR have {which[self.possible[0]]}"
        return "possible"


def _within(value: float, allowed: tuple[float, float] | None) -> bool:
    slack = ROUNDING + GRID_ERROR
    return allowed is not None and allowed[0] - slack <= value <= allowed[1] + slack


def _widest(ranges: list[tuple[float, float] | None]) -> tuple[float, float] | None:
    found = [each for each in ranges if each is not None]
    return (min(a for a, _ in found), max(b for _, b in found)) if found else None


def judge(row: Row) -> Verdict:
    """Bounds for one row; AUROC and TNR may each be off by the rounding."""
    areas, rates = (
        sorted({min(1.0, max(0.0, value + off)) for off in (-ROUNDING, 0.0, ROUNDING)})
        for value in (row.auroc, row.tnr95)
    )
    pairs = list(product((areas[0], areas[-1]), (rates[0], rates[-1])))
    alone = _widest([aupr_range(area) for area in (areas[0], areas[-1])])
    assert alone is not None
    # With the same positive class the ROC runs through (1 - TNR, 0.95); with the other one, recall
    # is the TNR and 5% of the other class are taken.
    same = _widest([aupr_range(area, 0.95, 1 - tnr) for area, tnr in pairs])
    opposite = _widest([aupr_range(area, tnr, 0.05) for area, tnr in pairs])
    shares = {}
    for name, share in SHARES.items():
        kappa = (1 - share) / share
        unequal = [aupr_range(area, 0.95, 1 - tnr, kappa=kappa) for area, tnr in pairs]
        shares[name] = _within(row.aupr, _widest(unequal))
    ranges = {"same": same, "opposite": opposite}
    possible = [name for name, allowed in ranges.items() if _within(row.aupr, allowed)]
    return Verdict(row, auroc_range(row.tnr95), alone, same, opposite, possible, shares)


def audit_averages() -> list[dict[str, Any]]:
    """Each mean that the text claims, in percent, beside the mean of the table."""
    rows = []
    for average in AVERAGES:
        terms = _terms(average)
        mean = 100 * sum(terms) / len(terms)
        digits = len(str(average.claim).partition(".")[2])
        unit = 10.0**-digits
        if abs(mean - average.claim) <= unit / 2 + 1e-9:
            verdict = "recomputes"
        elif 0 <= mean - average.claim < unit:
            verdict = "truncated, not rounded"
        elif abs(mean - average.claim) <= unit / 2 + 100 * ROUNDING:
            verdict = "only if nearly all terms were rounded the same way"
        else:
            verdict = "does not recompute"
        rows.append({**asdict(average), "terms": len(terms), "mean": mean, "verdict": verdict})
    return rows


def _terms(average: Average) -> list[float]:
    if average.table == "Table 2":
        return [
            row.auroc
            for row in TABLE2
            if row.method == average.method
            and average.id in (None, row.id)
            and row.ood not in average.without
        ]
    return list((TABLE3 if average.table == "Table 3" else TABLE4)[average.method])


def audit() -> dict[str, Any]:
    """Every row of Table 2 and every average, as JSON-ready facts."""
    verdicts = [judge(row) for row in TABLE2]
    ours, best = (
        sum(terms) / len(terms)
        for terms in (_terms(Average(0, "Table 2", method)) for method in (MASS, "Energy"))
    )
    return {
        "command": "approxmass paper audit",
        "assumes": "balanced classes, one score an image, no large blocks of tied scores",
        "rounding": ROUNDING,
        "grid_error": GRID_ERROR,
        "rows": [{**asdict(each), "verdict": each.verdict} for each in verdicts],
        "averages": audit_averages(),
        "improvement": {
            "claim": "16%",
            "relative_percent": 100 * (ours / best - 1),
            "points": 100 * (ours - best),
        },
    }


def markdown(facts: dict[str, Any]) -> str:
    """Three tables: rows, averages, and the claimed improvement."""

    def shown(allowed: Any) -> str:
        return "none" if allowed is None else f"{allowed[0]:.3f}-{allowed[1]:.3f}"

    lines = [
        "| method | pair | AUROC / AUPR / TNR95 | AUPR at this AUROC | with TNR, same class "
        "| with TNR, opposite | balanced, per image | "
        + " | ".join(f"{share} ID" for share in SHARES)
        + " |",
        "|---|---|---|---|---|---|---|" + "---|" * len(SHARES),
    ]
    for each in facts["rows"]:
        row = each["row"]
        numbers = f"{row['auroc']:.3f} / {row['aupr']:.3f} / {row['tnr95']:.3f}"
        ranges = (shown(each[name]) for name in ("any", "same", "opposite"))
        pair = f"{row['id']} → {row['ood']}"
        at = ("possible" if each["possible_at"][share] else "impossible" for share in SHARES)
        cells = " | ".join((row["method"], pair, numbers, *ranges, each["verdict"], *at))
        lines.append(f"| {cells} |")
    lines += ["", "| claimed mean AUROC | of | recomputed | |", "|---|---|---|---|"]
    for each in facts["averages"]:
        of = f"{each['table']}, {each['method']}"
        of += f", {each['id']}" if each["id"] else ""
        of += f", without {' and '.join(each['without'])}" if each["without"] else ""
        numbers = f"{each['claim']:g} | {of} ({each['terms']}) | {each['mean']:.2f}"
        lines.append(f"| {numbers} | {each['verdict']} |")
    gain = facts["improvement"]
    lines += [
        "",
        f'The improvement of "{gain["claim"]}" over the energy is {gain["relative_percent"]:.1f}% '
        f"relative, {gain['points']:.1f} points.",
    ]
    return "\n".join(lines)
