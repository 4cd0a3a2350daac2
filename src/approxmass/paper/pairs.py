"""Table 2: nine pairs of an in-distribution set and outliers, and every method on each."""

__all__ = ["BLOCKS", "METHODS", "Block", "block_markdown", "markdown", "run"]

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

from ..baselines.classifier import ClassifierBaseline
from ..baselines.godin import GODIN
from ..data.catalog import CATALOG, Found, find_set, has_split
from ..errors import ApproxMassError
from .images import Pixels, load, load_all, load_labels
from .methods import PLAIN, Fitted, Method, check_only, fit, plain
from .pixel_flow import PixelFlow, recipe
from .protocols import PROTOCOLS, compare, compare_released, released_scores
from .published import MASS, TABLE2
from .runs import Order, Runs
from .table1 import MOST_RELEASED


@dataclass(frozen=True)
class Block:
    """Pairs that share their in-distribution set.

    Attributes:
        id: In the catalogue.
        oods: Outliers in the catalogue, to their name in the paper.
        methods: The rows.
        tuning: Outliers that the energy is fine-tuned with, as published.
        published: Name of the in-distribution set in the paper.
        channels: 1 or 3.
        seeds: Most fits of one method.
    """

    id: str
    oods: Mapping[str, str]
    methods: tuple[str, ...]
    tuning: str
    published: str
    channels: int
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
        "fashion_mnist",
        {"mnist": "MNIST", "emnist": "EMNIST", "kmnist": "KMNIST"},
        (*_WHITENED, *PLAIN, *_PIXELS, *_CLASSIFIERS),
        "mnist",
        "FashionMNIST",
        1,
        seeds=3,
    ),
    # Flows on pixels see what JPEG does to an image, classifiers hardly.
    "colour-lossless": Block(
        "cifar10_lossless", _COLOUR, (*_WHITENED, *PLAIN, *_PIXELS), "svhn", "CIFAR-10", 3
    ),
    "colour": Block("cifar10", _COLOUR, ("pca", *_QUICK, *_CLASSIFIERS), "svhn", "CIFAR-10", 3),
}


def _seconds(*each: float) -> dict[str, float]:
    return dict(zip(BLOCKS, each, strict=True))


def _pixel_scores(training: str) -> dict[str, str]:
    return {
        name: f"{title}, pixels, {training}"
        for name, title in (
            ("mass", MASS),
            ("latent_fit", "latent fit"),
            ("fused", "fused"),
            ("nll", "NLL"),
        )
    }


def _pca_scores(training: str) -> dict[str, str]:
    return {
        name: f"{title}, pca, {training}"
        for name, title in (("mass", MASS), ("fused", "fused"), ("nll", "NLL"))
    }


_WIDE = {"depth": 16, "width": 8, "epochs": 200}
_SHORT = {"epochs": 3}
METHODS = {
    "pca": Method(
        "flow",
        _pca_scores("penalised"),
        {"space": "pca"},
        {"space": "pca"},
        _seconds(25, 8, 12),
        seeds=3,
    ),
    "pca-vanilla": Method(
        "flow",
        _pca_scores("vanilla"),
        {"space": "pca", "alpha": 0.0},
        {"space": "pca", "alpha": 0.0},
        _seconds(13, 5, 0),
        seeds=3,
    ),
    **plain(
        {
            "grey": (45, 5, 5, 135, 8),
            "colour-lossless": (5, 2, 20, 80, 4),
            "colour": (60, 10, 25, 0, 0),
        }
    ),
    "pixels": Method("pixels", _pixel_scores("penalised"), seconds=_seconds(470, 1000, 0)),
    "pixels-vanilla": Method("pixels", _pixel_scores("vanilla"), seconds=_seconds(135, 450, 0)),
    "energy": Method("energy", {"energy": "Energy"}, _SHORT, _WIDE, _seconds(235, 0, 250)),
    "mahalanobis": Method(
        "mahalanobis",
        {"mahalanobis": "Mahalanobis, penultimate"},
        _SHORT,
        _WIDE,
        _seconds(70, 0, 70),
    ),
    "mahalanobis-fgsm": Method(
        "mahalanobis",
        {"mahalanobis": "Mahalanobis, layers by FGSM"},
        {**_SHORT, "layers": "ensemble"},
        {**_WIDE, "layers": "ensemble"},
        _seconds(125, 0, 130),
    ),
    "godin": Method("godin", {"godin": "G-ODIN"}, _SHORT, _WIDE, _seconds(180, 0, 190)),
    "energy-tuned": Method(
        "energy",
        {"energy": "Energy, fine-tuned with outliers"},
        {**_SHORT, "tuning_epochs": 1},
        _WIDE,
        _seconds(210, 0, 220),
        outliers=True,
    ),
}
# Ours to theirs.
_PUBLISHED = {
    f"{MASS}, pixels, penalised": MASS,
    "Mahalanobis, layers by FGSM": "Mahalanobis",
    "G-ODIN": "G-ODIN",
    "Energy, fine-tuned with outliers": "Energy",
}
# Test images a set for flows on pixels at laptop scale.
_MOST = 2000


def run(order: Order) -> dict[str, Any]:
    """Make the rows of an order; `only` is of `METHODS`, and `released` is for flows on pixels.

    Returns:
        The facts in its target.
    """
    check_only(order.only, METHODS, "table2")
    data, protocol = order.data, order.protocol or "balanced"
    wanted = [name for name in METHODS if order.wants(name)]
    if protocol == "released":
        wanted = [name for name in wanted if METHODS[name].kind == "pixels"]
        if not wanted:
            raise ApproxMassError(
                f"--protocol released scores flows on pixels alone: {', '.join(_PIXELS)}"
            )
    # All that will be needed is there, and rows of other sets are not gone on with.
    sets_used = {
        name: find_set(name, split, data).title
        for block in BLOCKS.values()
        if any(name in wanted for name in block.methods)
        for name, split in (
            (block.id, "train"),
            (block.id, "test"),
            *((ood, "test") for ood in _oods(block, data)),
        )
    }
    identity = {
        "command": "approxmass paper table2",
        "scale": order.scale,
        "protocol": PROTOCOLS[protocol],
    }
    runs = Runs(order.target, ("block", "method", "seed"), identity, resume=order.resume)
    for row in runs.facts["rows"]:
        for name, found in {row["block"]: row["id"], **_titles(row)}.items():
            title = sets_used.get(BLOCKS[name].id if name in BLOCKS else name, found)
            if title != found:
                raise ApproxMassError(
                    f"{order.target} was made with {found}, not {title}: choose another -o"
                )
    todo = [
        ((key, name, seed), f"{key} {name}", METHODS[name].seconds[key])
        for key, block in BLOCKS.items()
        for name in block.methods
        for seed in range(min(METHODS[name].seeds, block.seeds))
        if name in wanted and not runs.has(key, name, seed)
    ]
    sets: dict[str, _Sets] = {}
    for key, name, seed in order.go_through(todo):
        if key not in sets:
            sets = {key: _Sets(BLOCKS[key], data)}  # of one block at a time
        if METHODS[name].kind == "pixels":
            row = _pixels(sets[key], name, order, protocol)
        else:
            row = _fitted(sets[key], name, order.scale, protocol, seed)
        runs.keep({"block": key, "method": name, "seed": seed, "id": sets[key].title, **row})
    return runs.facts


def _oods(block: Block, data: Path | None) -> list[str]:
    """The outliers of a block, but for those that the hub does not have, if they come from it."""
    return [name for name in block.oods if data is not None or CATALOG[name].hub]


def _titles(row: dict[str, Any]) -> dict[str, str]:
    return {name: found["title"] for name, found in row["sets"].items()}


class _Sets:
    """The images of a block."""

    def __init__(self, block: Block, data: Path | None) -> None:
        self.block, self.data = block, data
        self.like: Found = find_set(block.id, "train", data)
        self.title = self.like.title
        self.train = load(block.id, "train", data).images
        self.test = load(block.id, "test", data).images
        self.oods = {name: load(name, "test", data, like=self.like) for name in _oods(block, data)}

    def outliers(self) -> tuple[Pixels, str, dict[str, Pixels]]:
        """Outliers to learn from, what they are, and the test sets without them."""
        name = self.block.tuning
        tests = {key: found.images for key, found in self.oods.items()}
        if not has_split(name, "train", self.data):
            half = len(tests[name]) // 2
            learnt, tests[name] = tests[name][:half], tests[name][half:]
            return (
                learnt,
                f"the first {half:,} of {self.oods[name].title}, tested on the rest",
                tests,
            )
        found = load(name, "train", self.data, like=self.like)
        return found.images, f"{found.title}, train", tests


def _compared(
    scores: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
    method: Method,
    protocol: str,
) -> dict[str, Any]:
    """Metrics by outliers and by the title of the score."""
    return {
        ood: {
            title: compare(scores[key], found[key], protocol)
            for key, title in method.scores.items()
            if key in scores
        }
        for ood, found in others.items()
    }


def _fitted(sets: _Sets, name: str, scale: str, protocol: str, seed: int) -> dict[str, Any]:
    method, labels, outliers = METHODS[name], None, None
    row: dict[str, Any] = {}
    tests = {key: found.images for key, found in sets.oods.items()}
    if name in _CLASSIFIERS:
        labels = load_labels(sets.block.id, "train", sets.data)
    if method.outliers:
        outliers, row["outliers"], tests = sets.outliers()
    fitted: Fitted = fit(method, scale, sets.train, labels, outliers, seed=seed)
    if isinstance(fitted.baseline, ClassifierBaseline):
        truth = load_labels(sets.block.id, "test", sets.data)
        right = int((fitted.baseline.classify(sets.test) == truth).sum())
        interval = binomtest(right, len(truth)).proportion_ci(method="wilson")
        row["accuracy"] = {"value": right / len(truth), "low": interval.low, "high": interval.high}
    if isinstance(fitted.baseline, GODIN):
        row["magnitude"] = fitted.baseline.magnitude
    started = time.monotonic()
    scores = fitted.score(sets.test)
    row["scored_images_per_second"] = round(len(sets.test) / (time.monotonic() - started))
    if fitted.detector is not None:
        flagged = fitted.detector.predict(sets.test, false_alarm_rate=0.05)
        row["flagged_id_at_5_percent"] = float(flagged.mean())
    others = {key: fitted.score(images) for key, images in tests.items()}
    return {
        **row,
        "training_images": len(sets.train),
        "options": fitted.facts,
        "fit_seconds": round(fitted.seconds, 1),
        "threads": torch.get_num_threads(),
        "sets": {
            key: {"title": sets.oods[key].title, "metrics": metrics}
            for key, metrics in _compared(scores, others, method, protocol).items()
        },
    }


def _pixels(sets: _Sets, name: str, order: Order, protocol: str) -> dict[str, Any]:
    method, most = METHODS[name], order.at_laptop(_MOST)
    training = "vanilla" if name.endswith("vanilla") else "penalised"
    # Of the released protocol BatchNorm is a part.
    how = recipe(order.scale, sets.block.channels, detector=protocol != "released")
    flow = PixelFlow(sets.train, training, how)
    inside = torch.from_numpy(sets.test[:most])
    outside = {key: torch.from_numpy(found.images[:most]) for key, found in sets.oods.items()}
    if protocol == "released":
        most_outliers = order.at_laptop(MOST_RELEASED)
        outside = {
            key: torch.from_numpy(load_all(key, sets.data, like=sets.like, most=most_outliers))
            for key in sets.oods
        }
        scores = released_scores(flow.flow(), inside)
        released = {key: released_scores(flow.flow(), images) for key, images in outside.items()}
        compared = {
            key: {
                method.scores[each]: compare_released(scores[each], found[each]) for each in scores
            }
            for key, found in released.items()
        }
    else:
        scorer = flow.scorer().fit(flow.images, flow.reference)
        others = {key: scorer(images) for key, images in outside.items()}
        compared = _compared(scorer(inside), others, method, protocol)
    facts = flow.describe()
    return {
        "training_images": len(flow.images),
        "options": facts,
        "fit_seconds": round(facts["seconds"], 1),
        "threads": torch.get_num_threads(),
        "sets": {
            key: {"title": sets.oods[key].title, "metrics": metrics}
            for key, metrics in compared.items()
        },
    }


def markdown(facts: dict[str, Any]) -> str:
    """A table for each in-distribution set: AUROC by outliers with its interval, and published."""
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
            cells.append(f"{values} [{areas[0]['low']:.3f}, {areas[0]['high']:.3f}]")
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
