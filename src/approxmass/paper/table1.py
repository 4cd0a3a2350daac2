"""Table 1: the mass of a flow trained with and without the penalty, under three protocols."""

__all__ = ["MOST_RELEASED", "PAIRS", "Pair", "markdown", "run"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.catalog import find_set
from .images import load, load_all
from .methods import check_only
from .pixel_flow import TRAININGS, PixelFlow, recipe
from .protocols import PROTOCOLS, compare, compare_released, released_scores
from .published import TABLE1
from .runs import Runs


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


def run(
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
    """Make the rows that `target` does not have yet, and write each when it is done.

    Arguments:
        data: Folder of local image sets; None for the hub.
        target: JSON file.
        scale: `laptop`, or `full` for the published settings.
        protocol: One of `PROTOCOLS`; None for all three.
        only: Trainings (`untrained`, `vanilla`, `penalised`); none for all.
        resume: Go on with a `target` that is there.
        on_start: Told about how many seconds each row to come will take at laptop scale.
        on_row: Told what was done, and about how many seconds that was to take.

    Returns:
        The facts in `target`.
    """
    check_only(only, TRAININGS, "table1")
    trainings = [name for name in TRAININGS if not only or name in only]
    protocols = [name for name in PROTOCOLS if protocol in (None, name)]
    sets = {
        name: find_set(name, split, data).title
        for pair in PAIRS.values()
        for name, split in ((pair.id, "train"), (pair.id, "test"), (pair.ood, "test"))
    }
    identity = {"command": "approxmass paper table1", "scale": scale, "sets": sets}
    runs = Runs(target, ("pair", "training", "protocol"), identity, resume=resume)
    todo = [
        (key, training, name)
        for key in PAIRS
        for training in trainings
        for name in protocols
        if not runs.has(key, training, name)
    ]
    seconds = []
    begun = set()
    for key, training, _ in todo:
        trains = recipe("laptop", PAIRS[key].channels).seconds.get(training, 0.0)
        seconds.append(_SCORING[key] + (0.0 if (key, training) in begun else trains))
        begun.add((key, training))
    if on_start is not None:
        on_start(seconds)
    flows: dict[tuple[str, str], PixelFlow] = {}
    for (key, training, name), expected in zip(todo, seconds, strict=True):
        pair, most = PAIRS[key], _MOST if scale == "laptop" else None
        usual = find_set(pair.id, "train", data)
        if (key, training) not in flows:
            train = load(pair.id, "train", data).images
            flows[key, training] = PixelFlow(train, training, recipe(scale, pair.channels))
        flow = flows[key, training]
        inside = load(pair.id, "test", data, most=most)
        outside = load(pair.ood, "test", data, like=usual, most=most)
        if name == "released":
            outliers = load_all(pair.ood, data, like=usual, most=most and MOST_RELEASED)
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
        if on_row is not None:
            on_row(f"{key} {training} {name}", expected)
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
