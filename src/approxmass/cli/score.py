"""The command `score`."""

__all__ = ["score"]

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import ApproxMassError
from .console import check_outputs, emit, out
from .options import SOURCE, Device, For, Json, Skipped, Threads, loaded, say_remarks

if TYPE_CHECKING:
    from ..onnx_engine import OnnxDetector

Engine = Literal["torch", "onnx"]


def score(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A fitted detector; with --engine onnx the file of an export."
        ),
    ],
    source: Annotated[str, typer.Argument(help=SOURCE)],
    output: Annotated[
        Path, typer.Option("-o", metavar="FILE", help="Table to write: .parquet or .csv.")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an unreadable image.")] = False,
    group: For = None,
    engine: Annotated[
        Engine, typer.Option(help="What computes: PyTorch, or ONNX Runtime.")
    ] = "torch",
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
    detector: Any = (
        _exported(folder, group, device, threads)
        if engine == "onnx"
        else loaded(_folder(folder), group, device, threads)
    )
    images = detector.open(source)
    say_remarks(images)
    outliers, skipped = (
        0,
        Skipped(images.unit),
    )
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
    if engine == "onnx":  # the file has the scores that calibrate for p-values alone
        shift: Any = None
    elif scored.group is None:
        shift = detector.fitted.group_p_value(scored)
    else:
        shift = {
            name: detector.fitted.group_p_value(scored.some(scored.group == name))
            for name in sorted(set(scored.group))
        }
    facts = {
        "scored": len(scored),
        "skipped": skipped.count,
        "outliers_at_5_percent": outliers,
        **({} if shift is None else {"group_p_value": shift}),
        "output": str(output),
    }
    emit(facts, json_file)
    if json_file != Path("-"):
        from .tables import facts_table

        out.print(facts_table(f"{source}", facts))


def _folder(folder: Path) -> Path:
    if folder.suffix.lower() == ".onnx" and folder.is_file():
        raise ApproxMassError(
            f"{folder} is the file of an export: add --engine onnx", code="not-a-detector"
        )
    return folder


def _exported(
    file: Path, group: str | None, device: str | None, threads: int | None
) -> "OnnxDetector":
    """The detector of an ONNX file."""
    from ..onnx_engine import OnnxDetector

    for option, value, cure in (
        ("--for", group, "give it to `approxmass export`"),
        ("--device", device, "the engine onnx computes on the CPU: leave it out"),
    ):
        if value is not None:
            raise ApproxMassError(
                f"{option} is not for an exported detector: {cure}", code="bad-option"
            )
    return OnnxDetector(file, threads=threads)
