"""The command `score`."""

__all__ = ["score"]

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ApproxMassError
from .console import check_outputs, emit, out
from .options import SOURCE, Device, Folder, Json, Skipped, Threads, say_remarks


def score(
    folder: Folder,
    source: Annotated[str, typer.Argument(help=SOURCE)],
    output: Annotated[
        Path, typer.Option("-o", metavar="FILE", help="Table to write: .parquet or .csv.")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an unreadable image.")] = False,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Score images: log-likelihood, mass, p-value and verdict, one row an image."""
    import numpy as np

    from ..calibration import group_p_value
    from ..detector import Detector
    from ..storage.atomic import write_atomic
    from ..storage.score_file import ScoreFile, check_suffix

    check_suffix(output)
    check_outputs(output, json_file, inputs=[source])
    detector = Detector.load(folder, device=device, threads=threads)
    images = detector.open(source)
    say_remarks(images)
    outliers, skipped = 0, Skipped()
    statistic = []
    with write_atomic(output) as path, ScoreFile(path, output) as file:
        for chunk, scores in detector.score_chunks(images):
            if strict:
                chunk.require_readable(source)
            skipped.add(chunk.unreadable)
            file.write(chunk, scores)
            statistic.append(scores.statistic)
            outliers += int(scores.is_outlier.sum())
        scored = np.concatenate(statistic)
        if len(scored) == 0:
            raise ApproxMassError(
                f"{source}: no image can be scored; the first, {skipped.first}", code="bad-image"
            )
    skipped.close(f"in the column error of {output}")
    facts = {
        "scored": len(scored),
        "skipped": skipped.count,
        "outliers_at_5_percent": outliers,
        "group_p_value": group_p_value(detector.calibration_scores, scored),
        "output": str(output),
    }
    emit(facts, json_file)
    if json_file != Path("-"):
        from .tables import facts_table

        out.print(facts_table(f"{source}", facts))
