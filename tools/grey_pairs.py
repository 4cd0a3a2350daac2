"""FashionMNIST against MNIST, KMNIST and EMNIST letters: penalised, unpenalised and plain lines.

    python tools/grey_pairs.py ../shared/data results/grey_pairs.json

The folder holds `<set>/train.parquet` and `<set>/test.parquet` with an `image` column. Every number
is per image and balanced, on all 10,000 test images of each set. Three seeds; the same flow at
alpha 0 beside it. No setting was chosen here: the library's defaults, and alpha 0.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from approxmass import Detector, open_images
from approxmass.baselines.plain import NearestNeighbour, PCAResidual
from approxmass.evaluation import evaluate
from approxmass.metrics import ood_metrics
from approxmass.paper.runs import Runs

SETS = {"mnist": "MNIST", "kmnist": "KMNIST", "emnist_letters": "EMNIST letters"}
SEEDS = (0, 1, 2)


def main(data: Path, target: Path) -> None:
    """Run what is not in `target` yet, writing after each run."""
    runs = Runs(target, ("score", "seed"), {}, resume=True)
    usual = open_images(data / "fashion_mnist" / "test.parquet").read()
    others = {name: open_images(data / name / "test.parquet").read() for name in SETS}
    for seed in SEEDS:
        for alpha in ("auto", 0.0):
            name = "alpha auto" if alpha == "auto" else "alpha 0"
            if runs.has(f"{name}: mass", seed):
                continue
            started = time.perf_counter()
            detector = Detector(alpha=alpha, seed=seed)
            detector.fit(data / "fashion_mnist" / "train.parquet", progress=True)
            fit_seconds = time.perf_counter() - started
            started = time.perf_counter()
            usual_scores = detector.score(usual)
            images_per_second = len(usual) / (time.perf_counter() - started)
            found = {key: detector.score(images).statistics for key, images in others.items()}
            result = evaluate("fashion_mnist/test", usual_scores.statistics, found)
            for score in ("mass", "nll", "fused"):
                rows = {r.ood: r.metrics.as_dict() for r in result.rows if r.score == score}
                runs.keep(
                    {
                        "score": f"{name}: {score}",
                        "seed": seed,
                        "sets": rows,
                        "fit_seconds_with_reading": round(fit_seconds, 1),
                        "scored_images_per_second": round(images_per_second),
                        "flagged_id_at_5_percent": float(usual_scores.is_outlier.mean()),
                        "training": detector.facts["training"],
                    }
                )
    if not runs.has("1-nearest-neighbour", 0):
        train = open_images(data / "fashion_mnist" / "train.parquet").read()
        for name, baseline in (
            ("1-nearest-neighbour", NearestNeighbour()),
            ("PCA residual", PCAResidual()),
        ):
            baseline.fit(train)
            scores = baseline.score(usual)
            rows = {k: ood_metrics(scores, baseline.score(v)).as_dict() for k, v in others.items()}
            runs.keep({"score": name, "seed": 0, "sets": rows})


def markdown(facts: dict[str, Any]) -> str:
    """The table of the documentation: AUROC of each seed, then the interval of the first."""
    lines = ["| score | " + " | ".join(SETS.values()) + " |", "|---|" + "---|" * len(SETS)]
    names = list(dict.fromkeys(run["score"] for run in facts["rows"]))
    for name in names:
        runs = [run for run in facts["rows"] if run["score"] == name]
        cells = []
        for key in SETS:
            areas = [run["sets"][key]["auroc"] for run in runs]
            values = " / ".join(f"{area['value']:.4f}" for area in areas)
            cells.append(f"{values} [{areas[0]['low']:.3f}, {areas[0]['high']:.3f}]")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(markdown(json.loads(Path(sys.argv[2]).read_text())))
