"""Table 1: the mass of a flow trained with and without the penalty, under three protocols."""

__all__ = ["PAIRS", "Pair", "markdown", "run"]

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch

from ..evaluation.intervals import interval_text
from .catalog import find_set
from .pixel_flow import TRAININGS, PixelFlow, recipe
from .protocols import MOST_RELEASED, PROTOCOLS, compare, compare_as_released
from .published import TABLE1
from .runs import Order, Runs, check_only
from .sets import Sets


@dataclass(frozen=True, kw_only=True)
class Pair:
    """In-distribution set and OOD set, and what Table 1 calls them."""

    id: str
    ood: str
    channels: int
    published: tuple[str, str]


PAIRS = {
    "grey": Pair(id="fashion_mnist", ood="mnist", channels=1, published=("FashionMNIST", "MNIST")),
    "colour": Pair(id="cifar10_lossless", ood="svhn", channels=3, published=("CIFAR-10", "SVHN")),
}
# At laptop scale: test images a set.
_MOST = 2000


def run(order: Order) -> dict[str, Any]:
    """Make the rows of an order; `only` is of `TRAININGS`, and without a protocol all are made.

    Returns:
        The facts in its target.

    Raises:
        ApproxMassError: an unknown row, image sets that are not there, or a target of another run.
    """
    data = order.data
    check_only(order.only, TRAININGS, "table1")
    protocols = [name for name in PROTOCOLS if order.protocol in (None, name)]
    titles = {
        name: find_set(name, split, data).title
        for pair in PAIRS.values()
        for name, split in ((pair.id, "train"), (pair.id, "test"), (pair.ood, "test"))
    }
    identity = {"command": "approxmass paper table1", "scale": order.scale, "sets": titles}
    runs = Runs(order.target, ("pair", "training", "protocol"), identity, resume=order.resume)
    todo = [
        (key, training, name)
        for key in PAIRS
        for training in TRAININGS
        for name in protocols
        if order.wants(training) and not runs.has(key, training, name)
    ]
    # Rows of a pair, and in it those of a training, follow each other.
    for key, of_pair in groupby(order.go_through(_timed(todo)), itemgetter(0)):
        pair = PAIRS[key]
        sets = Sets(pair.id, (pair.ood,), data, most=order.at_laptop(_MOST))
        for training, of_training in groupby(of_pair, itemgetter(1)):
            flow = PixelFlow(sets.train, training, recipe(order.scale, pair.channels))
            for *_, protocol in of_training:
                runs.keep(
                    {
                        "pair": key,
                        "id": sets.title,
                        "ood": sets.oods[pair.ood].title,
                        "training": training,
                        "protocol": protocol,
                        "metrics": _metrics(flow, sets, order, protocol)[pair.ood],
                        "flow": flow.describe(),
                        "threads": torch.get_num_threads(),
                    }
                )
    return runs.facts


def _timed(
    todo: list[tuple[str, str, str]],
) -> list[tuple[tuple[str, str, str], str, float]]:
    """Rows with their names and seconds; the first of a training has to make the flow."""
    timed, begun = [], set()
    for key, training, name in todo:
        trains = recipe("laptop", PAIRS[key].channels).seconds.get(training, 0.0)
        seconds = _SCORING[key] + (0.0 if (key, training) in begun else trains)
        timed.append(((key, training, name), f"{key} {training} {name}", seconds))
        begun.add((key, training))
    return timed


def _metrics(flow: PixelFlow, sets: Sets, order: Order, protocol: str) -> dict[str, dict[str, Any]]:
    """By OOD set and statistic."""
    if protocol == "released":
        oods = sets.whole_oods(order.at_laptop(MOST_RELEASED))
        return compare_as_released(flow.flow(), sets.test, oods)
    id_scores = flow.scores(sets.test)
    found = {}
    for name, ood in sets.oods.items():
        scores = flow.scores(ood.images)
        found[name] = {k: compare(id_scores[k], scores[k], protocol) for k in id_scores}
    return found


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
            f"{interval_text(mass['low'], mass['high'])} | {nll['value']:.3f} | {''.join(claims)} |"
        )
    return "\n".join(lines)
