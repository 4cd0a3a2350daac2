"""The command `watch`."""

__all__ = ["watch"]

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import check_outputs, emit, out, remark, say
from .options import SHOWN, Device, Folder, For, Json, Skipped, Threads, loaded

if TYPE_CHECKING:
    from ..watch import Watch
    from ..watch.totals import Alarm, Totals


Source = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the images arrive.")]
Log = Annotated[
    Path,
    typer.Option(
        "-o", metavar="LOG", help="Log to write, or to go on with: .csv, or a folder .parquet."
    ),
]
FalseAlarmEvery = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="At least so many in-distribution images to the first false drift alarm, on average.",
    ),
]
Interval = Annotated[
    float, typer.Option(metavar="SECONDS", help="Time between two looks into the folder.")
]
UntilIdle = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="End when no file has come for so long."),
]
Once = Annotated[
    bool,
    typer.Option(
        "--once",
        help="Score what is complete (the same at two looks, or not changed for an interval) and "
        "end, as for cron. The exit code is 0, with an alarm or without, and 2 for a mistake.",
    ),
]
OnAlarm = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET",
        help="Tell each alarm, at least once: JSON to a web address by POST, or to a command on "
        "its standard input.",
    ),
]


def watch(
    folder: Folder,
    source: Source,
    output: Log,
    false_alarm_every: FalseAlarmEvery = 100_000,
    interval: Interval = 1.0,
    until_idle: UntilIdle = None,
    once: Once = False,
    on_alarm: OnAlarm = None,
    group: For = None,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Score images as they arrive in a folder, and raise an alarm when they drift."""
    from rich.live import Live

    from ..drift import power_in_words
    from ..runtime.stop import stop_requests
    from ..watch import AlarmSender, Watch, check_log

    check_log(output, source)
    about = {"detector": str(folder), "folder": str(source)}
    sender = None if on_alarm is None else AlarmSender(on_alarm, about, say)
    is_folder = output.is_dir() and output.suffix.lower() == ".parquet"
    log = output / "part-000000.parquet" if is_folder else output
    check_outputs(log, json_file, inputs=[str(source)])
    detector = loaded(folder, group, device, threads)
    count = len(detector.fitted.calibrated.streamed(detector.statistic))
    unit = detector.fitted.unit
    say(f"drift: {power_in_words(count, unit)}")
    status = Live(console=remark, auto_refresh=False, transient=True)
    skipped = Skipped(unit)
    run = Watch(detector, source, output, false_alarm_every, sender)
    with stop_requests() as stop, run:
        totals = run.totals
        if totals.scored + totals.unreadable:
            say(f"{output} has {totals.scored + totals.unreadable:,} {unit}s: going on from there")
        with status if remark.is_terminal else contextlib.nullcontext():
            batches = run.batches(interval=interval, until_idle=until_idle, once=once, stop=stop)
            for batch in batches:
                skipped.add(batch.unreadable)
                _say_alarms(batch.alarms, totals, false_alarm_every, output, unit)
                if remark.is_terminal:
                    status.update(_status(totals, unit), refresh=True)
    skipped.close(f"in the column error of {output}")
    if run.unsent:
        say(f"alarms not sent: {run.unsent:,}; repeated with --on-alarm, the command sends them")
    facts = _facts(run, false_alarm_every, count, output)
    emit(facts, json_file)
    if json_file != Path("-"):
        _show(source, facts)
    if stop:
        say(f"stopped; all that was scored is in {output}: repeat the command to go on")
        raise typer.Exit(128 + stop[0])  # as a shell counts: 130 for Ctrl-C


def _facts(run: "Watch", every: int, count: int, output: Path) -> dict[str, Any]:
    from ..drift import drift_power

    totals = run.totals
    return {
        "scored": totals.scored,
        "skipped": totals.unreadable,
        "outliers_at_5_percent": totals.outliers,
        "drift": totals.drift,
        "false_alarm_every": every,
        "drift_power": [asdict(each) for each in drift_power(count)],
        "alarms": [asdict(alarm) for alarm in totals.alarms],
        "alarms_not_sent": run.unsent,
        "output": str(output),
    }


def _say_alarms(
    alarms: "list[Alarm]", totals: "Totals", every: int, output: Path, unit: str
) -> None:
    for alarm in alarms[:SHOWN]:
        since = "start" if alarm is totals.alarms[0] else "last one"
        say(
            f"drift alarm ({alarm.direction}) at {unit} {alarm.image}, {alarm.images:,} {unit}s "
            f"since the {since}; in-distribution {unit}s raise the first in {every:,} or more, "
            "on average",
            style="red",
        )
    if len(alarms) > SHOWN:
        say(f"and {len(alarms) - SHOWN:,} more alarms, in {output}")


def _status(totals: "Totals", unit: str) -> str:
    return (
        f"{totals.scored:,} {unit}s scored, {totals.unreadable:,} unreadable, "
        f"{len(totals.alarms):,} alarms, drift {totals.drift:.3g} (1 raises an alarm)"
    )


def _show(source: Path, facts: dict[str, Any]) -> None:
    from .tables import facts_table

    alarms = facts["alarms"]
    last = ", the last at {image} ({direction})".format(**alarms[-1]) if alarms else ""
    shown = {name: fact for name, fact in facts.items() if name != "drift_power"}
    out.print(facts_table(f"{source}", shown | {"alarms": f"{len(alarms):,}{last}"}))
