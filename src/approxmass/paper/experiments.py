"""The tables and figures by name: how each is made, written and drawn."""

__all__ = ["EXPERIMENTS", "Experiment"]

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import figures, one_class, pairs, table1
from .protocols import PER_IMAGE_OR_GROUP, PROTOCOLS
from .runs import Order

Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
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
        run=table1.run, markdown=table1.markdown, protocols=tuple(PROTOCOLS), minutes=32
    ),
    "table2": Experiment(
        run=pairs.run, markdown=pairs.markdown, protocols=tuple(PROTOCOLS), minutes=62
    ),
    **{
        name: Experiment(
            run=partial(one_class.run, table),
            markdown=partial(one_class.markdown, table),
            protocols=PER_IMAGE_OR_GROUP,
            minutes=46,
        )
        for name, table in one_class.TABLES.items()
    },
    **{
        name: Experiment(
            run=partial(figures.run, name),
            markdown=partial(figures.markdown, name),
            protocols=PER_IMAGE_OR_GROUP,
            minutes=1.5,
            draw=partial(figures.draw, name),
        )
        for name in figures.FIGURES
    },
}
