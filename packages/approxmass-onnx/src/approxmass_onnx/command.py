"""The command `approxmass-onnx`."""

__all__ = ["main"]

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import ApproxMassError, OnnxDetector
from .data.chunk import Chunk
from .scores import Scores
from .storage.atomic import check_file, write_atomic


def main() -> None:
    """Run the command; mistakes end in one line on standard error and exit code 2."""
    given = _arguments()
    try:
        facts = score(given.model, given.source, given.output, given.strict, given.threads)
    except ApproxMassError as error:
        _fail(str(error), error.code)
    except ImportError as error:  # of what few need
        _fail(f"{given.source} needs {error.name}: pip install {error.name}", "missing-library")
    print(json.dumps(facts, indent=2))


def score(
    model: str, source: str, output: Path, strict: bool = False, threads: int | None = None
) -> dict[str, Any]:
    """Score images, or rows of numbers, to a CSV file with the rows of `approxmass score`.

    Arguments:
        model: What `approxmass export` wrote.
        source: Images or rows.
        output: CSV file to write.
        strict: Stop at what cannot be read.
        threads: Most to compute in; None leaves that to ONNX Runtime.

    Returns:
        How many were scored, skipped, and called outliers.

    Raises:
        ApproxMassError: none can be scored, or the file cannot be written.
    """
    if output.suffix.lower() != ".csv":
        raise ApproxMassError(
            f"{output}: scores are written as .csv: end it in that", code="bad-option"
        )
    if output.resolve() in (Path(source).resolve(), Path(model).resolve()):
        raise ApproxMassError(
            f"{output} is needed for something else: choose another name", code="would-overwrite"
        )
    check_file(output)
    detector = OnnxDetector(model, threads=threads)
    images = detector.open(source)
    for line in images.remarks():
        print(line, file=sys.stderr)
    scored, skipped, outliers, first = 0, 0, 0, ""
    with (
        write_atomic(output) as path,
        path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        for chunk, scores in detector.score_chunks(images):
            if strict:
                chunk.require_readable(source)
            for name, reason in chunk.unreadable:
                first = first or f"image {name} {reason}"
            _write(file, chunk, scores, header=scored + skipped == 0)
            scored += len(scores)
            skipped += len(chunk.unreadable)
            outliers += int(scores.is_outlier.sum())
        if not scored:
            raise ApproxMassError(
                f"{source}: no image can be scored; the first, {first}", code="bad-image"
            )
    if skipped:
        print(
            f"skipped: {first}; {skipped:,} in all, in the column error of {output}",
            file=sys.stderr,
        )
    return {
        "scored": scored,
        "skipped": skipped,
        "outliers_at_5_percent": outliers,
        "output": str(output),
    }


def _write(file: Any, chunk: Chunk, scores: Scores, *, header: bool) -> None:
    """Append the rows of a chunk; what an unreadable image has not is empty."""
    columns = scores.columns()
    del columns["name"]  # the chunk has those of unreadable images too
    if header:
        file.write(_line(["name", *columns, "error"]))
    values = zip(*(each.tolist() for each in columns.values()), strict=True)
    for name, error in zip(chunk.names, chunk.errors, strict=True):
        known = next(values) if error is None else (None,) * len(columns)
        file.write(_line([name, *known, error]))


def _line(values: Iterable[Any]) -> str:
    """A row as Arrow writes it, with which every text is quoted and a missing value is nothing."""
    return ",".join(_text(value) for value in values) + "\n"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="approxmass-onnx", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("score", help="Score images, one row an image.")
    command.add_argument("model", metavar="FILE", help="What `approxmass export` wrote.")
    command.add_argument(
        "source", metavar="SOURCE", help="A folder of images, an image, or a file of some."
    )
    command.add_argument(
        "-o", dest="output", metavar="FILE.csv", type=Path, required=True, help="Table to write."
    )
    command.add_argument("--strict", action="store_true", help="Stop at an unreadable image.")
    command.add_argument("--threads", type=int, help="Most threads to compute in.")
    return parser.parse_args()


def _fail(message: str, code: str) -> None:
    print(f"error[{code}]: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(2)
