"""Table 2: nine pairs of an in-distribution set and an OOD set, and every method on each."""

__all__ = ["BLOCKS", "CLASSIFIERS", "METHODS", "Block", "block_markdown", "markdown", "run"]

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..errors import ApproxMassError
from ..evaluation.intervals import interval_text
from .catalog import CATALOG, find_set
from .methods import (
    PLAIN,
    CalibratedFlow,
    Classifier,
    GODINClassifier,
    Method,
    PixelMethod,
    TunedClassifier,
    plain,
)
from .protocols import PROTOCOLS
from .published import MASS, TABLE2
from .runs import Order, Runs, check_only, other_run
from .sets import Sets


@dataclass(frozen=True, kw_only=True)
class Block:
    """Pairs that share their in-distribution set.

    Attributes:
        id: In the catalogue.
        oods: OOD sets in the catalogue, to their name in the paper.
        methods: The rows.
        published: Name of the in-distribution set in the paper.
        seeds: Most fits of one method.
    """

    id: str
    oods: Mapping[str, str]
    methods: tuple[str, ...]
    published: str
    seeds: int = 1


_PIXELS = ("pixels", "pixels-vanilla")
_WHITENED = ("pca", "pca-vanilla")
_QUICK = ("nearest-neighbour", "pca-residual", "gaussian")
_CLASSIFIERS = ("energy", "mahalanobis", "mahalanobis-fgsm", "godin", "energy-tuned")
_COLOUR = {
    "svhn": "SVHN",
    "inaturalist": "iNaturalist",
    "inaturalist_plants": "iNaturalist (plants)",
    "dtd": "DTD",
    "places365": "Places365",
    "gtsrb": "GTSRB",
}
BLOCKS = {
    "grey": Block(
        id="fashion_mnist",
        oods={"mnist": "MNIST", "emnist": "EMNIST", "kmnist": "KMNIST"},
        methods=(*_WHITENED, *PLAIN, *_PIXELS, *_CLASSIFIERS),
        published="FashionMNIST",
        seeds=3,
    ),
    # Flows on pixels see what JPEG does to an image, classifiers hardly.
    "colour-lossless": Block(
        id="cifar10_lossless",
        oods=_COLOUR,
        methods=(*_WHITENED, *PLAIN, *_PIXELS),
        published="CIFAR-10",
    ),
    "colour": Block(
        id="cifar10", oods=_COLOUR, methods=("pca", *_QUICK, *_CLASSIFIERS), published="CIFAR-10"
    ),
}


def _seconds(*each: float) -> dict[str, float]:
    return dict(zip(BLOCKS, each, strict=True))


def _scores(flow: str, **titles: str) -> dict[str, str]:
    return {name: f"{title}, {flow}" for name, title in titles.items()}


def _pixels(training: str, seconds: dict[str, float]) -> PixelMethod:
    titles = {"mass": MASS, "latent_fit": "latent fit", "fused": "fused", "nll": "NLL"}
    return PixelMethod(
        training=training, scores=_scores(f"pixels, {training}", **titles), seconds=seconds
    )


def _whitened(training: str, seconds: dict[str, float], **options: float) -> CalibratedFlow:
    return CalibratedFlow(
        scores=_scores(f"pca, {training}", mass=MASS, fused="fused", nll="NLL"),
        laptop={"encoder": "pca", **options},
        full={"encoder": "pca", **options},
        seconds=seconds,
        seeds=3,
    )


_WIDE = {"depth": 16, "width": 8, "epochs": 200}
_SHORT = {"epochs": 3}
CLASSIFIERS: dict[str, Classifier] = {
    "energy": Classifier(
        baseline="energy",
        scores={"energy": "Energy"},
        laptop=_SHORT,
        full=_WIDE,
        seconds=_seconds(235, 0, 250),
    ),
    "mahalanobis": Classifier(
        baseline="mahalanobis",
        scores={"mahalanobis": "Mahalanobis, penultimate"},
        laptop=_SHORT,
        full=_WIDE,
        seconds=_seconds(70, 0, 70),
    ),
    "mahalanobis-fgsm": Classifier(
        baseline="mahalanobis",
        scores={"mahalanobis": "Mahalanobis, layers by FGSM"},
        laptop={**_SHORT, "layers": "ensemble"},
        full={**_WIDE, "layers": "ensemble"},
        seconds=_seconds(125, 0, 130),
    ),
    "godin": GODINClassifier(
        scores={"godin": "G-ODIN"}, laptop=_SHORT, full=_WIDE, seconds=_seconds(180, 0, 190)
    ),
    "energy-tuned": TunedClassifier(
        baseline="energy",
        scores={"energy": "Energy, fine-tuned with outliers"},
        laptop={**_SHORT, "tuning_epochs": 1},
        full=_WIDE,
        seconds=_seconds(210, 0, 220),
        outliers={"fashion_mnist": "mnist", "cifar10": "svhn"},  # as published
    ),
}
METHODS: dict[str, Method] = {
    "pca": _whitened("penalised", _seconds(25, 8, 12)),
    "pca-vanilla": _whitened("vanilla", _seconds(13, 5, 0), alpha=0.0),
    **plain(
        {
            "grey": (45, 5, 5, 135, 8),
            "colour-lossless": (5, 2, 20, 80, 4),
            "colour": (60, 10, 25, 0, 0),
        }
    ),
    "pixels": _pixels("penalised", _seconds(470, 1000, 0)),
    "pixels-vanilla": _pixels("vanilla", _seconds(135, 450, 0)),
    **CLASSIFIERS,
}
# Ours to theirs.
_PUBLISHED = {
    f"{MASS}, pixels, penalised": MASS,
    "Mahalanobis, layers by FGSM": "Mahalanobis",
    "G-ODIN": "G-ODIN",
    "Energy, fine-tuned with outliers": "Energy",
}


def run(order: Order) -> dict[str, Any]:
    """Make the rows of an order; `only` is of `METHODS`.

    Returns:
        The facts in its target.

    Raises:
        ApproxMassError: an unknown row, rows that the protocol does not have, image sets that are
            not there, or a target of another run.
    """
    check_only(order.only, METHODS, "table2")
    data, protocol = order.data, order.protocol or "balanced"
    scored = [name for name, method in METHODS.items() if protocol in method.protocols]
    wanted = [name for name in scored if order.wants(name)]
    if not wanted:
        raise ApproxMassError(
            f"--protocol {protocol} scores flows on pixels alone: {', '.join(scored)}",
            code="unknown-row",
        )
    titles = _needed(wanted, data)
    identity = {
        "command": "approxmass paper table2",
        "scale": order.scale,
        "protocol": PROTOCOLS[protocol],
    }
    runs = Runs(order.target, ("block", "method", "seed"), identity, resume=order.resume)
    for row in runs.facts["rows"]:
        for name, found in {row["block"]: row["id"], **_titles(row)}.items():
            title = titles.get(BLOCKS[name].id if name in BLOCKS else name, found)
            if title != found:
                raise other_run(order.target, found, title)
    todo = [
        ((key, name, seed), f"{key} {name}", METHODS[name].seconds[key])
        for key, block in BLOCKS.items()
        for name in block.methods
        for seed in range(min(METHODS[name].seeds, block.seeds))
        if name in wanted and not runs.has(key, name, seed)
    ]
    for key, rows in groupby(order.go_through(todo), itemgetter(0)):
        sets = Sets(BLOCKS[key].id, _oods(BLOCKS[key], data), data)
        for _, name, seed in rows:
            row = METHODS[name].row(sets, order, protocol, seed)
            runs.keep({"block": key, "method": name, "seed": seed, "id": sets.title, **row})
    return runs.facts


def _needed(wanted: list[str], data: Path | None) -> dict[str, str]:
    """The titles of all sets that these rows need, by name.

    Raises:
        ApproxMassError: one is not there.
    """
    return {
        name: find_set(name, split, data).title
        for block in BLOCKS.values()
        if any(name in wanted for name in block.methods)
        for name, split in (
            (block.id, "train"),
            (block.id, "test"),
            *((ood, "test") for ood in _oods(block, data)),
        )
    }


def _oods(block: Block, data: Path | None) -> list[str]:
    """The OOD sets of a block, but for those that the hub does not have, if they come from it."""
    return [name for name in block.oods if data is not None or CATALOG[name].hub]


def _titles(row: dict[str, Any]) -> dict[str, str]:
    return {name: found["title"] for name, found in row["sets"].items()}


def markdown(facts: dict[str, Any]) -> str:
    """A table for each in-distribution set: AUROC by OOD set with its interval, and published."""
    tables = (block_markdown(facts, key) for key in BLOCKS)
    return "\n\n".join(table for table in tables if table)


def block_markdown(facts: dict[str, Any], key: str) -> str:
    """The table of one of `BLOCKS`; empty if it has no row yet."""
    block = BLOCKS[key]
    rows = [row for row in facts["rows"] if row["block"] == key]
    if not rows:
        return ""
    titles = _titles(rows[0])
    lines = [
        f"| {rows[0]['id']}: {facts['protocol']} | accuracy | "
        + " | ".join(titles.values())
        + " | mean |",
        "|---|---|" + "---|" * (len(titles) + 1),
    ]
    for name in block.methods:
        ours = sorted((r for r in rows if r["method"] == name), key=lambda r: int(r["seed"]))
        if ours:
            lines += _lines(ours, block)
    return "\n".join(lines)


def _lines(rows: list[dict[str, Any]], block: Block) -> list[str]:
    """The scores of one method, each with all its seeds, and what was published."""
    lines = []
    for score in METHODS[rows[0]["method"]].scores.values():
        if score not in next(iter(rows[0]["sets"].values()))["metrics"]:
            continue
        cells, means = [], []
        for ood in rows[0]["sets"]:
            areas = [row["sets"][ood]["metrics"][score]["auroc"] for row in rows]
            values = " / ".join(f"{area['value']:.3f}" for area in areas)
            cells.append(f"{values} [{interval_text(areas[0]['low'], areas[0]['high'], ', ')}]")
            means.append(sum(area["value"] for area in areas) / len(areas))
        accuracy = f"{rows[0]['accuracy']['value']:.3f}" if "accuracy" in rows[0] else ""
        mean = sum(means) / len(means)
        lines.append(f"| {score} | {accuracy} | {' | '.join(cells)} | **{mean:.3f}** |")
        if score in _PUBLISHED:
            claims = [
                claim.auroc
                for ood in (block.oods[name] for name in rows[0]["sets"])
                for claim in TABLE2
                if (claim.method, claim.id, claim.ood) == (_PUBLISHED[score], block.published, ood)
            ]
            claimed = " | ".join(f"{claim:.3f}" for claim in claims)
            mean = sum(claims) / len(claims)
            lines.append(f"| *{_PUBLISHED[score]}, published* | | {claimed} | *{mean:.3f}* |")
    return lines
