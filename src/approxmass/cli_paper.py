"""The commands `approxmass paper ...`. Nothing here but parsing and printing."""

from pathlib import Path
from typing import Annotated

import typer

from .console import check_outputs, out
from .errors import ApproxMassError

paper = typer.Typer(
    help="The tables of the paper (Chali et al., 2023) beside our own numbers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Output = Annotated[Path, typer.Option("-o", metavar="DIR", help="Where the files go.")]
Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Local image sets, <set>/<split>.parquet; else from the hub."),
]
Scale = Annotated[str, typer.Option(help="laptop, or full for the published settings.")]
Only = Annotated[
    list[str] | None, typer.Option(metavar="ROW", help="Only this method; may be repeated.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is there.")]
HERE = Path("approxmass-paper")


@paper.command()
def audit(output: Output = HERE) -> None:
    """Find published rows that no balanced, per-image test can give."""
    from .artifact import write_json, write_text
    from .paper.audit import audit as examine
    from .paper.audit import markdown

    check_outputs(output / "audit.json", output / "audit.md")
    facts = examine()
    write_json(output / "audit.json", facts)
    write_text(output / "audit.md", markdown(facts))
    for row in facts["rows"]:
        if row["verdict"] != "possible":
            names = row["row"]
            line = f"{names['method']}, {names['id']} against {names['ood']}: {row['verdict']}"
            out.print(line, soft_wrap=True, markup=False)
    for row in facts["averages"]:
        if row["verdict"] != "recomputes":
            line = f"{row['table']}, mean of {row['method']}: {row['claim']:g} claimed, "
            out.print(f"{line}{row['mean']:.2f} recomputed: {row['verdict']}", soft_wrap=True)
    out.print(f"All rows and bounds are in {output}/")


@paper.command("table4", help="One class of CIFAR-10 against the other nine.")
@paper.command("table3", help="One digit of MNIST against the other nine.")
def one_class(
    context: typer.Context,
    output: Output = HERE,
    data: Data = None,
    scale: Scale = "laptop",
    only: Only = None,
    resume: Resume = False,
) -> None:
    """Table 3 or 4, by the name under which it is called."""
    from .artifact import write_text
    from .paper.one_class import TABLES, markdown, run
    from .progress import RowBar

    if scale not in ("laptop", "full"):
        raise ApproxMassError(f"--scale is laptop or full, not {scale!r}")
    name = str(context.command.name)
    target = output / f"{name}.json"
    check_outputs(target, output / f"{name}.md")
    table = TABLES[name]
    with RowBar() as bar:
        try:
            facts = run(
                table,
                data,
                target,
                scale=scale,
                only=only or [],
                resume=resume,
                on_start=bar.plan if scale == "laptop" else None,
                on_row=bar.done,
            )
        except KeyboardInterrupt:
            bar.remark("stopped; the rows done are kept: repeat the command with --resume")
            raise typer.Exit(130) from None
    text = markdown(table, facts)
    write_text(output / f"{name}.md", text)
    out.print(text, soft_wrap=True, markup=False)
