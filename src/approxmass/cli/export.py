"""The command `export`."""

__all__ = ["export"]

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .console import check_outputs, emit, out
from .options import Folder, For, Json, Threads, loaded


def export(
    folder: Folder,
    output: Annotated[
        Path, typer.Option("-o", metavar="FILE", help="ONNX file to write; a .pt2 goes beside it.")
    ],
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of what goes in: uint8, or float32 for pixels in [0, 1]; of rows of numbers "
            "float64 or float32.  [default: the first]"
        ),
    ] = None,
    group: For = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Write a detector as one ONNX graph, from pixels to p-values, for `score --engine onnx`."""
    beside = output.with_suffix(".pt2")
    check_outputs(output, beside, json_file)
    detector = loaded(folder, group, "cpu", threads)
    detector.export(output, dtype=dtype)
    from ..onnx_engine import OnnxDetector

    facts = asdict(OnnxDetector(output).facts)
    facts |= {"output": str(output), "program": str(beside)}
    emit(facts, json_file)
    if json_file != Path("-"):
        from .tables import facts_table

        shown = ("input", "layout", "dtype", "shape", "statistics", "decides", "calibration")
        told = {name: facts[name] for name in (*shown, "opset", "output", "program")}
        told["statistics"] = ", ".join(facts["statistics"])
        out.print(facts_table(f"{folder}", told))
