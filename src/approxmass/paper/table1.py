"""Table 1: the mass of a flow trained with and without the penalty, under three protocols."""

__all__ = ["MOST_RELEASED", "PAIRS", "Pair", "markdown", "run"]

from dataclasses import dataclass
from typing import Any

import torch

from ..data.catalog import find_set
from .images import load, load_all
from .methods import check_only
from .pixel_flow import TRAININGS, PixelFlow, recipe
from .protocols import PROTOCOLS, compare, compare_released, released_scores
from .published import TABLE1
from .runs import Order, Runs


@dataclass(frozen=True)
class Pair:
    """In-distribution set and outliers, and what Table 1 calls them."""

    id: str
    ood: str
    channels: int
    published: tuple[str, str]


PAIRS = {
    "grey": Pair("fashion_mnist", "mnist", 1, ("FashionMNIST", "MNIST")),
    "colour": Pair("cifar10_lossless", "svhn", 3, ("CIFAR-10", "SVHN")),
}
# At laptop scale: test images a set, and outliers of the released protocol, in the published ratio.
_MOST, MOST_RELEASED = 2000, 14_000


def run(order: Order) -> dict[str, Any]:
    """Make the rows of an order; `only` is of `TRAININGS`, and without a protocol all are made.

    Returns:
        The facts in its target.
    """
    data = order.data
    check_only(order.only, TRAININGS, "table1")
    protocols = [name for name in PROTOCOLS if order.protocol in (None, name)]
    sets = {
        name: find_set(name, split, data).title
        for pair in PAIRS.values()
        for name, split in ((pair.id, "train"), (pair.id, "test"), (pair.ood, "test"))
    }
    identity = {"command": "approxmass paper table1", "scale": order.scale, "sets": sets}
    runs = Runs(order.target, ("pair", "training", "protocol"), identity, resume=order.resume)
    todo = [
        (key, training, name)
        for key in PAIRS
        for training in TRAININGS
        for name in protocols
        if order.wants(training) and not runs.has(key, training, name)
    ]
    planned = []
    begun = set()
    for key, training, name in todo:
        trains = recipe("laptop", PAIRS[key].channels).seconds.get(training, 0.0)
        seconds = _SCORING[key] + (0.0 if (key, training) in begun else trains)
        planned.append(((key, training, name), f"{key} {training} {name}", seconds))
        begun.add((key, training))
    loaded: str | None = None
    trained: tuple[str, str] | None = None
    for key, training, name in order.go_through(planned):
        pair = PAIRS[key]
        if loaded != key:  # rows of a pair, and in it those of a training, follow each other
            usual, most = find_set(pair.id, "train", data), order.at_laptop(_MOST)
            train = load(pair.id, "train", data).images
            inside = load(pair.id, "test", data, most=most)
            outside = load(pair.ood, "test", data, like=usual, most=most)
            loaded = key
        if trained != (key, training):
            flow = PixelFlow(train, training, recipe(order.scale, pair.channels))
            trained = (key, training)
        if name == "released":
            most = order.at_laptop(MOST_RELEASED)
            outliers = load_all(pair.ood, data, like=usual, most=most)
            scores = [
                released_scores(flow.flow(), torch.from_numpy(images))
                for images in (inside.images, outliers)
            ]
            found = {k: compare_released(scores[0][k], scores[1][k]) for k in scores[0]}
        else:
            scores = [flow.scores(torch.from_numpy(s.images)) for s in (inside, outside)]
            found = {k: compare(scores[0][k], scores[1][k], name) for k in scores[0]}
        runs.keep(
            {
                "pair": key,
                "id": inside.title,
                "ood": outside.title,
                "training": training,
                "protocol": name,
                "metrics": found,
                "flow": flow.describe(),
                "threads": torch.get_num_threads(),
            }
        )
    return runs.facts


# Seconds that scoring takes for a row.
_SCORING = {"grey": 35.0, "colour": 20.0}


def markdown(facts: dict[str, Any]) -> str:
    """A row a training and protocol: AUROC of mass and likelihood, and what was published."""
    lines = [
        "| training | pair | protocol | mass | 95% interval | NLL | mass, published |",
        "|---|---|---|---|---|---|---|",
    ]
    order = {name: i for i, name in enumerate((*PAIRS, *TRAININGS, *PROTOCOLS))}
    keys = ("pair", "training", "protocol")
    for row in sorted(facts["rows"], key=lambda row: [order[row[key]] for key in keys]):
        mass, nll = (row["metrics"][name]["auroc"] for name in ("mass", "nll"))
        ours = (row["training"], *PAIRS[row["pair"]].published)
        claims = [f"{claim:g}" for *names, claim in TABLE1 if tuple(names) == ours]
        counts = f"{row['metrics']['mass']['n_id']:,} / {row['metrics']['mass']['n_ood']:,} scores"
        lines.append(
            f"| {row['training']} | {row['id']} → {row['ood']} | "
            f"{PROTOCOLS[row['protocol']]} ({counts}) | **{mass['value']:.3f}** | "
            f"{mass['low']:.3f}-{mass['high']:.3f} | {nll['value']:.3f} | {''.join(claims)} |"
        )
    return "\n".join(lines)
