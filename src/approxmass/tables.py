"""Terminal tables: the same facts as the JSON, for people."""

__all__ = ["LEGEND", "describe", "evaluation_tables", "facts_table"]

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from .calibration import smallest_p_value
from .data import describe_shape

if TYPE_CHECKING:
    from .detector import Detector
    from .evaluation import Evaluation


def evaluation_tables(evaluation: "Evaluation") -> Iterator[Table]:
    """A table for each set of outliers, a row for each score; every metric names its class."""
    for ood, rows in groupby(evaluation.rows, key=lambda row: row.ood):
        first, *others = rows
        m = first.metrics
        table = Table(
            title=f"{escape(ood)} against {escape(evaluation.id)}\n"
            f"{evaluation.protocol}, {m.n_id:,} + {m.n_ood:,}",
            title_justify="left",
            title_style="bold",
        )
        table.add_column("score")
        for column in ("AUROC", "95% interval", "AUPR ID", "AUPR OOD", "TNR95 ID", "FPR95 OOD"):
            table.add_column(column.replace(" ", "\n"), justify="right")
        for row in (first, *others):
            m = row.metrics
            rest = (
                m.aupr_id_positive,
                m.aupr_ood_positive,
                m.tnr95_id_positive,
                m.fpr95_ood_positive,
            )
            table.add_row(
                row.score,
                f"{m.auroc.value:.4f}",
                f"{m.auroc.low:.3f}-{m.auroc.high:.3f}",
                *(f"{each.value:.3f}" for each in rest),
            )
        yield table


LEGEND = (
    "Larger score = more out-of-distribution. ID or OOD after a metric: its positive\n"
    "class. TNR95: share of OOD rejected where 95% of ID pass; FPR95: share of ID\n"
    "flagged where 95% of OOD are caught. Intervals by bootstrap."
)


def describe(detector: "Detector") -> dict[str, Any]:
    """What a person wants to know of a fitted detector, as plain types."""
    settings, facts = detector.settings, detector.facts
    images, last = facts["images"], detector.history[-1]
    scores = detector.calibration[settings.statistic]
    mass = "" if last.mass is None else f", mass {last.mass:,.2f}"
    return {
        "space": settings.space,
        "flow": f"{settings.preset}, {facts['weights']:,} weights",
        "images": describe_shape(facts["shape"]),
        "dimension": facts["dimension"],
        "alpha": facts["training"]["alpha"],
        "epochs": facts["training"]["epochs"],
        "seed": settings.seed,
        "last epoch": f"NLL {last.nll:,.2f} nats{mass}",
        "fitted on": f"{images['training']:,} images of {images['source']}",
        "fingerprint": images["sha256"][:16],
        "calibrated on": f"{images['calibration']:,} held-out images",
        "statistic": settings.statistic,
        "threshold at 5%": float(np.quantile(scores, 0.95, method="higher")),
        "smallest p-value": smallest_p_value(scores),
        "fit seconds": facts["fit_seconds"],
        "notes": "; ".join(detector.notes) or "none",
    }


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Two columns of names and values."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        if isinstance(value, float):
            shown = f"{value:.4g}"
        table.add_row(name.replace("_", " "), escape(shown))
    return table
