"""Figures 1 to 4: mass and log-likelihood of ID and OOD images as the training goes on.

The paper shows two epochs of a vanilla run and the end of a penalised one; here beside them is the
AUROC over all epochs kept, of both trainings.
"""

__all__ = ["FIGURES", "Figure", "check_drawing", "draw", "markdown", "run", "shown"]

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats
from ..errors import ApproxMassError
from ..evaluation.intervals import interval_text
from ..models.base import Statistic
from ..models.statistics import STATISTICS
from .catalog import find_set
from .pixel_flow import TRAININGS, PixelFlow, recipe
from .protocols import PROTOCOLS, compare
from .runs import Order, Runs, check_only
from .sets import Sets
from .table1 import PAIRS


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a figure shows.

    Attributes:
        pair: Of Table 1.
        statistic: `mass` or `nll`.
        training: Whose histograms; the curve is of both.
        title: In words.
    """

    pair: str
    statistic: str
    training: str
    title: str

    @property
    def shown(self) -> Statistic:
        """What is known of its statistic: how it is called and drawn."""
        return STATISTICS[self.statistic]


FIGURES = {
    "fig1": Figure(
        pair="colour",
        statistic="mass",
        training="vanilla",
        title="approximate mass, maximum likelihood",
    ),
    "fig2": Figure(
        pair="colour",
        statistic="nll",
        training="vanilla",
        title="log-likelihood, maximum likelihood",
    ),
    "fig3": Figure(
        pair="grey",
        statistic="mass",
        training="penalised",
        title="approximate mass, with the penalty",
    ),
    "fig4": Figure(
        pair="grey",
        statistic="nll",
        training="penalised",
        title="log-likelihood, with the penalty",
    ),
}
_BINS = 40
# Test images a set at laptop scale.
_MOST = 500
# Seconds to score one epoch.
_SCORING = 15.0


def run(name: str, order: Order) -> dict[str, Any]:
    """Make the rows of an order, one for each training and epoch; `only` is of the trainings.

    Arguments:
        name: Of `FIGURES`.
        order: What to make.

    Returns:
        The facts in its target.

    Raises:
        ApproxMassError: an unknown row, image sets that are not there, or a target of another run.
    """
    figure = FIGURES[name]
    protocol = order.protocol or "balanced"
    pair = PAIRS[figure.pair]
    trainings = [each for each in TRAININGS if each != "untrained"]
    check_only(order.only, trainings, name)
    sets = Sets(pair.id, (pair.ood,), order.data, most=order.at_laptop(_MOST))
    identity = {
        "command": f"approxmass paper {name}",
        "scale": order.scale,
        "protocol": PROTOCOLS[protocol],
        "id": sets.title,
        "ood": find_set(pair.ood, "test", order.data).title,
    }
    runs = Runs(order.target, ("training", "epoch"), identity, resume=order.resume)
    how = recipe(order.scale, pair.channels)
    todo = [
        (
            (training, epoch),
            f"{training} epoch {epoch}",
            _SCORING + (how.seconds.get(training, 0.0) if epoch == 0 else 0.0),
        )
        for training in trainings
        for epoch in (0, *how.epochs)
        if order.wants(training) and not runs.has(training, epoch)
    ]
    sign = figure.shown.shown_sign
    for training, epochs in groupby(order.go_through(todo), itemgetter(0)):
        flow = PixelFlow(sets.train, training, how)
        for _, epoch in epochs:
            inside, outside = (
                flow.scores(images, epoch)[figure.statistic]
                for images in (sets.test, sets.oods[pair.ood].images)
            )
            runs.keep(
                {
                    "training": training,
                    "epoch": epoch,
                    "metrics": compare(inside, outside, protocol),
                    "histogram": _histogram(sign * inside, sign * outside),
                    "flow": flow.describe() if epoch == how.epochs[-1] else None,
                }
            )
    return runs.facts


def _histogram(inside: Floats, outside: Floats) -> dict[str, list[float]]:
    """Shares of images by bin; all but the farthest half percent at each end lie within."""
    low, high = np.percentile(np.r_[inside, outside], [0.5, 99.5])
    edges = np.linspace(low, high, _BINS + 1)
    found = {"edges": [float(f"{edge:.6g}") for edge in edges]}
    for name, values in (("id", inside), ("ood", outside)):
        clipped = np.clip(values, low, high)
        found[name] = (np.histogram(clipped, edges)[0] / len(values)).round(5).tolist()
    return found


def shown(facts: dict[str, Any], figure: Figure) -> list[dict[str, Any]]:
    """The rows whose histograms are drawn: after the first epoch, in the middle, and at the end."""
    rows = [row for row in facts["rows"] if row["training"] == figure.training]
    rows = sorted((row for row in rows if row["epoch"] > 0), key=lambda row: int(row["epoch"]))
    places = {0, len(rows) // 2, len(rows) - 1} if rows else set()
    return [rows[place] for place in sorted(places)]


def check_drawing() -> None:
    """What `draw` needs is there.

    Raises:
        ApproxMassError: it is not.
    """
    if any(find_spec(name) is None for name in ("altair", "vl_convert")):
        raise ApproxMassError(
            "figures need altair and vl-convert-python: pip install altair vl-convert-python",
            code="missing-library",
        )


def draw(name: str, facts: dict[str, Any], target: Path) -> None:
    """Write the figure beside the JSON file `target`, as SVG and PNG."""
    import altair as alt

    figure = FIGURES[name]
    rows = shown(facts, figure)
    tallest = max(
        (max(row["histogram"][side]) for row in rows for side in ("id", "ood")), default=1
    )
    histograms = [_histogram_chart(alt, row, facts, figure, tallest) for row in rows]
    title = alt.TitleParams(
        f"{facts['id']} against {facts['ood']}: {figure.title}",
        subtitle=f"{facts['protocol']}, {facts['scale']} scale",
        anchor="start",
        offset=14,
    )
    parts = [*([alt.hconcat(*histograms)] if histograms else []), _curve(alt, facts, figure)]
    page = (
        alt.vconcat(*parts, title=title)
        .resolve_scale(color="independent")
        .configure(background="white")
        .configure_view(strokeWidth=0)
    )
    page.save(target.with_suffix(".svg"))
    page.save(target.with_suffix(".png"), scale_factor=2)


def _histogram_chart(
    alt: Any, row: dict[str, Any], facts: dict[str, Any], figure: Figure, tallest: float
) -> Any:
    """The histograms of one epoch, ID and OOD over each other."""
    bins = row["histogram"]
    values = [
        {"low": low, "high": high, "share": share, "images": facts[side]}
        for side in ("id", "ood")
        for low, high, share in zip(bins["edges"][:-1], bins["edges"][1:], bins[side], strict=True)
    ]
    area = row["metrics"]["auroc"]["value"]
    return (
        alt.Chart(alt.InlineData(values), title=f"epoch {row['epoch']}: AUROC {area:.3f}")
        .mark_bar(opacity=0.65, binSpacing=0)
        .encode(
            x=alt.X(
                "low:Q",
                bin="binned",
                title=figure.shown.shown_axis,
                axis=alt.Axis(tickCount=4, grid=False),
            ),
            x2="high:Q",
            y=alt.Y(
                "share:Q",
                stack=None,
                title="share of images",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, tallest]),
            ),
            color=alt.Color(
                "images:N",
                scale=alt.Scale(domain=[facts["id"], facts["ood"]], range=["#3b6fb6", "#d1603d"]),
                legend=alt.Legend(orient="bottom", title=None, labelLimit=400, symbolOpacity=1),
            ),
        )
        .properties(width=250, height=170)
    )


def _curve(alt: Any, facts: dict[str, Any], figure: Figure) -> Any:
    """AUROC over the epochs of both trainings, with its intervals."""
    values = [
        {
            "epoch": row["epoch"],
            "training": row["training"],
            **{side: row["metrics"]["auroc"][side] for side in ("value", "low", "high")},
        }
        for row in facts["rows"]
    ]
    base = alt.Chart(
        alt.InlineData(values), title=f"AUROC of the {figure.shown.title} over the epochs"
    ).encode(
        x=alt.X(
            "epoch:Q",
            title="epoch (0: untrained)",
            axis=alt.Axis(grid=False, tickMinStep=1, format="d"),
        )
    )
    colour = alt.Color(
        "training:N",
        scale=alt.Scale(domain=["vanilla", "penalised"], range=["#7a7a7a", "#2a8a57"]),
        legend=alt.Legend(orient="bottom", title=None, symbolOpacity=1),
    )
    scale = alt.Scale(domain=[0, 1])
    chance = (
        alt.Chart(alt.InlineData([{"chance": 0.5}]))
        .mark_rule(strokeDash=[4, 4], color="#999999")
        .encode(y="chance:Q")
    )
    return alt.layer(
        chance,
        base.mark_area(opacity=0.18).encode(
            y=alt.Y("low:Q", scale=scale, title="AUROC"), y2="high:Q", color=colour
        ),
        base.mark_line(point=True).encode(y=alt.Y("value:Q", scale=scale), color=colour),
    ).properties(width=880, height=170)


def markdown(name: str, facts: dict[str, Any]) -> str:
    """AUROC by epoch, of both trainings."""
    statistic = FIGURES[name].shown.title
    found = {(row["training"], row["epoch"]): row["metrics"]["auroc"] for row in facts["rows"]}
    trainings = list(dict.fromkeys(training for training, _ in found))
    lines = [
        f"| {facts['id']} → {facts['ood']}, {facts['protocol']}: AUROC of the {statistic} | "
        + " | ".join(trainings)
        + " |",
        "|---|" + "---|" * len(trainings),
    ]
    for epoch in sorted({epoch for _, epoch in found}):
        cells = [
            f"{area['value']:.3f} [{interval_text(area['low'], area['high'], ', ')}]"
            if area
            else ""
            for area in (found.get((training, epoch)) for training in trainings)
        ]
        lines.append(f"| epoch {epoch} | {' | '.join(cells)} |")
    return "\n".join(lines)
