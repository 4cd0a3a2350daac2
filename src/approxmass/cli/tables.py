"""Terminal tables: the same facts as the JSON, for people."""

__all__ = [
    "comparison_table",
    "describe_methods",
    "evaluation_tables",
    "explanations_table",
    "facts_table",
    "methods_table",
    "places_table",
]

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from ..evaluation.intervals import Interval, interval_text

if TYPE_CHECKING:
    from ..baselines import Baseline
    from ..evaluation.localize import Localization, Localizations
    from ..evaluation.protocol import Evaluation


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
                interval_text(m.auroc.low, m.auroc.high),
                *(f"{each.value:.3f}" for each in rest),
            )
        yield table


def places_table(places: "Localizations") -> Table:
    """A row for each set of outliers, and one for all: how well maps show what masks mark."""
    table = Table(
        title=f"maps of {escape(places.of)} against masks",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("outliers", overflow="fold")
    for column in (
        "pixel\nAUROC",
        "AU-PRO\nat 30%",
        "hottest\nplace on\na defect",
        "of those\nflagged",
    ):
        table.add_column(column, justify="right")
    for name, found in places.sets.items():
        table.add_row(escape(name), *_places_cells(found))
    if len(places.sets) > 1:
        table.add_section()
        table.add_row("all", *_places_cells(places.together))
    return table


def _places_cells(found: "Localization | None") -> list[str]:
    if found is None:
        return ["-", "-", "no pixel is\nmarked", "-"]

    def cell(interval: Interval | None, of: str = "") -> str:
        if interval is None:
            return "-"
        return f"{interval.value:.3f}{of}\n[dim]{interval_text(interval.low, interval.high)}[/dim]"

    return [
        cell(found.pixel_auroc),
        cell(found.au_pro),
        cell(found.hits, f" of {found.defects:,}"),
        cell(found.flagged_hits, f" of {found.flagged:,}"),
    ]


def comparison_table(facts: Mapping[str, Any], ood: str, unit: str) -> Table:
    """A row for each line of a comparison on one set of outliers, and what the penalty adds.

    `unit` is what it scores: images, or rows.
    """
    inside = facts["id"]
    table = Table(
        title=f"{escape(ood)} against {escape(inside)}\n"
        f"per {unit}, {facts['counts'][inside]:,} + {facts['counts'][ood]:,}",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("line", min_width=26)
    for column in ("AUROC", "95%\ninterval", "at 5%:\nusual", "at 5%:\nothers"):
        table.add_column(column, justify="right")
    last = None
    for line in facts["lines"]:
        if last not in (None, line["of"]):
            table.add_section()
        last = line["of"]
        area, name = line["auroc"][ood], line["name"]
        table.add_row(
            name if last == "plain" else f"{name}, {last}",
            f"{area['value']:.4f}",
            interval_text(area["low"], area["high"]),
            f"{line['flagged'][inside]:.1%}",
            f"{line['flagged'][ood]:.1%}",
        )
    table.add_section()
    for name, by_set in facts["penalised_less_vanilla"].items():
        area = by_set[ood]
        between = f"{area['low']:+.3f}..{area['high']:+.3f}"
        table.add_row(f"{name}: penalised - vanilla", f"{area['value']:+.4f}", between, "", "")
    return table


def explanations_table(facts: Mapping[str, Any], unit: str) -> Table:
    """A row for each image, or what else `unit` says, that was explained."""
    pictures = any(row["picture"] for row in facts["images"])
    table = Table(title=f"{unit.capitalize()}s", title_justify="left", title_style="bold")
    table.add_column(unit, overflow="fold")
    if pictures:
        table.add_column("picture", overflow="fold")
    table.add_column("p-value", justify="right")
    table.add_column("verdict")
    table.add_column("p of\nthe map" if pictures else "p of its\ngradient", justify="right")
    table.add_column("components, share of the squared gradient", overflow="fold")
    for row in facts["images"]:
        parts = ", ".join(
            f"{'#' * part['component'].isdigit()}{part['component']} {part['share']:.0%}"
            for part in row["components"]
        )
        verdict = "outlier" if row["is_outlier"] else "in-distribution"
        p = f"{row['p_value']:.3g}"
        by_map = f"{row['map']['p_value']:.3g}"
        shown = [escape(row["picture"] or "-")] if pictures else []
        table.add_row(escape(row["name"]), *shown, p, verdict, by_map, parts or "-")
    return table


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


def describe_methods(kinds: Mapping[str, "type[Baseline]"]) -> dict[str, Any]:
    """What each method is, what it needs, and its options with their defaults."""
    return {
        name: {
            "what": (kind.__doc__ or "").partition("\n")[0],
            "labels": kind.needs_labels,
            "outliers": "needed"
            if kind.needs_outliers
            else "possible"
            if kind.takes_outliers
            else "",
            "options": kind().options(),
        }
        for name, kind in kinds.items()
    }


def methods_table(facts: Mapping[str, Any]) -> Table:
    """Two columns: the name, and all there is to say."""
    table = Table(title="Methods besides the flow", title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, method in facts.items():
        needs = ["labels"] if method["labels"] else []
        if method["outliers"]:
            needs.append("outliers" if method["outliers"] == "needed" else "outliers if given")
        lines = [escape(method["what"])]
        if needs:
            lines.append(f"besides images learns from {', '.join(needs)}")
        options = " ".join(f"{option}={value}" for option, value in method["options"].items())
        table.add_row(name, "\n".join([*lines, f"[dim]{escape(options)}[/dim]"]), end_section=True)
    return table
