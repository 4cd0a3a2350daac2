"""The command `score`."""

__all__ = ["score"]

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import ApproxMassError
from .console import check_outputs, emit, out
from .options import SOURCE, Device, Folder, For, Json, Skipped, Threads, loaded, say_remarks

if TYPE_CHECKING:
    from ..data import ImageSource
    from ..detector import Detector
    from ..scores import Scores

Engine = Literal["torch", "ray"]


def score(
    folder: Folder,
    source: Annotated[str, typer.Argument(help=SOURCE)],
    output: Annotated[
        Path, typer.Option("-o", metavar="FILE", help="Table to write: .parquet or .csv.")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an unreadable image.")] = False,
    group: For = None,
    engine: Annotated[
        Engine,
        typer.Option(help="What computes: PyTorch here, or Ray on all cores, GPUs and machines."),
    ] = "torch",
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help="With --engine ray, a cluster: HOST:PORT or auto."),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Score images: log-likelihood, mass, p-value and verdict, one row an image."""
    from ..scores import Scores
    from ..storage.atomic import write_atomic
    from ..storage.score_file import FIRST, ScoreFile, check_suffix, scores_in, unreadable_in

    check_suffix(output)
    check_outputs(output, json_file, inputs=[source])
    if engine != "ray" and address is not None:
        raise ApproxMassError("--address is of a Ray cluster: add --engine ray", code="bad-option")
    detector = loaded(folder, group, device, threads)
    images = detector.open(source)
    say_remarks(images)
    tables: AbstractContextManager[Iterator[Any]] = nullcontext(_here(detector, images, strict))
    if engine == "ray":
        given = {"address": address, "device": device, "group": group, "strict": strict}
        tables = _by_ray(detector, folder, images, output, **given)
    outliers, skipped, parts = 0, Skipped(detector.fitted.unit), []
    with tables as found, write_atomic(output) as path, ScoreFile(path, output) as file:
        for table in found:
            skipped.add(unreadable_in(table))
            file.append(table.drop_columns({FIRST} & {*table.column_names}))
            parts.append(scores_in(table))
            outliers += int(parts[-1].is_outlier.sum())
        scored = Scores.join(parts)
        if len(scored) == 0:
            raise ApproxMassError(
                f"{source}: no {skipped.unit} can be scored; the first, {skipped.first}",
                code="bad-image",
            )
    skipped.close(f"in the column error of {output}")
    facts = {
        "scored": len(scored),
        "skipped": skipped.count,
        "outliers_at_5_percent": outliers,
        "group_p_value": _shift(detector, scored),
        "output": str(output),
    }
    emit(facts, json_file)
    if json_file != Path("-"):
        from .tables import facts_table

        out.print(facts_table(f"{source}", facts))


def _here(detector: "Detector", images: "ImageSource", strict: bool) -> Iterator[Any]:
    """The tables of all images in order, scored by this process."""
    from ..storage.score_file import whole_table

    for chunk, scores in detector.score_chunks(images):
        if strict:
            chunk.require_readable(images.name)
        yield whole_table(chunk, scores)


def _by_ray(
    detector: "Detector", folder: Path, images: "ImageSource", output: Path, **given: Any
) -> AbstractContextManager[Iterator[Any]]:
    """The same by Ray; finished blocks wait beside the output."""
    from ..integrations.ray import scored_blocks

    kept = output.with_name(f"{output.name}.blocks")
    return scored_blocks(detector, folder, images, kept, progress=True, **given)


def _shift(detector: "Detector", scored: "Scores") -> Any:
    """One p-value for all images, or one a group."""
    if scored.group is None:
        return detector.fitted.group_p_value(scored)
    return {
        name: detector.fitted.group_p_value(scored.some(scored.group == name))
        for name in sorted(set(scored.group))
    }
