"""The command `score`."""

__all__ = ["score"]

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, cast

import typer

from ..errors import ApproxMassError
from .console import check_outputs, emit, out, remark
from .engines import Engine, by_ray, detector_for, fewest_of, here
from .options import SOURCE, Device, For, Json, SkipLimit, Skipped, Threads, say_remarks

if TYPE_CHECKING:
    from ..scores import Scores

Format = Literal["csv", "jsonl", "parquet"]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help=f"{SOURCE} Of several, the table says in a column which. - reads names of image "
        "files from standard input, a line each.",
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "-o", metavar="FILE", help="Table to write: .parquet, .csv or .jsonl; - prints it."
    ),
]
By = Annotated[
    Engine,
    typer.Option(
        help="What computes: PyTorch here; Ray on all cores, GPUs and machines; ONNX Runtime."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDR", help="With --engine ray, a cluster: HOST:PORT or auto."),
]


def score(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A fitted detector; with --engine onnx the file of an export."
        ),
    ],
    sources: Sources,
    output: Output,
    form: Annotated[
        Format | None, typer.Option("--format", help="Of what -o - prints: csv or jsonl.")
    ] = None,
    false_alarm_rate: Annotated[
        float,
        typer.Option(metavar="RATE", help="Share of usual images that is_outlier may call."),
    ] = 0.05,
    skip_limit: SkipLimit = 1.0,
    group: For = None,
    engine: By = "torch",
    address: Address = None,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Score images: log-likelihood, mass, p-value and verdict, one row an image."""
    from ..calibration import check_rate
    from ..data.skipping import check_skip_limit
    from ..storage.score_file import format_of

    form = cast(Format, format_of(output, form))
    printed = output == Path("-")
    _check_options(output, json_file, engine, address, sources)
    check_outputs(output, json_file, inputs=sources)
    detector = detector_for(engine, folder, group, device, threads)
    check_rate(false_alarm_rate, fewest_of(detector))
    strict = check_skip_limit(skip_limit) == 0
    opened = [detector.open(names_in(sys.stdin.buffer) if s == "-" else s) for s in sources]
    for images in opened:
        say_remarks(images)
    with ExitStack() as stack:
        if engine == "ray":
            given = {"address": address, "device": device, "group": group, "strict": strict}
            tables = by_ray(stack, detector, folder, opened, output, **given)
        else:
            tables = [here(detector, images, strict) for images in opened]
        several = sources if len(sources) > 1 else None
        rows = _verdicts(tables, several, false_alarm_rate)
        most = skip_limit * sum(len(images) for images in opened)
        skipped = Skipped(opened[0].unit, most, " ".join(sources))
        scored, outliers = _written(rows, output, form, skipped)
    counts = {"scored": len(scored), "skipped": skipped.count, "outliers": outliers}
    if engine != "onnx":  # whose file has what calibrates for p-values alone
        counts["group_p_value"] = _shift(detector, scored)
    facts = {**counts, "false_alarm_rate": false_alarm_rate, "output": str(output)}
    remarks = {name: of.remarks() for name, of in zip(sources, opened, strict=True)}
    emit({**facts, "remarks": remarks, "unreadable": skipped.lines}, json_file)
    if json_file != Path("-"):
        from .tables import facts_table

        (remark if printed else out).print(facts_table(" ".join(sources), facts))


def _check_options(
    output: Path, json_file: Path | None, engine: str, address: str | None, sources: Sequence[str]
) -> None:
    """Refuse options that do not go together."""
    printed = output == Path("-")
    for wrong, reason in (
        (
            engine != "ray" and address is not None,
            "--address is of a Ray cluster: add --engine ray",
        ),
        (printed and json_file == output, "only one of -o and --json can be -: name a file"),
        (sources.count("-") > 1, "standard input can be read once: give - once"),
        (
            engine == "ray" and "-" in sources,
            "--engine ray opens sources by name on every machine: give a folder or a file, not -",
        ),
        (
            printed and engine == "ray",
            "--engine ray keeps finished blocks beside its output: give -o FILE",
        ),
    ):
        if wrong:
            raise ApproxMassError(reason, code="bad-option")


def names_in(stream: BinaryIO) -> list[str]:
    """Names of files, a line each, or each ended by a NUL as `find -print0` does.

    Raises:
        ApproxMassError: there is none.

    Example:
        >>> import io
        >>> names_in(io.BytesIO(b"a.png\\nb c.png\\n"))
        ['a.png', 'b c.png']
    """
    data = stream.read()
    parts = data.split(b"\0") if b"\0" in data else data.splitlines()
    names = [os.fsdecode(part) for part in parts if part]
    if not names:
        raise ApproxMassError(
            "standard input has no names of images: give some, a line each", code="bad-source"
        )
    return names


def _verdicts(
    tables: Sequence[Iterator[Any]], sources: Sequence[str] | None, rate: float
) -> Iterator[Any]:
    """All the tables, with the verdicts at a rate and, of several, where they are from."""
    from ..calibration import FALSE_ALARM_RATE
    from ..storage.score_file import at_rate, from_source

    for place, found in enumerate(tables):
        for table in found:
            known = table if rate == FALSE_ALARM_RATE else at_rate(table, rate)
            yield known if sources is None else from_source(known, sources[place])


def _written(
    tables: Iterator[Any], output: Path, form: str, skipped: Skipped
) -> tuple["Scores", int]:
    """Write tables as they come; returns the scores, and how many are called outliers."""
    from ..scores import Scores
    from ..storage.score_file import FIRST, ScoreFile, scores_in, unreadable_in

    outliers, parts = 0, []
    with _opened(output) as file, ScoreFile(file, form) as rows:
        for table in tables:
            skipped.add(unreadable_in(table))
            rows.append(table.drop_columns({FIRST} & {*table.column_names}))
            parts.append(scores_in(table))
            outliers += int(parts[-1].is_outlier.sum())
        scored = Scores.join(parts)
        if len(scored) == 0:
            raise ApproxMassError(
                f"{skipped.of}: no {skipped.unit} can be scored; the first, {skipped.first}",
                code="bad-image",
            )
    skipped.close(f"in the column error of {output}")
    return scored, outliers


@contextmanager
def _opened(output: Path) -> Iterator[BinaryIO]:
    """Where the rows go: standard output, or a file that is there once it is whole."""
    from ..storage.atomic import write_atomic

    if output == Path("-"):
        yield sys.stdout.buffer
        return
    # An open file, since Arrow takes no name that is not valid text.
    with write_atomic(output) as path, path.open("wb") as file:
        yield file


def _shift(detector: Any, scored: "Scores") -> Any:
    """One p-value for all images, or one a group."""
    if scored.group is None:
        return detector.fitted.group_p_value(scored)
    return {
        name: detector.fitted.group_p_value(scored.some(scored.group == name))
        for name in sorted(set(scored.group))
    }
