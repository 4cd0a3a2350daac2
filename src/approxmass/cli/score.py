"""The command `score`."""

__all__ = ["score"]

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ApproxMassError
from .console import check_outputs, emit, out
from .options import SOURCE, Device, Folder, For, Json, Skipped, Threads, loaded, say_remarks


def score(
    folder: Folder,
    source: Annotated[str, typer.Argument(help=SOURCE)],
    output: Annotated[
        Path, typer.Option("-o", metavar="FILE", help="Table to write: .parquet or .csv.")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an unreadable image.")] = False,
    group: For = None,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Score images: log-likelihood, mass, p-value and verdict, one row an image."""
    from ..scores import Scores
    from ..storage.atomic import write_atomic
    from ..storage.score_file import ScoreFile, check_suffix

    check_suffix(output)
    check_outputs(output, json_file, inputs=[source])
    detector = loaded(folder, group, device, threads)
    images = detector.open(source)
    say_remarks(images)
    outliers, skipped = 0, Skipped(detector.fitted.unit)
    parts = []
    with write_atomic(output) as path, ScoreFile(path, output) as file:
        for chunk, scores in detector.score_chunks(images):
            if strict:
                chunk.require_readable(source)
            skipped.add(chunk.unreadable)
            file.write(chunk, scores)
            parts.append(replace(scores, statistics={}))  # of many images there is much to keep
            outliers += int(scores.is_outlier.sum())
        scored = Scores.join(parts)
        if len(scored) == 0:
            raise ApproxMassError(
                f"{source}: no {skipped.unit} can be scored; the first, {skipped.first}",
                code="bad-image",
            )
    skipped.close(f"in the column error of {output}")
    if scored.group is None:
        shift: Any = detector.fitted.group_p_value(scored)
    else:
        shift = {
            name: detector.fitted.group_p_value(scored.some(scored.group == name))
            for name in sorted(set(scored.group))
        }
    facts = {
        "scored": len(scored),
        "skipped": skipped.count,
        "outliers_at_5_percent": outliers,
        "group_p_value": shift,
        "output": str(output),
    }
    emit(facts, json_file)
    if json_file != Path("-"):
        from .tables import facts_table

        out.print(facts_table(f"{source}", facts))
