"""The command `approxmass`. Nothing here but parsing and printing; heavy imports wait."""

__all__ = ["app", "main"]

import functools
import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..errors import ApproxMassError
from .calibrate import calibrate
from .compare import compare
from .console import fail, out, say
from .demo import demo
from .evaluate import evaluate, report
from .explain import explain
from .export import export
from .fit import fit, inspect, methods
from .paper import paper
from .score import score
from .serve import serve
from .watch import watch

_CODES = (
    "Exit codes: 0 done; 2 a mistake, told in one line on standard error; 130 stopped by Ctrl-C, "
    "143 by SIGTERM, 129 by SIGHUP; 141 whoever read the output has gone."
)


def _ending(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the exit codes of a shell, where typer's own are 1."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as stopped:
            from ..runtime.stop import exit_code

            say("stopped")
            raise typer.Exit(exit_code(stopped)) from None
        except BrokenPipeError:
            os._exit(141)  # another flush, on the way out, would fail as well

    return run


app = typer.Typer(
    epilog=_CODES,
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
    app.command(epilog=_CODES)(_ending(command))
app.add_typer(paper, name="paper", epilog=_CODES)


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
