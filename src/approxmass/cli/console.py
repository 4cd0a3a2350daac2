"""What the commands share: how they print, fail, and check where they will write."""

__all__ = ["check_outputs", "emit", "fail", "out", "remark", "say"]

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from ..errors import ApproxMassError, Code

out = Console(highlight=False, emoji=False)
remark = Console(stderr=True, highlight=False, emoji=False)


def fail(message: str, code: Code) -> NoReturn:
    """One line on standard error with the kind of mistake, and exit code 2."""
    say(f"error[{code}]: {message}", style="red")
    # At once: flushing a full or closed standard output would fail again on the way out.
    sys.stderr.flush()
    os._exit(2)


def emit(facts: Mapping[str, Any], json_file: Path | None) -> None:
    """Write the facts where `--json` says."""
    if json_file == Path("-"):
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    elif json_file is not None:
        from ..storage.atomic import write_json

        write_json(json_file, facts)


def say(text: str, style: str = "") -> None:
    """One line on standard error, whatever a file name in it holds."""
    line = " ".join(text.split("\n"))
    remark.print(line, style=style, markup=False, soft_wrap=True)


def check_outputs(
    *outputs: Path | None, inputs: Sequence[str | None] = (), making: Path | None = None
) -> None:
    """Before any work: every output can be written, and none takes the place of something else.

    Arguments:
        outputs: Files to write; None and `-` are none.
        inputs: Files or other sources that are read; None is none.
        making: A detector's folder that is to be made.

    Raises:
        ApproxMassError: an output is an input, twice the same, or in the folder of a detector.
    """
    from ..storage.artifact import is_detector
    from ..storage.atomic import check_file

    taken = [os.path.realpath(name) for name in inputs if name is not None]
    made = None if making is None else os.path.realpath(making)
    for output in outputs:
        if output is None or output == Path("-"):
            continue
        place = os.path.realpath(output)
        folder = os.path.dirname(place)
        if place in taken or folder == made or is_detector(Path(folder)):
            raise ApproxMassError(
                f"{output} is needed for something else: choose another name",
                code="would-overwrite",
            )
        check_file(output)
        taken.append(place)
