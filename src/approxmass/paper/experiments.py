"""The tables and figures by name: how each is made, written and drawn."""

__all__ = ["EXPERIMENTS", "Experiment"]

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import figures, one_class, pairs, table1
from .protocols import PROTOCOLS
from .runs import Order

Facts = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """A table or a figure.

    Attributes:
        run: Makes the rows of an order.
        markdown: Its table.
        protocols: Those that it has.
        minutes: About how long it takes on two cores at laptop scale, after the ones before it.
        draw: Writes its pictures beside the JSON file.
    """

    run: Callable[[Order], Facts]
    markdown: Callable[[Facts], str]
    protocols: tuple[str, ...]
    minutes: float
    draw: Callable[[Facts, Path], None] | None = None


EXPERIMENTS = {
    "table1": Experiment(
        table1.run,
        table1.markdown,
        tuple(PROTOCOLS),
        32,
    ),
    "table2": Experiment(
        pairs.run,
        pairs.markdown,
        tuple(PROTOCOLS),
        62,
    ),
    **{
        name: Experiment(
            partial(one_class.run, one_class.TABLES[name]),
            partial(one_class.markdown, one_class.TABLES[name]),
            ("balanced", "group"),
            minutes,
        )
        for name, minutes in (("table3", 46), ("table4", 46))
    },
    **{
        name: Experiment(
            partial(figures.run, name),
            partial(figures.markdown, name),
            ("balanced", "group"),
            1.5,
            partial(figures.draw, name),
        )
        for name in figures.FIGURES
    },
}
