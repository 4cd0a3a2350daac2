"""The command `compare`."""

__all__ = ["compare"]

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import check_outputs, emit, out
from .fit import Columns, Size
from .options import (
    SOURCE,
    Device,
    Json,
    MoreOod,
    OodSources,
    SkipLimit,
    Threads,
    say_of_set,
)
from .tried_on import tried_on


def compare(
    source: Annotated[str, typer.Argument(help=SOURCE)],
    ood: OodSources = None,
    more_ood: MoreOod = None,
    id_source: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="SOURCE",
            help="In-distribution images to try it on; else a fifth, or the test of MVTec AD.",
        ),
    ] = None,
    encoder: Annotated[str, typer.Option(help="As for `fit`.")] = "auto",
    size: Size = None,
    columns: Columns = None,
    skip_limit: SkipLimit = 0.05,
    seed: Annotated[int, typer.Option(help="Fixes fits and intervals.")] = 0,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Fit the default on SOURCE, and show it beside its vanilla flow and plain lines."""
    from ..data.readers.mvtec import is_mvtec
    from ..evaluation.compare import compare as compared

    sources = [*(ood or []), *(more_ood or [])]
    if id_source is None and is_mvtec(Path(source)):
        id_source = source
    if id_source is not None or not sources:
        sets = tried_on(id_source or source, sources)
        id_source, sources = sets.inside, sets.outside
    check_outputs(json_file, inputs=[source, id_source, *sources])
    found = compared(
        source,
        {name: name for name in sources},
        id_images=id_source,
        skip_limit=skip_limit,
        progress=True,
        encoder=encoder,
        size=size,
        columns=None if columns is None else columns.split(","),
        seed=seed,
        device=device,
        threads=threads,
    )
    facts, unit = found.facts(), found.detector.fitted.unit
    for name, lines in found.remarks.items():
        say_of_set(name, lines, found.skipped[name], unit)
    emit(facts, json_file)
    if json_file != Path("-"):
        _show(facts, sources, found.warnings, unit)


def _show(facts: dict[str, Any], sources: list[str], warnings: Sequence[str], unit: str) -> None:
    from .tables import comparison_table

    for ood_name in sources:
        out.print(comparison_table(facts, ood_name, unit))
    for line in warnings:
        out.print(f"warning: {line}", style="yellow", soft_wrap=True, markup=False)
    out.print(
        f"Fitted in {facts['fit_seconds']:.0f} s; scores {facts['images_per_second']:.0f} "
        f"{unit}s/s. Larger score = more out-of-distribution; at 5%: share called outliers; "
        "intervals by bootstrap: a difference whose interval holds 0 is not distinguishable.",
        style="dim",
        soft_wrap=True,
    )
