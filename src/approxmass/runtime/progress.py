"""What a person sees during long work: bars with the time left."""

__all__ = ["RowBar", "TrainingBar", "short"]

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column


class _Bar:
    """A progress bar on standard error, with a few words beside it; silent without a terminal."""

    def __init__(self, width: int) -> None:
        self.console = Console(file=sys.stderr, highlight=False)
        self.bar = Progress(
            BarColumn(bar_width=width),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None, facts="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def remark(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, soft_wrap=True, markup=False)


class TrainingBar(_Bar):
    """The steps of a training; where there is no terminal, one line every tenth.

    Arguments:
        name: What is being done, for the lines without a terminal.
    """

    def __init__(self, name: str = "training") -> None:
        super().__init__(8)
        self.name = name
        self.last_tenth = 0

    def show(self, step: int, steps: int, facts: str) -> None:
        """Show that `step` of `steps` is done, with a few words on how it goes."""
        self.bar.update(self.task, completed=step, total=steps, facts=facts)
        tenth = 10 * step // steps
        if not self.console.is_terminal and tenth > self.last_tenth:
            self.remark(f"{self.name} {10 * tenth}%  {facts}")
        self.last_tenth = tenth


class RowBar(_Bar):
    """The rows of a table, each by the time that it was expected to take."""

    def __init__(self) -> None:
        super().__init__(16)

    def plan(self, seconds: Sequence[float]) -> None:
        """Say how long the rows to come will take."""
        minutes = sum(seconds) / 60
        self.remark(f"{len(seconds)} fits to make, about {minutes:.0f} minutes on two cores")
        self.bar.update(self.task, total=sum(seconds))

    def done(self, name: str, seconds: float) -> None:
        """Show that a row is done which was to take so long."""
        self.bar.update(self.task, advance=seconds, facts=f"{name} done")
        if not self.console.is_terminal:
            self.remark(f"{name} done")


def short(value: float) -> str:
    """A number in few characters.

    Example:
        >>> short(12345.6), short(1.234)
        ('12,346', '1.2')
    """
    return f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"
