"""The commands `evaluate` and `report`."""

__all__ = ["evaluate", "report", "show_evaluation", "write_page"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import check_outputs, emit, out, say
from .options import Device, Folder, Json, Seed, Threads

if TYPE_CHECKING:
    from ..evaluation.assess import Assessment

IdSource = Annotated[
    str,
    typer.Option("--id", metavar="SOURCE", help="In-distribution images, not those of the fit."),
]
OodSources = Annotated[
    list[str], typer.Option("--ood", metavar="SOURCE", help="Outliers; may be repeated.")
]
MoreOod = Annotated[
    list[str] | None, typer.Argument(metavar="[SOURCE]...", help="More sources for --ood.")
]
GroupSize = Annotated[int, typer.Option(min=1, help="Score groups of N images.")]


def evaluate(
    folder: Folder,
    id_source: IdSource,
    ood: OodSources,
    more_ood: MoreOod = None,
    output: Annotated[
        Path | None, typer.Option("-o", metavar="FILE", help="Also write a report, as .html.")
    ] = None,
    group_size: GroupSize = 1,
    seed: Seed = 0,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Measure how well each score tells in-distribution images from outliers."""
    from ..detector import Detector
    from ..evaluation.assess import assess
    from ..report import check_page

    sources = [*ood, *(more_ood or [])]
    if output is not None:
        check_page(output)
    check_outputs(output, json_file, inputs=[id_source, *sources])
    detector = Detector.load(folder, device=device, threads=threads)
    assessment = assess(detector, id_source, sources, group_size=group_size, seed=seed)
    emit(assessment.facts(), json_file)
    if json_file != Path("-"):
        show_evaluation(assessment)
    if output is not None:
        write_page(assessment, output)


def report(
    folder: Folder,
    id_source: IdSource,
    ood: OodSources,
    output: Annotated[Path, typer.Option("-o", metavar="FILE", help="The page, as .html.")],
    more_ood: MoreOod = None,
    group_size: GroupSize = 1,
    seed: Seed = 0,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Write what `evaluate` measures as one HTML page, with charts and images."""
    from ..detector import Detector
    from ..evaluation.assess import assess
    from ..report import check_page

    sources = [*ood, *(more_ood or [])]
    check_page(output)
    check_outputs(output, inputs=[id_source, *sources])
    detector = Detector.load(folder, device=device, threads=threads)
    write_page(assess(detector, id_source, sources, group_size=group_size, seed=seed), output)


def write_page(assessment: "Assessment", page: Path) -> None:
    """Write the report, and say where."""
    from ..report import write_report

    write_report(assessment, page)
    say(f"report: {page}")


def show_evaluation(assessment: "Assessment") -> None:
    """Print the metrics, and the share flagged of each set."""
    from ..report.describe import LEGEND
    from .tables import evaluation_tables

    for table in evaluation_tables(assessment.evaluation):
        out.print(table)
    out.print(LEGEND, style="dim")
    for line in assessment.warnings:
        out.print(f"warning: {line}", style="yellow", soft_wrap=True, markup=False)
    for name, share in assessment.flagged.items():
        line = f"{name}: {share:.1%} flagged at a false-alarm rate of 5%"
        out.print(line, soft_wrap=True, markup=False)
