"""What a person sees while something trains: a bar with the time left."""

__all__ = ["TrainingBar", "short"]

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column


class TrainingBar:
    """A progress bar on standard error; where that is no terminal, one line every tenth.

    Arguments:
        name: What is being done, for the lines without a terminal.
    """

    def __init__(self, name: str = "training") -> None:
        self.name = name
        self.console = Console(file=sys.stderr, highlight=False)
        self.bar = Progress(
            BarColumn(bar_width=8),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(name, total=None, facts="")
        self.last_tenth = 0

    def __enter__(self) -> "TrainingBar":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def show(self, step: int, steps: int, facts: str) -> None:
        """Show that `step` of `steps` is done, with a few words on how it goes."""
        self.bar.update(self.task, completed=step, total=steps, facts=facts)
        tenth = 10 * step // steps
        if not self.console.is_terminal and tenth > self.last_tenth:
            self.console.print(f"{self.name} {10 * tenth}%  {facts}", soft_wrap=True)
        self.last_tenth = tenth

    def remark(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, soft_wrap=True, markup=False)


def short(value: float) -> str:
    """A number in few characters.

    Example:
        >>> short(12345.6), short(1.234)
        ('12,346', '1.2')
    """
    return f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"
