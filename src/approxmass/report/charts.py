"""The charts of the report and of the server's page, as Vega-Lite specifications.

Colours of text and lines are left to the page, which has a light and a dark side.
"""

__all__ = [
    "calibration_chart",
    "calibration_histogram",
    "histogram",
    "operating_charts",
    "training_chart",
    "vega_script",
]

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import precision_recall_curve, roc_curve

from ..arrays import Floats
from ..runtime.extras import require_extra

if TYPE_CHECKING:
    from ..training.flow import EpochRecord

Spec = dict[str, Any]

# The in-distribution set first; readable on white and on black, and told apart by the colour-blind.
_COLOURS = ["#2f81c7", "#e1622f", "#9467bd", "#c29a1d", "#2a9d6f", "#d1589a", "#7f7f7f"]
_HEIGHT = 200
_BINS = 80
# Points of a curve: more could not be seen.
_POINTS = 300


def _altair() -> Any:
    require_extra("report", "a chart")
    import altair

    return altair


@functools.cache
def vega_script() -> str:
    """The JavaScript that draws a specification, by `vegaEmbed(element, spec, options)`."""
    _altair()
    import vl_convert

    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub is wrong
    return script


def _spec(chart: Any) -> Spec:
    spec: Spec = chart.properties(width="container", height=_HEIGHT).to_dict()
    return spec


def _thinned(count: int) -> NDArray[np.int64]:
    """Places of at most `_POINTS` of so many points, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).astype(np.int64))


def _range(sets: Sequence[Floats], limit: float) -> tuple[float, float]:
    """From where to where to draw: all but the far ends, however far those of outliers are."""
    least, most = np.quantile(sets[0], [0.005, 0.995])
    spread = max(most - least, 1e-9)
    low = max(min(np.quantile(values, 0.005) for values in sets), least - 3 * spread)
    high = min(max(np.quantile(values, 0.995) for values in sets), most + 3 * spread)
    margin = 0.02 * spread
    if np.isfinite(limit):
        low, high = min(low, limit), max(high, limit)
    return float(low) - margin, float(high) + margin


def _bars(sets: Mapping[str, Floats], limit: float) -> list[dict[str, Any]]:
    edges = np.linspace(*_range(list(sets.values()), limit), _BINS + 1)
    return [
        {"set": name, "from": float(a), "to": float(b), "share": float(share)}
        for name, values in sets.items()
        for a, b, share in zip(
            edges,
            edges[1:],
            np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / len(values),
            strict=False,
        )
    ]


def _coloured(alt: Any, names: Sequence[str], start: int = 0) -> Any:
    """Colours by set; `start` 1 where the in-distribution set, which has the first, is left out."""
    colours = [_COLOURS[(start + i) % len(_COLOURS)] for i in range(len(names))]
    return alt.Color(
        "set:N",
        scale=alt.Scale(domain=list(names), range=colours),
        legend=alt.Legend(orient="top", title=None, labelLimit=260, columns=1),
    )


def histogram(sets: Mapping[str, Floats], title: str, limit: float, unit: str = "image") -> Spec:
    """Histograms of one score for several sets of images, with the threshold as a line.

    Values beyond the picture are counted in its outermost bars.

    Arguments:
        sets: Scores `(N,)` by name of the set, the in-distribution set first.
        title: Of the horizontal axis.
        limit: The threshold.
        unit: What one of the images is, in words.

    Example:
        >>> spec = histogram({"clothes": np.arange(9.0), "digits": np.arange(5.0, 20)}, "mass", 8.0)
        >>> round(sum(bar["share"] for bar in spec["layer"][0]["data"]["values"]), 6)
        2.0
    """
    alt = _altair()
    pick = alt.selection_point(fields=["set"], bind="legend")
    bars = (
        alt.Chart(alt.Data(values=_bars(sets, limit)))
        .mark_bar(binSpacing=0, opacity=0.55)
        .encode(
            x=alt.X("from:Q", bin="binned", title=title, scale=alt.Scale(zero=False, nice=False)),
            x2="to:Q",
            y=alt.Y("share:Q", stack=None, title=f"share of {unit}s", axis=alt.Axis(format="%")),
            color=_coloured(alt, list(sets)),
            opacity=alt.condition(pick, alt.value(0.55), alt.value(0.05)),
            tooltip=[
                "set:N",
                alt.Tooltip("from:Q", format=".4~g"),
                alt.Tooltip("to:Q", format=".4~g"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
        .add_params(pick)
    )
    return _spec(alt.layer(bars, _line(alt, limit)))


def _line(alt: Any, at: float) -> Any:
    return (
        alt.Chart(alt.Data(values=[{"threshold": at}] if np.isfinite(at) else []))
        .mark_rule(strokeDash=[5, 4], strokeWidth=2, color="#8a8f98")
        .encode(x="threshold:Q", tooltip=[alt.Tooltip("threshold:Q", format=".4~g")])
    )


def calibration_histogram(calibration: Floats, title: str, limit: float) -> Spec:
    """Histogram of the scores of held-out in-distribution images, with a mark that a page can move.

    The mark is the parameter `score`; it begins far to the left, out of sight.

    Arguments:
        calibration: Scores `(n,)`.
        title: Of the horizontal axis.
        limit: The threshold.
    """
    alt = _altair()
    low, high = _range([calibration], limit)
    high += 0.35 * (high - low)  # room for those beyond the threshold
    name = "in-distribution images"
    score = alt.param("score", value=low - 1e9)
    bars = (
        alt.Chart(alt.Data(values=_bars({name: calibration}, limit)))
        .mark_bar(binSpacing=0, opacity=0.6, color=_COLOURS[0])
        .encode(
            x=alt.X(
                "from:Q",
                bin="binned",
                title=title,
                scale=alt.Scale(domain=[low, high], nice=False, zero=False, clamp=True),
            ),
            x2="to:Q",
            y=alt.Y("share:Q", title="share of in-distribution images", axis=alt.Axis(format="%")),
        )
    )
    here = (
        alt.Chart(alt.Data(values=[{}]))
        .mark_rule(strokeWidth=3, color=_COLOURS[1], clip=True)
        .transform_calculate(at=f"min(score, {high})")
        .encode(x="at:Q")
    )
    return _spec(alt.layer(bars, _line(alt, limit), here).add_params(score))


def operating_charts(
    inside: Floats, outliers: Mapping[str, Floats], limit: float | None, unit: str = "image"
) -> tuple[Spec, Spec]:
    """ROC and precision-recall curves of one score, with the points where the threshold lies.

    Precision is that of equally many in-distribution images and outliers; outliers are the
    positive class.

    Arguments:
        inside: Scores `(N,)` of in-distribution images.
        outliers: Scores `(M,)` by name of the set.
        limit: The threshold: a score beyond it is called an outlier. None draws no points.
        unit: What one of them is, in words.
    """
    alt = _altair()
    curves: dict[str, list[dict[str, Any]]] = {"roc": [], "pr": []}
    points: dict[str, list[dict[str, Any]]] = {"roc": [], "pr": []}
    for name, outside in outliers.items():
        truth = np.repeat([0, 1], [len(inside), len(outside)])
        scores = np.concatenate([inside, outside])
        weight = np.repeat([1 / len(inside), 1 / len(outside)], [len(inside), len(outside)])
        false, caught, _ = roc_curve(truth, scores)
        precision, recall, _ = precision_recall_curve(truth, scores, sample_weight=weight)
        for kind, x, y in (("roc", false, caught), ("pr", recall, precision)):
            curves[kind] += [
                {"set": name, "x": float(x[i]), "y": float(y[i]), "order": int(i)}
                for i in _thinned(len(x))
            ]
        if limit is None:
            continue
        flagged, found = float((inside > limit).mean()), float((outside > limit).mean())
        points["roc"].append({"set": name, "x": flagged, "y": found})
        if flagged + found > 0:
            points["pr"].append({"set": name, "x": found, "y": found / (flagged + found)})

    def chart(kind: str, x: str, y: str) -> Spec:
        share = {"axis": alt.Axis(format="%"), "scale": alt.Scale(domain=[0, 1])}
        horizontal, vertical = alt.X("x:Q", title=x, **share), alt.Y("y:Q", title=y, **share)
        colour = _coloured(alt, list(outliers), start=1)
        curve = (
            alt.Chart(alt.Data(values=curves[kind]))
            .mark_line(clip=True, strokeWidth=2)
            .encode(x=horizontal, y=vertical, color=colour, order="order:Q")
        )
        point = (
            alt.Chart(alt.Data(values=points[kind]))
            .mark_point(size=90, filled=True, opacity=1)
            .encode(
                x=horizontal,
                y=vertical,
                color=colour,
                tooltip=[
                    "set:N",
                    alt.Tooltip("x:Q", title=x, format=".1%"),
                    alt.Tooltip("y:Q", title=y, format=".1%"),
                ],
            )
        )
        return _spec(alt.layer(curve, point))

    return (
        chart("roc", f"in-distribution {unit}s flagged", "outliers caught"),
        chart("pr", "recall: outliers caught", "precision: outliers among those flagged"),
    )


def calibration_chart(p_values: Floats, calibration: int, unit: str = "image") -> Spec:
    """Share of in-distribution images with a p-value of at most e, beside what it should be.

    The band holds that share for 95% of draws of the calibration set and of these images.

    Arguments:
        p_values: Of in-distribution images `(N,)` that were not calibrated on.
        calibration: Number of images calibrated on.
        unit: What one of them is, in words.
    """
    alt = _altair()
    count = len(p_values)
    steps = np.unique(np.linspace(1, calibration, min(calibration, 200)).astype(int))
    observed = np.searchsorted(np.sort(p_values), steps / (calibration + 1) + 1e-12, "right")
    # With k of n + 1 ranks called, the chance that a new image is called is Beta(k, n + 1 - k).
    spread = stats.betabinom(count, steps, calibration + 1 - steps)
    rows = [
        {"e": float(e), "share": float(share), "low": float(low), "high": float(high)}
        for e, share, low, high in zip(
            steps / (calibration + 1),
            observed / count,
            spread.ppf(0.025) / count,
            spread.ppf(0.975) / count,
            strict=True,
        )
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("e:Q", title="p-value", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="~g"))
    )
    vertical = alt.Y(
        "share:Q",
        title=f"share of {unit}s at or below",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%"),
    )
    band = base.mark_area(opacity=0.18, color="#8a8f98").encode(
        y=alt.Y("low:Q", title=f"share of {unit}s at or below"), y2="high:Q"
    )
    ideal = base.mark_line(strokeDash=[5, 4], color="#8a8f98").encode(y="e:Q")
    line = base.mark_line(color=_COLOURS[0], strokeWidth=2).encode(
        y=vertical,
        tooltip=[
            alt.Tooltip("e:Q", title="p-value", format=".3~g"),
            alt.Tooltip("share:Q", format=".1%"),
        ],
    )
    return _spec(alt.layer(band, ideal, line))


def training_chart(history: Sequence["EpochRecord"], what: str, title: str) -> Spec:
    """One column of the history of a training, over its epochs.

    Arguments:
        history: An entry an epoch.
        what: `nll`, `mass` or `learning_rate`.
        title: Of the vertical axis.
    """
    alt = _altair()
    rows = [
        {"epoch": record.epoch, "value": getattr(record, what)}
        for record in history
        if getattr(record, what) is not None
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True, color=_COLOURS[0])
        .encode(
            x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d", grid=False)),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=what == "learning_rate")),
            tooltip=["epoch:Q", alt.Tooltip("value:Q", title=title, format=".4~g")],
        )
    )
    return _spec(chart)
