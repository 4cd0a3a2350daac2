"""Tables 3 and 4: one class of MNIST or CIFAR-10 against the other nine."""

__all__ = ["TABLES", "OneClass", "markdown", "run"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..baselines.base import Floats
from ..data.catalog import find_set
from .images import Pixels, load, load_labels
from .methods import Method, check_only, fit, plain
from .protocols import PROTOCOLS, compare
from .published import MASS, TABLE3, TABLE4
from .runs import Order, Runs


@dataclass(frozen=True)
class OneClass:
    """One of the two tables."""

    name: str
    images: str  # in the catalogue
    classes: tuple[str, ...]
    published: Mapping[str, tuple[float, ...]]


TABLES = {
    "table3": OneClass("table3", "mnist", tuple("0123456789"), TABLE3),
    "table4": OneClass(
        "table4",
        "cifar10",
        (
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        TABLE4,
    ),
}


# Quick ones first, so that a table that was stopped says much already.
METHODS = {
    "flow": Method(
        "flow",
        {"mass": MASS, "nll": "NLL", "fused": "fused"},
        {"space": "pca"},
        {"space": "pixels", "preset": "paper"},
        {"table3": 15, "table4": 25},
    ),
    **plain({"table3": (3, 1, 1, 3, 3), "table4": (15, 3, 10, 6, 5)}),
    "autoencoder": Method(
        "autoencoder",
        {"autoencoder": "autoencoder of OCGAN"},
        {"epochs": 30},
        {"epochs": 200, "width": 64},
        {"table3": 25, "table4": 35},
    ),
    "gradcon": Method(
        "gradcon",
        {"gradcon": "GradCon"},
        {"epochs": 40},
        {"epochs": 1000},
        {"table3": 110, "table4": 91},
    ),
    "ocgan": Method(
        "ocgan",
        {"ocgan": "OCGAN"},
        {"epochs": 30},
        {"epochs": 200, "width": 64},
        {"table3": 116, "table4": 97},
    ),
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
    """
    check_only(order.only, METHODS, table.name)
    data, protocol = order.data, order.protocol or "balanced"
    identity = {
        "command": f"approxmass paper {table.name}",
        "scale": order.scale,
        "id": find_set(table.images, "train", data).title,
        "protocol": PROTOCOLS[protocol],
    }
    runs = Runs(order.target, ("method", "class"), identity, resume=order.resume)
    todo = [
        ((name, k), f"{name} {kind}", method.seconds[table.name])
        for name, method in METHODS.items()
        for k, kind in enumerate(table.classes)
        if order.wants(name) and not runs.has(name, kind)
    ]
    images: list[Pixels] = []
    untrained: Mapping[str, Floats] = {}
    for name, k in order.go_through(todo):
        if not images:
            images = [load(table.images, split, data).images for split in ("train", "test")]
            labels = [load_labels(table.images, split, data) for split in ("train", "test")]
        train, test = images
        own = train[labels[0] == k]
        fitted = fit(METHODS[name], order.scale, own)
        # What learns nothing scores alike for every class.
        scores = untrained if name == "untrained-flow" and untrained else fitted.score(test)
        untrained = scores if name == "untrained-flow" else {}
        usual = labels[1] == k
        runs.keep(
            {
                "method": name,
                "class": table.classes[k],
                "training_images": len(own),
                "options": fitted.facts,
                "fit_seconds": round(fitted.seconds, 1),
                "threads": torch.get_num_threads(),
                "metrics": {
                    score: compare(scores[key][usual], scores[key][~usual], protocol)
                    for key, score in METHODS[name].scores.items()
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
