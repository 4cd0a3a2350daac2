"""The progress bar of a flow's training."""

__all__ = ["FlowBar"]

from ..flows.pixels import bits_per_dim
from ..runtime.progress import TrainingBar, short
from ..training.flow import StepReport


class FlowBar(TrainingBar):
    """Shows the steps of `train`.

    Arguments:
        pixels: Number of pixels times channels, to show bits/dim; None shows nats.
    """

    def __init__(self, pixels: int | None = None) -> None:
        super().__init__()
        self.pixels = pixels

    def __call__(self, report: StepReport) -> None:
        """Show a step."""
        facts = f"epoch {report.epoch}  loss {short(report.loss)}"
        if self.pixels is None:
            facts += f"  NLL {short(report.nll)} nats"
        else:
            facts += f"  {bits_per_dim(-report.nll, self.pixels):.2f} bits/dim"
        if report.mass is not None:
            facts += f"  mass {short(report.mass)}"
        self.show(report.step, report.steps, facts)
