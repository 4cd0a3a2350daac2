"""Tables 3 and 4: one class of MNIST or CIFAR-10 against the other nine."""

__all__ = ["TABLES", "OneClass", "markdown", "run"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..baselines.base import Floats
from ..data.catalog import find_set
from .images import load, load_labels
from .methods import Method, check_only, fit, plain
from .protocols import PROTOCOLS, compare
from .published import MASS, TABLE3, TABLE4
from .runs import Runs


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


def plan(table: OneClass, only: Sequence[str] = ()) -> list[tuple[str, int]]:
    """The fits of a table, by method and class, in the order in which they are made.

    Raises:
        ApproxMassError: a method in `only` that there is not.
    """
    check_only(only, METHODS, table.name)
    return [(name, k) for name in METHODS if not only or name in only for k in range(10)]


def run(
    table: OneClass,
    data: Path | None,
    target: Path,
    *,
    scale: str = "laptop",
    protocol: str | None = None,
    only: Sequence[str] = (),
    resume: bool = False,
    on_start: Callable[[list[float]], None] | None = None,
    on_row: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Make the rows of a table that `target` does not have yet, and write each when it is done.

    Every class trains on all its training images, and is tested per image on all its test images
    and as many of the other nine classes, drawn 20 times.

    Arguments:
        table: Of `TABLES`.
        data: Folder of local image sets; None for the hub.
        target: JSON file.
        scale: `laptop`, or `full` for the published settings.
        protocol: `balanced`, which None is too, or `group`.
        only: Methods to run; none for all.
        resume: Go on with a `target` that is there.
        on_start: Told about how many seconds each fit to come will take at laptop scale.
        on_row: Told what was fitted, and about how many seconds that was to take.

    Returns:
        The facts in `target`.
    """
    fits = plan(table, only)
    protocol = protocol or "balanced"
    identity = {
        "command": f"approxmass paper {table.name}",
        "scale": scale,
        "id": find_set(table.images, "train", data).title,
        "protocol": PROTOCOLS[protocol],
    }
    runs = Runs(target, ("method", "class"), identity, resume=resume)
    fits = [fit for fit in fits if not runs.has(fit[0], table.classes[fit[1]])]
    seconds = [METHODS[name].seconds[table.name] for name, _ in fits]
    if on_start is not None:
        on_start(seconds)
    if not fits:
        return runs.facts
    train, test = (load(table.images, split, data).images for split in ("train", "test"))
    labels = [load_labels(table.images, split, data) for split in ("train", "test")]
    untrained: Mapping[str, Floats] = {}
    for (name, k), expected in zip(fits, seconds, strict=True):
        own = train[labels[0] == k]
        fitted = fit(METHODS[name], scale, own)
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
        if on_row is not None:
            on_row(f"{name} {table.classes[k]}", expected)
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
