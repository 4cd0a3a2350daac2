"""Tables 3 and 4: one class of MNIST or CIFAR-10 against the other nine."""

__all__ = ["TABLES", "OneClass", "markdown", "run"]

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..baselines import make_baseline
from ..data import open_images, open_labels
from ..data.catalog import find_set
from ..detector import Detector
from ..errors import ApproxMassError
from ..metrics import ood_metrics
from .published import MASS, TABLE3, TABLE4
from .runs import Runs

Floats = NDArray[np.float64]


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


@dataclass(frozen=True)
class Method:
    """One fit a class, and the scores that it gives.

    Attributes:
        scores: Statistic of the detector, to its name in the table.
        laptop: Options at laptop scale.
        full: Options as published.
        seconds: About how long a class takes on two cores at laptop scale, by table.
    """

    scores: dict[str, str]
    laptop: dict[str, Any]
    full: dict[str, Any]
    seconds: dict[str, float]


def _method(
    name: str, title: str, seconds: tuple[float, float], **scales: dict[str, Any]
) -> Method:
    """A baseline, whose one statistic has its own name."""
    by_table = dict(zip(TABLES, seconds, strict=True))
    return Method({name: title}, scales.get("laptop", {}), scales.get("full", {}), by_table)


# Quick ones first, so that a table that was stopped says much already.
METHODS = {
    "flow": Method(
        {"mass": MASS, "nll": "NLL", "fused": "fused"},
        {"space": "pca"},
        {"space": "pixels", "preset": "paper"},
        {"table3": 15, "table4": 25},
    ),
    "nearest-neighbour": _method("nearest-neighbour", "1-nearest-neighbour", (3, 15)),
    "pca-residual": _method("pca-residual", "PCA residual", (1, 3)),
    "gaussian": _method("gaussian", "Gaussian", (1, 10)),
    "untrained-flow": _method("untrained-flow", "untrained flow: mass", (25, 60)),
    "png-size": _method("png-size", "PNG size", (3, 5)),
    "autoencoder": _method(
        "autoencoder",
        "autoencoder of OCGAN",
        (25, 35),
        laptop={"epochs": 30},
        full={"epochs": 200, "width": 64},
    ),
    "gradcon": _method(
        "gradcon", "GradCon", (150, 160), laptop={"epochs": 40}, full={"epochs": 1000}
    ),
    "ocgan": _method(
        "ocgan",
        "OCGAN",
        (120, 130),
        laptop={"epochs": 30},
        full={"epochs": 200, "width": 64},
    ),
}


def plan(table: OneClass, only: Sequence[str] = ()) -> list[tuple[str, int]]:
    """The fits of a table, by method and class, in the order in which they are made.

    Raises:
        ApproxMassError: a method in `only` that there is not.
    """
    for name in only:
        if name not in METHODS:
            raise ApproxMassError(f"no row {name!r} in {table.name}: it has {', '.join(METHODS)}")
    return [(name, k) for name in METHODS if not only or name in only for k in range(10)]


def run(
    table: OneClass,
    data: Path | None,
    target: Path,
    *,
    scale: str = "laptop",
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
        only: Methods to run; none for all.
        resume: Go on with a `target` that is there.
        on_start: Told about how many seconds each fit to come will take at laptop scale.
        on_row: Told what was fitted, and about how many seconds that was to take.

    Returns:
        The facts in `target`.
    """
    fits = plan(table, only)
    title, train = find_set(table.images, "train", data)
    test = find_set(table.images, "test", data)[1]
    identity = {
        "command": f"approxmass paper {table.name}",
        "scale": scale,
        "id": title,
        "protocol": "per image, balanced",
    }
    runs = Runs(target, ("method", "class"), identity, resume=resume)
    fits = [fit for fit in fits if not runs.has(fit[0], table.classes[fit[1]])]
    seconds = [METHODS[name].seconds[table.name] for name, _ in fits]
    if on_start is not None:
        on_start(seconds)
    if not fits:
        return runs.facts
    images, labels = ([get(s) for s in (train, test)] for get in (_pixels, _labels))
    untrained: dict[str, Floats] = {}
    for (name, k), expected in zip(fits, seconds, strict=True):
        options = METHODS[name].laptop if scale == "laptop" else METHODS[name].full
        started = time.monotonic()
        own = images[0][labels[0] == k]
        if name == "flow":
            detector = Detector(**options).fit(own)
            fit_seconds = time.monotonic() - started
            scores = detector.score(images[1]).statistics
            facts = detector.facts["training"]
        else:
            baseline = make_baseline(name, options)
            baseline.fit(own)
            # What training took, also where the network came from the cache.
            training = getattr(baseline, "training", None)
            fit_seconds = training["seconds"] if training else time.monotonic() - started
            # What learns nothing scores alike for every class.
            if name == "untrained-flow" and untrained:
                scores = untrained
            else:
                scores = {name: baseline.score(images[1])}
            untrained = scores if name == "untrained-flow" else {}
            facts = baseline.options()
        usual = labels[1] == k
        runs.keep(
            {
                "method": name,
                "class": table.classes[k],
                "training_images": len(own),
                "options": facts,
                "fit_seconds": round(fit_seconds, 1),
                "threads": torch.get_num_threads(),
                "metrics": {
                    score: ood_metrics(scores[key][usual], scores[key][~usual]).as_dict()
                    for key, score in METHODS[name].scores.items()
                },
            }
        )
        if on_row is not None:
            on_row(f"{name} {table.classes[k]}", expected)
    return runs.facts


def _pixels(source: str) -> NDArray[np.uint8]:
    return open_images(source).read()


def _labels(source: str) -> NDArray[Any]:
    labels = open_labels(source)
    if labels is None:
        raise ApproxMassError(f"{source}: has no column label: one class needs its labels")
    return labels


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
