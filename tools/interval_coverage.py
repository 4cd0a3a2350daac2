"""How often the 95% intervals of the metrics hold the true value, by simulation.

    python tools/interval_coverage.py results/interval_coverage.json

A point is a law of the scores, a true AUROC and two numbers of scores. Its true values are exact:
sums for rounded scores, integrals for the others. Where one of 1,000 draws covers less than 93.5%,
the point is drawn 4,000 times anew, and those alone count: else the lowest of so many points would
be the unluckiest. The intervals are those of `ood_metrics` before they are widened to hold its
value. Stopped, it goes on with the next point.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from approxmass.evaluation.intervals import limits
from approxmass.paper.runs import Runs

LAWS = {
    "normal": "normal, equal variance",
    "wide": "normal, OOD twice as wide",
    "narrow": "normal, OOD half as wide",
    "t3": "t, 3 degrees of freedom",
    "exponential": "exponential, two scales",
    "rounded": "normal, rounded to halves",
    "groups of 5": "means of 5 exponentials",
    "groups of 10": "means of 10 exponentials",
}
AREAS = (0.6, 0.75, 0.9, 0.97, 0.99, 0.9985, 0.9999)
SIZES = (
    (31, 31),
    (62, 62),
    (100, 100),
    (300, 300),
    (31, 1000),
    (1000, 62),
    (1000, 1000),
    (10000, 10000),
)
METRICS = ("AUROC", "AUPR ID", "AUPR OOD", "TNR95", "FPR95")
DRAWS, AGAIN, DOUBT = 1000, 4000, 0.935
_CELLS = 2**16
_LOGITS = np.linspace(-40, 40, 8001)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """Distributions of ID and OOD scores, the scores in a group, and whether rounded to halves."""

    inside: Any
    outside: Any
    draw: Callable[[np.random.Generator, tuple[int, ...]], tuple[Array, Array]]
    group: int = 1
    rounded: bool = False

    def scores(self, rng: np.random.Generator, rows: int, n: int, m: int) -> tuple[Array, Array]:
        """ID `(rows, n)` and OOD `(rows, m)`."""
        ids = self.draw(rng, (rows, n, self.group))[0].mean(axis=2)
        oods = self.draw(rng, (rows, m, self.group))[1].mean(axis=2)
        return (np.round(2 * ids) / 2, np.round(2 * oods) / 2) if self.rounded else (ids, oods)


def law_of(name: str, area: float) -> Law:
    """A law with this AUROC (before rounding)."""
    if name in ("normal", "wide", "narrow", "rounded"):
        sd = {"wide": 2.0, "narrow": 0.5}.get(name, 1.0)
        far = stats.norm.ppf(area) * np.hypot(1, sd)

        def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
            drawn = rng.normal(size=shape)
            return drawn, far + sd * drawn

        return Law(stats.norm(), stats.norm(far, sd), normal, rounded=name == "rounded")
    if name == "t3":
        places = special.expit(_LOGITS[::8])
        at = stats.t.ppf(places, 3)
        far = optimize.brentq(
            lambda d: np.trapezoid(stats.t.cdf(at + d, 3), places) - area, 0, 60, xtol=1e-10
        )

        def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
            drawn = rng.standard_t(3, size=shape)
            return drawn, far + drawn

        return Law(stats.t(3), stats.t(3, loc=far), heavy)
    group = int(name.rsplit(" ", 1)[1]) if name != "exponential" else 1
    part = special.betaincinv(group, group, area)
    scale = part / (1 - part)

    def exponential(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
        drawn = rng.exponential(size=shape)
        return drawn, scale * drawn

    inside, outside = (stats.gamma(group, scale=each / group) for each in (1, scale))
    return Law(inside, outside, exponential, group)


def truth(law: Law, share: float) -> Array:
    """The five metrics of ever more scores; AUPR with this share of ID."""
    f, g = law.inside, law.outside
    if law.rounded:
        edges = np.arange(-40, 60) / 2 + 0.25
        at_id, at_ood = (np.diff(d.cdf(edges), prepend=0) for d in (f, g))
        below_id, below_ood = f.cdf(edges), g.cdf(edges)
        from_id, from_ood = f.sf(edges - 0.5), g.sf(edges - 0.5)
        tnr = 1 - below_ood[np.argmax(below_id >= 0.95)]
        fpr = from_id[np.flatnonzero(from_ood >= 0.95)[-1]]
        area = (at_id * (1 - below_ood + at_ood / 2)).sum()
    else:
        # Even in log odds, so that both tails are seen.
        places = special.expit(_LOGITS)
        lower = _LOGITS < 0
        x, y = (np.where(lower, d.ppf(places), d.isf(special.expit(-_LOGITS))) for d in (f, g))
        at_id = at_ood = places * (1 - places) * (_LOGITS[1] - _LOGITS[0])
        below_id, below_ood, from_id, from_ood = f.cdf(x), g.cdf(x), f.sf(y), g.sf(y)
        tnr, fpr = g.sf(f.ppf(0.95)), f.sf(g.ppf(0.05))
        area = (at_id * g.sf(x)).sum()
    right, false = share * below_id, (1 - share) * below_ood
    aupr_id = (at_id * right / np.maximum(right + false, 1e-300)).sum()
    right, false = (1 - share) * from_ood, share * from_id
    aupr_ood = (at_ood * right / np.maximum(right + false, 1e-300)).sum()
    return np.array([area, aupr_id, aupr_ood, tnr, fpr])


def counts(ids: Array, oods: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Scores at each threshold of their own row."""
    rows, n = ids.shape
    both = np.concatenate([ids, oods], axis=1)
    order = both.argsort(axis=1)
    ordered = np.take_along_axis(both, order, axis=1)
    codes = np.concatenate(
        [np.zeros((rows, 1), int), (np.diff(ordered, axis=1) > 0).cumsum(axis=1)], axis=1
    )
    width = int(codes.max()) + 1
    cells, inside = codes + width * np.arange(rows)[:, None], order < n
    ours, theirs = (
        np.bincount(cells[which], minlength=rows * width).reshape(rows, width)
        for which in (inside, ~inside)
    )
    return ours, theirs


def delong(ids: NDArray[np.int64], oods: NDArray[np.int64]) -> tuple[Array, Array]:
    """The usual interval of AUROC, cut to [0, 1], for its coverage and width."""
    n, m = ids[0].sum(), oods[0].sum()
    of_id = 1 - (oods.cumsum(axis=1) - oods / 2) / m
    of_ood = (ids.cumsum(axis=1) - ids / 2) / n
    area = (ids * of_id).sum(axis=1) / n
    variance = (ids * (of_id - area[:, None]) ** 2).sum(axis=1) / (n * (n - 1))
    variance += (oods * (of_ood - area[:, None]) ** 2).sum(axis=1) / (m * (m - 1))
    half = 1.96 * np.sqrt(variance)
    return np.clip(area - half, 0, 1), np.clip(area + half, 0, 1)


def point(name: str, area: float, n: int, m: int, balanced: bool, draws: int) -> dict[str, Any]:
    """Coverage and mean width of all metrics."""
    law, share = law_of(name, area), 0.5 if balanced else n / (n + m)
    true = truth(law, share)
    rng = np.random.default_rng([list(LAWS).index(name), int(area * 10_000), n, m, draws])
    step = max(1, _CELLS // (n + m))
    found = []
    for start in range(0, draws, step):
        ids, oods = counts(*law.scores(rng, min(step, draws - start), n, m))
        low, high = limits(ids, oods, share)
        usual = delong(ids, oods)
        found.append([np.c_[low, usual[0]], np.c_[high, usual[1]]])
    low, high = np.concatenate(found, axis=1)
    true = np.r_[true, true[0]]
    covered, width = ((low <= true) & (true <= high)).mean(axis=0), (high - low).mean(axis=0)
    names = (*METRICS, "DeLong")
    return {
        "law": name,
        "auroc": area,
        "n_id": n,
        "n_ood": m,
        "balanced": balanced,
        "draws": draws,
        "true": dict(zip(METRICS, true.round(6).tolist(), strict=False)),
        "coverage": dict(zip(names, covered.round(4).tolist(), strict=True)),
        "width": dict(zip(names, width.round(6).tolist(), strict=True)),
    }


def main(target: Path) -> None:
    """Run what is not in `target` yet, small samples first."""
    identity = {"command": f"python tools/interval_coverage.py {target}"}
    runs = Runs(target, ("law", "auroc", "n_id", "n_ood", "balanced"), identity, resume=True)
    for n, m in SIZES:
        for balanced in (False, True) if n != m else (True,):
            for name in LAWS:
                for area in AREAS:
                    if not runs.has(name, area, n, m, balanced):
                        row = point(name, area, n, m, balanced, DRAWS)
                        if min(row["coverage"][metric] for metric in METRICS) < DOUBT:
                            row = point(name, area, n, m, balanced, AGAIN)
                        runs.keep(row)


def markdown(facts: dict[str, Any]) -> str:
    """The lowest coverage over all laws and AUROCs, a row for each size."""
    lines = [
        f"| ID + OOD scores | points | {' | '.join(METRICS)} | AUROC by DeLong |",
        "|---|---|" + "---|" * (len(METRICS) + 1),
    ]
    for n, m in SIZES:
        rows = [row for row in facts["rows"] if (row["n_id"], row["n_ood"]) == (n, m)]
        if rows:
            least = [
                f"{min(row['coverage'][metric] for row in rows):.3f}"
                for metric in (*METRICS, "DeLong")
            ]
            lines.append(f"| {n:,} + {m:,} | {len(rows)} | {' | '.join(least)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
