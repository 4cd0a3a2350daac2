"""Terminal tables: the same facts as the JSON, for people."""

__all__ = ["LEGEND", "evaluation_tables", "facts_table"]

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from .evaluation import Evaluation


def evaluation_tables(evaluation: "Evaluation") -> Iterator[Table]:
    """A table for each set of outliers, a row for each score; every metric names its class."""
    for ood, rows in groupby(evaluation.rows, key=lambda row: row.ood):
        first, *others = rows
        m = first.metrics
        table = Table(
            title=f"{ood} against {evaluation.id}\n{evaluation.protocol}, {m.n_id:,} + {m.n_ood:,}",
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
    "Larger score = more out-of-distribution. ID or OOD after a metric: its positive class.\n"
    "TNR95: share of OOD rejected where 95% of ID pass; FPR95: share of ID flagged where 95%\n"
    "of OOD are caught. Intervals by bootstrap."
)


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Two columns of names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table
