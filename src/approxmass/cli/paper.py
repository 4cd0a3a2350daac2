"""The commands `approxmass paper ...`. Nothing here but parsing and printing."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ApproxMassError
from .console import check_outputs, out, say

paper = typer.Typer(
    help="The tables and figures of the paper (Chali et al., 2023) beside our own numbers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Output = Annotated[Path, typer.Option("-o", metavar="DIR", help="Where the files go.")]
Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Local image sets, <set>/<split>.parquet; else from the hub."),
]
Scale = Annotated[str, typer.Option(help="laptop, or full for the published settings.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="balanced (one score an image), group (32 images a score) or released (as the "
        "authors' code). By default table1 has all three and the others the first."
    ),
]
Only = Annotated[
    list[str] | None, typer.Option(metavar="ROW", help="Only this method; may be repeated.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is there.")]
HERE = Path("approxmass-paper")


@paper.command()
def audit(output: Output = HERE) -> None:
    """Find published rows that no balanced, per-image test can give."""
    from ..paper.audit import audit as examine
    from ..paper.audit import markdown
    from ..runtime.machine import is_main_process
    from ..storage.atomic import write_json, write_text

    if not is_main_process():
        return

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


def _experiment(name: str) -> Callable[..., None]:
    """The command of a table or figure."""

    def command(
        output: Output = HERE,
        data: Data = None,
        scale: Scale = "laptop",
        protocol: Protocol = None,
        only: Only = None,
        resume: Resume = False,
    ) -> None:
        _run(name, output, data, scale, protocol, only or [], resume)

    return command


for _name, _help in {
    "table1": "A flow with and without the penalty, under three protocols.",
    "table2": "All methods on nine pairs of image sets.",
    "table3": "One digit of MNIST against the other nine.",
    "table4": "One class of CIFAR-10 against the other nine.",
    "fig1": "The mass by epoch under maximum likelihood, CIFAR-10.",
    "fig2": "The log-likelihood by epoch under maximum likelihood, CIFAR-10.",
    "fig3": "The mass by epoch with the penalty, FashionMNIST.",
    "fig4": "The log-likelihood by epoch with the penalty, FashionMNIST.",
}.items():
    paper.command(_name, help=_help)(_experiment(_name))


@paper.command("all")
def everything(
    output: Output = HERE,
    data: Data = None,
    scale: Scale = "laptop",
    resume: Resume = False,
) -> None:
    """The audit, the four tables and the four figures, one after the other."""
    from ..paper.experiments import EXPERIMENTS
    from ..paper.figures import check_drawing
    from ..paper.runs import check_new

    # Whatever will be refused is refused before hours of work.
    check_drawing()
    for name in EXPERIMENTS:
        check_new(output / f"{name}.json", resume=resume)
    if scale == "laptop":
        minutes = sum(each.minutes for each in EXPERIMENTS.values())
        say(f"about {minutes / 60:.1f} hours on two cores, with nothing done yet")
    audit(output)
    for name in EXPERIMENTS:
        _run(name, output, data, scale, None, [], resume)


def _run(
    name: str,
    output: Path,
    data: Path | None,
    scale: str,
    protocol: str | None,
    only: list[str],
    resume: bool,
) -> None:
    from ..paper.cost import full_costs
    from ..paper.experiments import EXPERIMENTS
    from ..paper.figures import check_drawing
    from ..paper.protocols import check_protocol
    from ..paper.runs import Order
    from ..runtime.machine import is_main_process
    from ..runtime.progress import RowBar
    from ..runtime.stop import exit_code
    from ..storage.atomic import write_text

    if scale not in ("laptop", "full"):
        raise ApproxMassError(f"--scale is laptop or full, not {scale!r}", code="bad-option")
    experiment = EXPERIMENTS[name]
    if protocol is not None:
        check_protocol(protocol, name, experiment.protocols)
    file = name if protocol is None else f"{name}-{protocol}"
    target = output / f"{file}.json"
    check_outputs(target, output / f"{file}.md")
    if experiment.draw is not None:
        check_drawing()
    with RowBar() as bar:

        def say_cost(_: list[float]) -> None:
            for cost in full_costs(name, only) if is_main_process() else []:
                bar.remark(str(cost))

        try:
            on_start = bar.plan if scale == "laptop" else say_cost
            order = Order(
                data=data,
                target=target,
                scale=scale,
                protocol=protocol,
                only=only,
                resume=resume,
                on_start=on_start,
                on_row=bar.done,
            )
            facts = experiment.run(order)
        except KeyboardInterrupt as stopped:
            bar.remark("stopped; the rows done are kept: repeat the command with --resume")
            raise typer.Exit(exit_code(stopped)) from None
    if not is_main_process():
        return
    text = experiment.markdown(facts)
    write_text(output / f"{file}.md", text)
    if experiment.draw is not None:
        experiment.draw(facts, target)
    out.print(text, soft_wrap=True, markup=False)
