"""Terminal tables: the same facts as the JSON, for people."""

__all__ = ["evaluation_table", "facts_table"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from .evaluation import Evaluation


def evaluation_table(evaluation: "Evaluation") -> Table:
    """One row for each set of outliers and score; every metric names its positive class."""
    first = evaluation.rows[0].metrics
    table = Table(
        title=f"in-distribution: {evaluation.id}\n{evaluation.protocol} "
        f"({first.n_id:,} + {first.n_ood:,}); 95% intervals by bootstrap",
        title_justify="left",
        caption="The class in brackets is the positive one. TNR95: outliers rejected where 95% of "
        "ID pass. FPR95: ID flagged where 95% of outliers are caught.",
        caption_justify="left",
    )
    table.add_column("outliers", overflow="fold")
    table.add_column("score")
    for title in ("AUROC", "AUPR\n(ID)", "AUPR\n(OOD)", "TNR95\n(ID)", "FPR95\n(OOD)"):
        table.add_column(title, justify="right")
    previous = None
    for row in evaluation.rows:
        m = row.metrics
        area = f"{m.auroc.value:.4f} [dim]{m.auroc.low:.3f}-{m.auroc.high:.3f}[/dim]"
        others = (
            m.aupr_id_positive,
            m.aupr_ood_positive,
            m.tnr95_id_positive,
            m.fpr95_ood_positive,
        )
        if previous not in (None, row.ood):
            table.add_section()
        name = row.ood if row.ood != previous else ""
        table.add_row(name, row.score, area, *(f"{each.value:.3f}" for each in others))
        previous = row.ood
    return table


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Two columns of names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table
