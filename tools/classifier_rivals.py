"""FashionMNIST against MNIST, KMNIST and EMNIST letters: the baselines that need a classifier.

    python tools/classifier_rivals.py ../shared/data results/classifier_rivals.json

One wide residual network (WRN-16-2, 8 epochs) for energy and Mahalanobis, one with the decomposed
head for Generalized ODIN; the energy again after fine-tuning with MNIST *train* as outliers, as
the paper did. Per image and balanced, on all 10,000 test images of each set. Seed 0. No setting
was chosen here by an AUROC. Stopped, it goes on where it was.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from approxmass import open_images
from approxmass.baselines import BASELINES
from approxmass.baselines.classifier import ClassifierBaseline
from approxmass.baselines.godin import GODIN
from approxmass.data import open_labels
from approxmass.evaluation.metrics import ood_metrics
from approxmass.paper.methods import share_of
from approxmass.paper.runs import Runs

SETS = {"mnist": "MNIST", "kmnist": "KMNIST", "emnist_letters": "EMNIST letters"}
# Name in the table: method, options, whether it learns from MNIST train.
ROWS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "energy": ("energy", {}, False),
    "Mahalanobis, penultimate": ("mahalanobis", {}, False),
    "Mahalanobis, layers by FGSM": ("mahalanobis", {"layers": "ensemble"}, False),
    "Generalized ODIN (C)": ("godin", {}, False),
    "energy, fine-tuned with MNIST train": ("energy", {}, True),
    "1-nearest-neighbour": ("nearest-neighbour", {}, False),
    "PCA residual": ("pca-residual", {}, False),
    "Gaussian": ("gaussian", {}, False),
    "untrained flow: mass": ("untrained-flow", {}, False),
    "PNG size": ("png-size", {}, False),
}


def main(data: Path, target: Path) -> None:
    """Run what is not in `target` yet."""
    identity = {
        "command": f"python tools/classifier_rivals.py {data} {target}",
        "protocol": "per image, balanced",
    }
    runs = Runs(target, ("row",), identity, resume=True)
    images = open_images(data / "fashion_mnist" / "train.parquet").read()
    labels = open_labels(data / "fashion_mnist" / "train.parquet")
    test = open_images(data / "fashion_mnist" / "test.parquet").read()
    truth = open_labels(data / "fashion_mnist" / "test.parquet")
    others = {name: open_images(data / name / "test.parquet").read() for name in SETS}
    for row, (method, options, tuned) in ROWS.items():
        if runs.has(row):
            continue
        baseline = BASELINES[method].make(0, options)
        outliers = data / "mnist" / "train.parquet" if tuned else None
        started = time.perf_counter()
        baseline.fit(images, labels, outliers, progress=True)
        run: dict[str, Any] = {
            "row": row,
            "method": method,
            "options": asdict(baseline),
            "outliers": "mnist/train" if tuned else None,
            "fit_seconds": round(time.perf_counter() - started, 1),
            "threads": torch.get_num_threads(),
        }
        if isinstance(baseline, ClassifierBaseline):
            right = int((baseline.classify(test) == truth).sum())
            run["accuracy"] = share_of(right, len(test))
            # Also where the network came from the cache: what training it took.
            for name, state in zip(("training", "tuning"), baseline.trainings, strict=False):
                run[f"{name}_seconds"] = round(state.seconds, 1)
        if isinstance(baseline, GODIN):
            run["magnitude"] = baseline.magnitude
        scores = baseline.score(test)
        run["sets"] = {
            name: ood_metrics(scores, baseline.score(others[name])).as_dict() for name in SETS
        }
        runs.keep(run)
        print(row, flush=True)


def markdown(facts: dict[str, Any]) -> str:
    """AUROC with its interval, and the test accuracy where there is a classifier."""
    lines = [
        "| method | accuracy | " + " | ".join(SETS.values()) + " |",
        "|---|---|" + "---|" * len(SETS),
    ]
    for run in facts["rows"]:
        accuracy = f"{run['accuracy']['value']:.4f}" if "accuracy" in run else ""
        areas = [run["sets"][name]["auroc"] for name in SETS]
        cells = [f"{a['value']:.4f} [{a['low']:.4f}, {a['high']:.4f}]" for a in areas]
        lines.append(f"| {run['row']} | {accuracy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
