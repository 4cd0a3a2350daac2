import io

import pytest
from rich.console import Console

from approxmass.models.bar import FlowBar
from approxmass.training.flow import StepReport


def shown(bar: FlowBar, terminal: bool, steps: int = 200) -> str:
    text = io.StringIO()
    bar.console = Console(file=text, force_terminal=terminal, width=120, highlight=False)
    bar.bar.live.console = bar.console
    with bar:
        for step in range(1, steps + 1):
            bar(StepReport(step, steps, 1 + step // 100, 12.0, 3072.0, 4.5))
    return text.getvalue()


def test_without_a_terminal_there_is_a_line_every_tenth() -> None:
    lines = shown(FlowBar(), terminal=False).splitlines()
    assert [line.split()[1] for line in lines] == [f"{p}%" for p in range(10, 101, 10)]
    assert lines[0] == "training 10%  epoch 1  loss 12.0  NLL 3,072 nats  mass 4.5"


def test_on_a_narrow_terminal_the_time_left_is_whole() -> None:
    text = io.StringIO()
    bar = FlowBar(3072)
    bar.console = Console(
        file=text, force_terminal=True, width=80, highlight=False, color_system=None
    )
    bar.bar.live.console = bar.console
    bar.bar.disable = False
    with bar:
        bar(StepReport(1, 200, 1, -12345.6, -13000.0, 23456.7))
        bar(StepReport(2, 200, 1, -12345.6, -13000.0, 23456.7))
    last = [line for line in text.getvalue().splitlines() if "loss" in line][-1]
    assert "loss -12,346" in last
    assert "mass 23,457" in last
    assert last.rstrip().endswith("left")
    assert "…" not in last


def test_pixel_flows_are_shown_in_bits() -> None:
    # log2(255) + 3072 nats / (3072 ln 2)
    assert "9.44 bits/dim" in shown(FlowBar(3072), terminal=False)


def test_without_a_penalty_no_mass_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with FlowBar() as bar:
        bar(StepReport(1, 1, 1, 2.0, 2.0, None))
    printed = capsys.readouterr().err
    assert "training 100%" in printed
    assert "mass" not in printed
