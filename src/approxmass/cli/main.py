"""The command `approxmass`. Nothing here but parsing and printing; heavy imports wait."""

__all__ = ["app", "main"]

import io
import sys
from typing import Annotated

import typer

from ..errors import ApproxMassError
from .calibrate import calibrate
from .compare import compare
from .console import fail, out
from .demo import demo
from .evaluate import evaluate, report
from .explain import explain
from .export import export
from .fit import fit, inspect, methods
from .paper import paper
from .score import score
from .serve import serve
from .watch import watch

app = typer.Typer(
    help="Tell which images do not belong, with calibrated p-values, from in-distribution images "
    "alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    demo,
    fit,
    calibrate,
    score,
    evaluate,
    report,
    compare,
    explain,
    export,
    methods,
    inspect,
    serve,
    watch,
):
    app.command()(command)
app.add_typer(paper, name="paper")


def main() -> None:
    """Run the command; mistakes end in one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be valid text
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except ApproxMassError as error:
        fail(str(error), error.code)
    except MemoryError:
        fail("there is not enough memory: use a smaller --size, or fewer images", "no-memory")
    except RuntimeError as error:  # PyTorch's own way to say the same
        if "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        fail(
            "there is not enough memory: use a smaller network, a smaller --size or fewer images",
            "no-memory",
        )
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fail(f"{error.filename or 'output'}: {reason}", "cannot-write")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(version("approxmass"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass
