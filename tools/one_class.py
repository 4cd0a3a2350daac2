"""One digit of MNIST against the other nine: GradCon, OCGAN, its autoencoder and the plain lines.

    python tools/one_class.py ../shared/data results/one_class.json

The folder holds `mnist/train.parquet` and `mnist/test.parquet`. Trained on all training images of
a digit; tested per image on all its test images and as many of the other nine, drawn 20 times.
Fewer epochs than published, and OCGAN with a quarter of the channels; nothing was chosen by an
AUROC. Stopped, it goes on where it was; to run the methods side by side, name some at the end.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch

from approxmass import open_images
from approxmass.baselines import make_baseline
from approxmass.baselines.training import digest
from approxmass.data import open_labels
from approxmass.metrics import ood_metrics
from kept_runs import KeptRuns, hours_of

METHODS: dict[str, dict[str, Any]] = {
    "autoencoder": {"epochs": 30},
    "nearest-neighbour": {},
    "pca-residual": {},
    "gaussian": {},
    "untrained-flow": {},
    "png-size": {},
    "gradcon": {"epochs": 40},
    "ocgan": {"epochs": 30},
}
NAMES = {
    "autoencoder": "autoencoder of OCGAN",
    "nearest-neighbour": "1-nearest-neighbour",
    "pca-residual": "PCA residual",
    "gaussian": "Gaussian",
    "untrained-flow": "untrained flow: mass",
    "png-size": "PNG size",
    "gradcon": "GradCon",
    "ocgan": "OCGAN",
}


def main(data: Path, target: Path, methods: list[str]) -> None:
    """Run what is not in `target` yet."""
    runs = KeptRuns(
        target,
        ("method", "digit"),
        command="python tools/one_class.py ../shared/data results/one_class.json",
        protocol="per image, balanced",
    )
    images, labels = (
        [opened(data / "mnist" / f"{split}.parquet") for split in ("train", "test")]
        for opened in (lambda path: open_images(path).read(), open_labels)
    )
    memory: dict[str, Any] = {}
    for method in methods:
        for digit in range(10):
            if runs.has(method, digit):
                continue
            baseline = make_baseline(method, METHODS[method])
            started = time.perf_counter()
            baseline.fit(images[0][labels[0] == digit], progress=True)
            run_seconds = time.perf_counter() - started
            training = getattr(baseline, "training", {"seconds": run_seconds})
            learnt = digest(*baseline.state().values())
            if learnt not in memory:  # what learns nothing scores alike for every digit
                memory = {learnt: baseline.score(images[1])}
            scores = memory[learnt]
            usual = labels[1] == digit
            run = {
                "method": method,
                "digit": digit,
                "seed": baseline.seed,
                "options": baseline.options(),
                "metrics": ood_metrics(scores[usual], scores[~usual]).as_dict(),
                "training_images": int((labels[0] == digit).sum()),
                # Also where the network came from the cache: what training it took.
                "training_seconds": round(training["seconds"], 1),
                "threads": torch.get_num_threads(),
            }
            runs.keep(run)
    if "full_settings" not in runs.facts:
        some = images[0][labels[0] == 0][:1300]
        published = {"gradcon": {"epochs": 1000}, "ocgan": {"epochs": 200, "width": 64}}
        costs = [hours_of(m, o, some, None, len(images[0])) for m, o in published.items()]
        runs.note(full_settings=costs)


def markdown(facts: dict[str, Any]) -> str:
    """AUROC of each digit, and the mean with the interval that the ten give it."""
    digits = range(10)
    lines = [
        "| method | " + " | ".join(map(str, digits)) + " | mean | 95% interval |",
        "|---|" + "---|" * 12,
    ]
    for method in METHODS:
        areas = {
            run["digit"]: run["metrics"]["auroc"]
            for run in facts["runs"]
            if run["method"] == method
        }
        values = [areas[digit]["value"] for digit in digits]
        mean = sum(values) / 10
        # The ten bootstraps are independent: half widths add in squares.
        low, high = (
            sum((areas[d][side] - areas[d]["value"]) ** 2 for d in digits) ** 0.5 / 10
            for side in ("low", "high")
        )
        cells = " | ".join(f"{value:.3f}" for value in values)
        interval = f"{mean - low:.3f}-{mean + high:.3f}"
        lines.append(f"| {NAMES[method]} | {cells} | **{mean:.4f}** | {interval} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(METHODS))
