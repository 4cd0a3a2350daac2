"""Tables 3 and 4: one class of MNIST or CIFAR-10 against the other nine."""

__all__ = ["METHODS", "TABLES", "TRAINED", "OneClass", "markdown", "mean_interval", "rows", "run"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch

from ..arrays import Floats
from .methods import BareBaseline, CalibratedFlow, FitMethod, plain
from .protocols import PROTOCOLS, compare
from .published import MASS, TABLE3, TABLE4
from .runs import Order, Runs, check_only
from .sets import Sets


@dataclass(frozen=True, kw_only=True)
class OneClass:
    """One of the two tables.

    Attributes:
        name: `table3` or `table4`.
        images: In the catalogue.
        classes: Their names, in the order of the labels.
        published: AUROC by method and class.
    """

    name: str
    images: str
    classes: tuple[str, ...]
    published: Mapping[str, tuple[float, ...]]


_CIFAR = "airplane automobile bird cat deer dog frog horse ship truck"
TABLES = {
    "table3": OneClass(
        name="table3", images="mnist", classes=tuple("0123456789"), published=TABLE3
    ),
    "table4": OneClass(
        name="table4", images="cifar10", classes=tuple(_CIFAR.split()), published=TABLE4
    ),
}

# Baselines with networks that take long to train at full scale.
TRAINED = {
    "autoencoder": BareBaseline(
        baseline="autoencoder",
        scores={"autoencoder": "autoencoder of OCGAN"},
        laptop={"epochs": 30},
        full={"epochs": 200, "width": 64},
        seconds={"table3": 25, "table4": 35},
    ),
    "gradcon": BareBaseline(
        baseline="gradcon",
        scores={"gradcon": "GradCon"},
        laptop={"epochs": 40},
        full={"epochs": 1000},
        seconds={"table3": 110, "table4": 91},
    ),
    "ocgan": BareBaseline(
        baseline="ocgan",
        scores={"ocgan": "OCGAN"},
        laptop={"epochs": 30},
        full={"epochs": 200, "width": 64},
        seconds={"table3": 116, "table4": 97},
    ),
}
# Quick ones first, so that a table that was stopped says much already.
METHODS: dict[str, FitMethod] = {
    "flow": CalibratedFlow(
        scores={"mass": MASS, "nll": "NLL", "fused": "fused"},
        laptop={"encoder": "pca"},
        full={"encoder": "pixels", "preset": "paper"},
        seconds={"table3": 15, "table4": 25},
    ),
    **plain({"table3": (3, 1, 1, 3, 3), "table4": (15, 3, 10, 6, 5)}),
    **TRAINED,
}


def run(table: OneClass, order: Order) -> dict[str, Any]:
    """Make the rows of an order; `only` is of `METHODS`.

    Every class trains on all its training images, and is tested on all its test images and as
    many of the other nine classes, drawn 20 times.

    Arguments:
        table: Of `TABLES`.
        order: What to make.

    Returns:
        The facts in the target of the order.

    Raises:
        ApproxMassError: an unknown row, an image set that is not there, or a target of another run.
    """
    check_only(order.only, METHODS, table.name)
    protocol = order.protocol or "balanced"
    sets = Sets(table.images, (), order.data)
    identity = {
        "command": f"approxmass paper {table.name}",
        "scale": order.scale,
        "id": sets.title,
        "protocol": PROTOCOLS[protocol],
    }
    runs = Runs(order.target, ("method", "class"), identity, resume=order.resume)
    todo = [
        ((name, k), f"{name} {kind}", method.seconds[table.name])
        for name, method in METHODS.items()
        for k, kind in enumerate(table.classes)
        if order.wants(name) and not runs.has(name, kind)
    ]
    for name, classes in groupby(order.go_through(todo), itemgetter(0)):
        method = METHODS[name]
        scores: Mapping[str, Floats] = {}
        for _, k in classes:
            own = sets.train[sets.train_labels == k]
            fitted = method.fit(order.scale, own)
            # What learns nothing scores alike for every class.
            if method.learns or not scores:
                scores = fitted.score(sets.test)
            inside = sets.test_labels == k
            runs.keep(
                {
                    "method": name,
                    "class": table.classes[k],
                    "training_images": len(own),
                    "options": fitted.facts,
                    "fit_seconds": round(fitted.seconds, 1),
                    "threads": torch.get_num_threads(),
                    "metrics": {
                        title: compare(scores[key][inside], scores[key][~inside], protocol)
                        for key, title in method.scores.items()
                    },
                }
            )
    return runs.facts


def rows(facts: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each score of the facts that has all its classes, with its AUROC by class."""
    found: dict[str, dict[str, Any]] = {}
    for row in facts["rows"]:
        for score, metrics in row["metrics"].items():
            found.setdefault(score, {})[row["class"]] = metrics["auroc"]
    for score, areas in found.items():
        if len(areas) == 10:
            yield score, areas


def mean_interval(areas: Sequence[dict[str, float]]) -> tuple[float, float, float]:
    """Mean of AUROCs, and its 95% interval from theirs: independent, so half widths add in squares.

    Example:
        >>> mean_interval([{"value": 0.9, "low": 0.87, "high": 0.93}] * 9)
        (0.9, 0.89, 0.91)
    """
    mean = sum(area["value"] for area in areas) / len(areas)
    low, high = (
        sum((area[side] - area["value"]) ** 2 for area in areas) ** 0.5 / len(areas)
        for side in ("low", "high")
    )
    return round(mean, 12), round(mean - low, 12), round(mean + high, 12)


def markdown(table: OneClass, facts: dict[str, Any]) -> str:
    """A row a score with the interval of its mean, and below it what was published."""
    lines = [
        f"| {facts['id']}: {facts['protocol']} | "
        + " | ".join(table.classes)
        + " | mean | 95% interval |",
        "|---|" + "---|" * 12,
    ]
    for score, areas in rows(facts):
        mean, low, high = mean_interval([areas[name] for name in table.classes])
        cells = " | ".join(f"{areas[name]['value']:.3f}" for name in table.classes)
        lines.append(f"| {score} | {cells} | **{mean:.3f}** | {low:.3f}-{high:.3f} |")
        if score in table.published:
            values = table.published[score]
            cells = " | ".join(f"{value:.3f}" for value in values)
            lines.append(f"| *{score}, published* | {cells} | *{sum(values) / 10:.3f}* | |")
    return "\n".join(lines)
