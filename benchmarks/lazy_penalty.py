"""What taking the penalty every k steps does to detection: an ablation, several seeds.

    python benchmarks/lazy_penalty.py ../shared/data benchmarks/results [PART ...]

Parts: `pca` (FashionMNIST, all 60,000 images, as a detector trains), `pca_float32` (the same
without bfloat16), `grey` (compact RealNVP on the pixels of 5,000 FashionMNIST images) and
`colour` (the same on 3,600 CIFAR-10 images). Everything but k and the seed is the same.
AUROC per image on up to 2,000 images a set. Every run is kept as
it ends; what is there already is not run again. Hours in all: `make bench` does not call it.
"""

import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from approxmass.data.catalog import find_set
from approxmass.encoders import Encoder, PixelEncoder, WhitenedEncoder
from approxmass.flows import Flow, RealNVP, VectorFlow
from approxmass.flows.pixels import unit_pixels
from approxmass.metrics import auroc
from approxmass.paper.images import Pixels, load
from approxmass.paper.pairs import BLOCKS
from approxmass.paper.runs import Runs
from approxmass.scores import Scorer
from approxmass.settings import Settings
from approxmass.training import train

SEEDS = (0, 1, 2)
# k, training images, epochs; None for the detector's own.
PARTS = {
    "pca": ((1, 2, 4, 8, 16), None, None),
    "pca_float32": ((1,), None, None),
    "grey": ((1, 4), 5000, 6),
    "colour": ((1, 4), 3600, 10),
}
HELD_OUT = 2000
MOST = 2000


def run(images: Pixels, part: str, k: int, seed: int) -> tuple[Scorer, float]:
    """A scorer whose flow took the penalty every `k` steps, and the seconds of its training."""
    _, count, epochs = PARTS[part]
    training, held_out = (
        torch.from_numpy(images[:-HELD_OUT][:count]),
        torch.from_numpy(images[-HELD_OUT:]),
    )
    shape = tuple(training.shape[1:])
    settings = Settings(
        "pca" if part.startswith("pca") else "pixels", seed=seed, epochs=epochs or "auto"
    )
    settings, _ = settings.resolve(shape)
    encoder: Encoder = PixelEncoder(shape)
    flow: Flow
    torch.manual_seed(seed)
    if part.startswith("pca"):
        encoder = WhitenedEncoder(settings.components).fit(training, seed=seed)
        flow = VectorFlow(settings.preset, encoder.dimension, seed=seed)
        with torch.no_grad():
            inputs = encoder(unit_pixels(training))
    else:
        flow, inputs = RealNVP.preset(settings.preset, shape), training
    how = replace(settings.training(shape[0], encoder.dimension, len(training)), penalty_every=k)
    if part == "pca_float32":
        how = replace(how, precision="no")
    started = time.monotonic()
    train(flow, inputs, how, fingerprint="ablation")
    seconds = time.monotonic() - started
    return Scorer(encoder, flow, shape, draws=1, seed=seed).fit(training, held_out), seconds


def main(data: Path, folder: Path, parts: list[str]) -> None:
    """Run what is not in `folder` yet."""
    for part in parts or PARTS:
        identity = {"command": f"python benchmarks/lazy_penalty.py {data} {folder} {part}"}
        target = folder / f"lazy_penalty_{part}.json"
        runs = Runs(target, ("part", "k", "seed"), identity, resume=True)
        block = BLOCKS["colour" if part == "colour" else "grey"]
        name = "cifar10_lossless" if part == "colour" else block.id
        like = find_set(name, "test", data)
        images = load(name, "train", data).images
        inside = torch.from_numpy(load(name, "test", data, most=MOST).images)
        outside = {each: load(each, "test", data, like=like, most=MOST) for each in block.oods}
        for k, seed in itertools.product(PARTS[part][0], SEEDS):
            if runs.has(part, k, seed):
                continue
            scorer, seconds = run(images, part, k, seed)
            usual = scorer(inside)
            auc: dict[str, dict[str, float]] = {}
            for loaded in outside.values():
                found = scorer(torch.from_numpy(loaded.images))
                auc[loaded.title] = {s: round(auroc(usual[s], found[s]), 4) for s in usual}
            nll = round(float(np.mean(usual["nll"])), 3)
            runs.keep(
                {
                    "part": part,
                    "k": k,
                    "seed": seed,
                    "seconds": round(seconds, 1),
                    "test_nll": nll,
                    "auroc": auc,
                }
            )
            print(part, k, seed, f"{seconds:.0f} s", auc, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
