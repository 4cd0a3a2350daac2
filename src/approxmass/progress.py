"""What a person sees while a fit runs: remarks, and a bar with the time left."""

__all__ = ["TrainingBar", "announce"]

import sys
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from .flows import Flow, RealNVP
from .flows.pixels import bits_per_dim
from .training import StepReport, TrainingSettings


class TrainingBar:
    """A progress bar on standard error; where that is no terminal, one line every tenth.

    Arguments:
        pixels: Number of pixels times channels, to show bits/dim; None shows nats.
    """

    def __init__(self, pixels: int | None = None) -> None:
        self.console = Console(file=sys.stderr, highlight=False)
        self.pixels = pixels
        self.bar = Progress(
            BarColumn(bar_width=8),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=None, facts="")
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

    def __call__(self, report: StepReport) -> None:
        """Show a step."""
        facts = f"epoch {report.epoch}  loss {_short(report.loss)}"
        if self.pixels is None:
            facts += f"  NLL {_short(report.nll)} nats"
        else:
            facts += f"  {bits_per_dim(-report.nll, self.pixels):.2f} bits/dim"
        if report.mass is not None:
            facts += f"  mass {_short(report.mass)}"
        self.bar.update(self.task, completed=report.step, total=report.steps, facts=facts)
        tenth = 10 * report.step // report.steps
        if not self.console.is_terminal and tenth > self.last_tenth:
            self.console.print(f"training {10 * tenth}%  {facts}", soft_wrap=True)
        self.last_tenth = tenth


def _short(value: float) -> str:
    return f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def announce(notes: Sequence[str], flow: Flow, training: TrainingSettings) -> TrainingBar:
    """Say what is about to be trained and how, and give the bar to show it with."""
    bar = TrainingBar(flow.dimension if isinstance(flow, RealNVP) else None)
    weights = sum(p.numel() for p in flow.parameters())
    for line in (
        *notes,
        f"flow: {weights:,} weights on {flow.dimension} dimensions; alpha {training.alpha:.3g}, "
        f"{training.epochs} epochs",
    ):
        bar.console.print(line, soft_wrap=True, markup=False)
    return bar
