"""The picture of the README: what the penalty does to the mass, on the images of the package.

    python tools/readme_figure.py docs/figures/penalty.json

Writes the numbers as JSON, and a PNG and SVG beside it. Needs altair and vl-convert-python.
"""

import sys
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from approxmass import Detector
from approxmass.arrays import Floats
from approxmass.cli.demo import ID_TEST, OOD_TEST, TRAIN
from approxmass.evaluation.metrics import ood_metrics
from approxmass.runtime.machine import machine_facts
from approxmass.storage.atomic import write_json

NAMES = {ID_TEST: "FashionMNIST, held out", OOD_TEST: "MNIST"}
COLOURS = ["#3b6fb6", "#d1603d"]


def histogram(scores: dict[str, Floats], title: str) -> alt.Chart:
    """Shares of images by mass, on a logarithmic axis."""
    edges = np.geomspace(1, 1000, 61)
    rows = [
        {"low": low, "high": high, "share": share, "images": NAMES[name]}
        for name, values in scores.items()
        for low, high, share in zip(
            edges[:-1], edges[1:], np.histogram(values, edges)[0] / len(values), strict=True
        )
    ]
    return (
        alt.Chart(alt.Data(values=rows), title=title)
        .mark_bar(opacity=0.65, binSpacing=0)
        .encode(
            x=alt.X(
                "low:Q",
                bin="binned",
                title="approximate mass",
                scale=alt.Scale(type="log", domain=[1, 1000]),
                axis=alt.Axis(values=[1, 10, 100, 1000], grid=False),
            ),
            x2="high:Q",
            y=alt.Y(
                "share:Q",
                stack=None,
                title="share of images",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, 0.16]),
            ),
            color=alt.Color(
                "images:N",
                scale=alt.Scale(domain=list(NAMES.values()), range=COLOURS),
                legend=alt.Legend(orient="bottom", title=None, labelLimit=300),
            ),
        )
        .properties(width=330, height=200)
    )


def main(target: Path) -> None:
    """Fit with and without the penalty, and draw both."""
    facts: dict[str, Any] = {"machine": machine_facts(), "protocol": "per image, balanced"}
    charts = []
    for name, alpha in (("maximum likelihood", 0.0), ("with the penalty", "auto")):
        detector = Detector(alpha=alpha).fit(TRAIN, progress=True)
        mass = {source: detector.score(source).mass for source in NAMES}
        metrics = ood_metrics(mass[ID_TEST], mass[OOD_TEST])
        facts[name] = {"training": detector.model.facts()["training"], "mass": metrics.as_dict()}
        charts.append(histogram(mass, f"{name}: AUROC {metrics.auroc.value:.3f}"))
    write_json(target, facts)
    figure = alt.hconcat(*charts).configure(background="white").configure_view(strokeWidth=0)
    figure.save(target.with_suffix(".svg"))
    figure.save(target.with_suffix(".png"), scale_factor=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
