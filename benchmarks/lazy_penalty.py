"""What taking the penalty every k steps does to detection: an ablation, several seeds.

    python benchmarks/lazy_penalty.py ../shared/data benchmarks/results [PART ...]

Parts: `pca` (FashionMNIST, all 60,000 images, as a detector trains), `pca_float32` (the same
without bfloat16), `grey` (compact RealNVP on the pixels of 5,000 FashionMNIST images) and
`colour` (the same on 3,600 CIFAR-10 images). Everything but k and the seed is the same.
AUROC per image on up to 2,000 images a set. Every run is kept as
it ends; what is there already is not run again. Hours in all: `make bench` does not call it.
"""

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from approxmass.arrays import Pixels, Shape
from approxmass.encoders import Encoder, PixelEncoder, WhitenedEncoder
from approxmass.evaluation.metrics import auroc
from approxmass.flows import Flow, RealNVP, VectorFlow
from approxmass.models.scorer import FlowScorer
from approxmass.paper.catalog import find_set
from approxmass.paper.images import load
from approxmass.paper.pairs import BLOCKS
from approxmass.paper.runs import Runs
from approxmass.runtime.machine import pick_device
from approxmass.runtime.random import seeded_init
from approxmass.training import recipes
from approxmass.training.flow import TrainingSettings, train

SEEDS = (0, 1, 2)
HELD_OUT = 2000
MOST = 2000
# What a flow of a detector is and how it is trained: encoder, flow, inputs and settings.
Made = tuple[Encoder, Flow, Tensor, TrainingSettings]


def whitened(training: Tensor, shape: Shape, seed: int) -> Made:
    """On whitened codes."""
    encoder, device = WhitenedEncoder(), pick_device()
    codes = encoder.fit_transform(training, seed=seed, device=device)
    flow = VectorFlow("realnvp", encoder.dimension, seed=seed)
    return encoder, flow, codes, recipes.for_codes(len(codes), encoder.dimension, device)


def pixels(training: Tensor, shape: Shape, seed: int) -> Made:
    """On pixels."""
    with seeded_init(seed):
        flow = RealNVP.preset("compact", shape)
    return PixelEncoder(shape), flow, training, recipes.for_pixels(len(training), pick_device())


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the ablation.

    Attributes:
        make: Of the training images.
        every: Values of k.
        block: Of Table 2: where the OOD sets are named.
        images: In the catalogue.
        count: Training images; None for all.
        changed: Settings other than the detector's own.
    """

    make: Callable[[Tensor, Shape, int], Made]
    every: tuple[int, ...]
    block: str = "grey"
    images: str = "fashion_mnist"
    count: int | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)


PARTS = {
    "pca": Part(make=whitened, every=(1, 2, 4, 8, 16)),
    "pca_float32": Part(make=whitened, every=(1,), changed={"precision": "no"}),
    "grey": Part(make=pixels, every=(1, 4), count=5000, changed={"epochs": 6}),
    "colour": Part(
        make=pixels,
        every=(1, 4),
        block="colour",
        images="cifar10_lossless",
        count=3600,
        changed={"epochs": 10},
    ),
}


def run(images: Pixels, part: Part, k: int, seed: int) -> tuple[FlowScorer, float]:
    """A scorer whose flow took the penalty every `k` steps, and the seconds of its training."""
    training = torch.from_numpy(images[:-HELD_OUT][: part.count])
    held_out = torch.from_numpy(images[-HELD_OUT:])
    _, channels, height, width = training.shape
    shape = (channels, height, width)
    encoder, flow, inputs, how = part.make(training, shape, seed)
    how = replace(how, seed=seed, penalty_every=k, **part.changed)
    started = time.monotonic()
    train(flow, inputs, how, fingerprint="ablation")
    seconds = time.monotonic() - started
    return FlowScorer(encoder, flow, shape, seed=seed).fit(training, held_out), seconds


def main(data: Path, folder: Path, parts: list[str]) -> None:
    """Run what is not in `folder` yet."""
    for name in parts or PARTS:
        part = PARTS[name]
        identity = {"command": f"python benchmarks/lazy_penalty.py {data} {folder} {name}"}
        target = folder / f"lazy_penalty_{name}.json"
        runs = Runs(target, ("part", "k", "seed"), identity, resume=True)
        like = find_set(part.images, "test", data)
        images = load(part.images, "train", data).images
        inside = torch.from_numpy(load(part.images, "test", data, most=MOST).images)
        oods = BLOCKS[part.block].oods
        outside = [load(each, "test", data, like=like, most=MOST) for each in oods]
        for k, seed in itertools.product(part.every, SEEDS):
            if runs.has(name, k, seed):
                continue
            scorer, seconds = run(images, part, k, seed)
            id_scores = scorer.statistics_of(inside)
            auc: dict[str, dict[str, float]] = {}
            for loaded in outside:
                found = scorer.statistics_of(torch.from_numpy(loaded.images))
                auc[loaded.title] = {s: round(auroc(id_scores[s], found[s]), 4) for s in id_scores}
            nll = round(float(np.mean(id_scores["nll"])), 3)
            runs.keep(
                {
                    "part": name,
                    "k": k,
                    "seed": seed,
                    "seconds": round(seconds, 1),
                    "test_nll": nll,
                    "auroc": auc,
                }
            )
            print(name, k, seed, f"{seconds:.0f} s", auc, flush=True)


def markdown(folder: Path) -> str:
    """The ablation of the lazy penalty: means over seeds and sets of outliers."""
    rows = []
    for part, scores in (
        ("pca_float32", ("mass", "fused")),
        ("pca", ("mass", "fused")),
        ("grey", ("mass", "fused")),
        ("colour", ("mass", "latent_fit")),
    ):
        found = json.loads((folder / f"lazy_penalty_{part}.json").read_text())["rows"]
        for k in sorted({row["k"] for row in found}):
            mine = [row for row in found if row["k"] == k]
            cells = [part.replace("_", " in "), str(k), str(len(mine))]
            for score in scores:
                each = [statistics.mean(a[score] for a in row["auroc"].values()) for row in mine]
                cells.append(
                    f"{score} {statistics.mean(each):.4f} ({min(each):.4f}-{max(each):.4f})"
                )
            cells.append(f"{statistics.mean(row['test_nll'] for row in mine):,.1f}")
            rows.append(cells)
    heads = ["flow", "k", "seeds", "mean AUROC (by seed)", "and", "NLL of ID test images"]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
