"""The commands `evaluate` and `report`."""

__all__ = ["evaluate", "report", "show_evaluation", "write_page"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import check_outputs, emit, out, say
from .options import (
    Device,
    Folder,
    For,
    Json,
    MoreOod,
    OodSources,
    Seed,
    SkipLimit,
    Threads,
    loaded,
    say_of_set,
)
from .tried_on import TriedOn, tried_on

if TYPE_CHECKING:
    from ..detector import Detector
    from ..evaluation.assess import Assessment

IdSource = Annotated[
    str,
    typer.Option(
        "--id",
        metavar="SOURCE",
        help="In-distribution images, not those of the fit; or a folder laid out as MVTec AD, for "
        "its test.",
    ),
]
Masks = Annotated[
    str | None,
    typer.Option(
        "--masks",
        metavar="WHERE",
        help="Which pixels of outliers are the defect: a column of their Parquet files, or a "
        "folder with masks under the names of the images.",
    ),
]
GroupSize = Annotated[int, typer.Option(min=1, help="Score groups of N images.")]


def evaluate(
    folder: Folder,
    id_source: IdSource,
    ood: OodSources = None,
    more_ood: MoreOod = None,
    masks: Masks = None,
    output: Annotated[
        Path | None, typer.Option("-o", metavar="FILE", help="Also write a report, as .html.")
    ] = None,
    group_size: GroupSize = 1,
    skip_limit: SkipLimit = 0.05,
    seed: Seed = 0,
    group: For = None,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Measure how well each score tells in-distribution images from outliers."""
    from ..report import check_page

    sets = tried_on(id_source, [*(ood or []), *(more_ood or [])], masks)
    if output is not None:
        check_page(output)
    check_outputs(output, json_file, inputs=[sets.inside, *sets.outside])
    detector = loaded(folder, group, device, threads)
    how = {"group_size": group_size, "seed": seed, "skip_limit": skip_limit}
    assessment = _assessed(detector, sets, **how)
    emit(assessment.facts(), json_file)
    if json_file != Path("-"):
        show_evaluation(assessment)
    if output is not None:
        write_page(assessment, output)


def report(
    folder: Folder,
    id_source: IdSource,
    output: Annotated[Path, typer.Option("-o", metavar="FILE", help="The page, as .html.")],
    ood: OodSources = None,
    more_ood: MoreOod = None,
    masks: Masks = None,
    group_size: GroupSize = 1,
    skip_limit: SkipLimit = 0.05,
    seed: Seed = 0,
    group: For = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Write what `evaluate` measures as one HTML page, with charts and images."""
    from ..report import check_page

    sets = tried_on(id_source, [*(ood or []), *(more_ood or [])], masks)
    check_page(output)
    check_outputs(output, inputs=[sets.inside, *sets.outside])
    detector = loaded(folder, group, device, threads)
    how = {"group_size": group_size, "seed": seed, "skip_limit": skip_limit}
    write_page(_assessed(detector, sets, **how), output)


def _assessed(detector: "Detector", sets: TriedOn, **how: Any) -> "Assessment":
    """As `assess`; says what was done to the images unasked, and which were skipped."""
    from ..evaluation.assess import assess

    masks = sets.masks
    if masks is not None and sets.found:
        if detector.model.explains:
            say(f"masks: {masks}")
        else:
            say(f"masks: {masks} is not read: {detector.settings.method} has no maps")
            masks = None
    found = assess(detector, sets.inside, sets.outside, masks=masks, **how)
    for name, scored in found.sets.items():
        say_of_set(name, scored.remarks, scored.skipped, detector.fitted.unit)
    return found


def write_page(assessment: "Assessment", page: Path) -> None:
    """Write the report, and say where."""
    from ..report import write_report

    write_report(assessment, page)
    say(f"report: {page}")


def show_evaluation(assessment: "Assessment") -> None:
    """Print the metrics, and the share flagged of each set."""
    from ..evaluation.legend import LEGEND, PLACES_LEGEND
    from .tables import evaluation_tables, places_table

    for table in evaluation_tables(assessment.evaluation):
        out.print(table)
    out.print(LEGEND, style="dim")
    if assessment.places is not None:
        out.print(places_table(assessment.places))
        out.print(PLACES_LEGEND, style="dim")
    for line in assessment.warnings:
        out.print(f"warning: {line}", style="yellow", soft_wrap=True, markup=False)
    for name, share in assessment.flagged.items():
        line = f"{name}: {share:.1%} flagged at a false-alarm rate of 5%"
        out.print(line, soft_wrap=True, markup=False)
