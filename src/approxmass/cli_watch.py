"""The command `approxmass watch`. Nothing here but parsing and printing; heavy imports wait."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from .console import Json, check_outputs, emit, out, remark, say

# Unreadable images of a run, and alarms of a batch, told on the terminal; all are in the log.
_SHOWN = 10


def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A fitted detector.")],
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the images arrive.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o", metavar="LOG", help="Log to write, or to go on with: .csv, or a folder .parquet."
        ),
    ],
    false_alarm_every: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="From a drift alarm to the next lie at least N usual images, on average.",
        ),
    ] = 100_000,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time between two looks into the folder.")
    ] = 1.0,
    until_idle: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="End when no file has come for so long."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Score images as they arrive in a folder, and raise an alarm when they drift."""
    from rich.live import Live

    from .detector import Detector
    from .resumable import stop_requests
    from .watch import Watch, check_log

    check_log(output, source)
    detector = Detector.load(folder)
    log = None if output.is_dir() else output
    check_outputs(log, json_file, inputs=[str(source)], folder=folder)
    status = Live(console=remark, auto_refresh=False, transient=True)
    with Watch(detector, source, output, false_alarm_every) as run, stop_requests() as stop:
        totals, skipped = run.totals, 0
        if totals.scored + totals.unreadable:
            say(f"{output} has {totals.scored + totals.unreadable:,} images: going on from there")
        with status if remark.is_terminal else contextlib.nullcontext():
            for batch in run.batches(interval=interval, until_idle=until_idle, stop=stop):
                for name, error in batch.unreadable:
                    skipped += 1
                    if skipped <= _SHOWN:
                        say(f"skipped: image {name} {error}")
                for alarm in batch.alarms[:_SHOWN]:
                    say(
                        f"drift alarm at image {alarm.image}, {alarm.images:,} images since the "
                        f"{'start' if alarm is totals.alarms[0] else 'last one'}; usual images "
                        f"raise one in {false_alarm_every:,} or more, on average",
                        style="red",
                    )
                if len(batch.alarms) > _SHOWN:
                    say(f"and {len(batch.alarms) - _SHOWN:,} more alarms, in {output}")
                if remark.is_terminal:
                    facts_now = (
                        f"{totals.scored:,} images scored",
                        f"{totals.unreadable:,} unreadable",
                        f"{len(totals.alarms):,} alarms",
                        f"drift {totals.drift:.3g} (1 raises an alarm)",
                    )
                    status.update(", ".join(facts_now), refresh=True)
    if skipped > _SHOWN:
        say(f"and {skipped - _SHOWN:,} more, in the column error of {output}")
    facts = {
        "scored": totals.scored,
        "skipped": totals.unreadable,
        "outliers_at_5_percent": totals.outliers,
        "drift": totals.drift,
        "false_alarm_every": false_alarm_every,
        "alarms": [{"image": alarm.image, "images": alarm.images} for alarm in totals.alarms],
        "output": str(output),
    }
    emit(facts, json_file)
    if json_file != Path("-"):
        from .tables import facts_table

        last = f", the last at {totals.alarms[-1].image}" if totals.alarms else ""
        shown = {**facts, "alarms": f"{len(totals.alarms):,}{last}"}
        out.print(facts_table(f"{source}", shown))
    if stop:
        say(f"stopped; all that was scored is in {output}: repeat the command to go on")
        raise typer.Exit(128 + stop[0])  # as a shell counts: 130 for Ctrl-C
