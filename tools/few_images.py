"""What few images are worth: calibration by folds beside images held out, on real sets.

    python tools/few_images.py ../shared/data results/few_images.json

From the images of a set some are drawn at random, under the seed of the fit: 60, 110 or 300; the
detector is fitted on them by folds and, where there are 100, with images held out; then other
images of the set and outliers are scored. In turn come FashionMNIST against MNIST (`pca`, seeds 0
to 99) and small sets of photos (`lite0` without parts, seeds 0 to 19), all sizes of one seed before
the next; and of FashionMNIST and MNIST the means of 49 parts of each image, as rows of numbers
(`vectors`). Time is that of the processor; what the network sees in a photo is cached by the first
fit that needs it, so that compared times of photos leave it out. Stopped, it goes on with the next
fit.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from approxmass import Detector, open_images
from approxmass.data import ImageSource
from approxmass.data.part import part_of
from approxmass.data.vectors import open_vectors
from approxmass.paper.runs import Runs

SIZES = (60, 110, 300)
_MEANS = "means of fashion_mnist"
SEEDS = {
    "fashion_mnist": 100,
    _MEANS: 100,
    "magnetic_tile": 20,
    "plantvillage_apple": 20,
    "gtsrb_speed": 20,
}
# Test images of each kind.
_MOST = 1000
_OPTIONS: dict[str, dict[str, Any]] = {
    "fashion_mnist": {"encoder": "pca"},
    _MEANS: {"encoder": "vectors"},
}
_PHOTOS: dict[str, Any] = {"encoder": "lite0", "parts": False}


def some(source: ImageSource, count: int, seed: int) -> ImageSource:
    """So many images of a source, drawn at random."""
    marks = np.zeros(len(source), dtype=bool)
    marks[np.random.default_rng(seed).permutation(len(source))[:count]] = True
    return part_of(source, marks, source.name)


def rows_of(source: ImageSource) -> ImageSource:
    """The means of 7 x 7 parts of its images, as rows of numbers."""
    return open_vectors(source.read().reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(-1, 49))


def tried_on(data: Path, name: str) -> tuple[ImageSource, ImageSource, ImageSource]:
    """Usual images to draw from, others of the same kind, and outliers."""
    if name == _MEANS:
        train, inside, outside = tried_on(data, "fashion_mnist")
        return rows_of(train), rows_of(inside), rows_of(outside)
    train = open_images(data / name / "train.parquet")
    if name == "fashion_mnist":
        tests = (open_images(data / of / "test.parquet") for of in (name, "mnist"))
        inside, outside = (some(each, _MOST, 0) for each in tests)
        return train, inside, outside
    test = open_images(data / name / "test.parquet")
    bad = np.asarray(test.labels()) != 0
    return train, part_of(test, ~bad, f"{name} good"), part_of(test, bad, f"{name} bad")


def one(
    sets: tuple[ImageSource, ImageSource, ImageSource], name: str, count: int, seed: int, how: str
) -> dict[str, Any]:
    """One fit, and what it finds."""
    train, inside, outside = sets
    options = _OPTIONS.get(name, _PHOTOS)
    usual, started = some(train, count, seed), time.process_time()
    detector = Detector(calibration=how, seed=seed, **options).fit(usual)
    fit_seconds = time.process_time() - started
    started = time.process_time()
    scores, others = detector.score(inside), detector.score(outside)
    score_seconds = time.process_time() - started
    statistic = np.concatenate([scores.statistic, others.statistic])
    area = roc_auc_score(np.arange(len(statistic)) >= len(scores), statistic)
    with tempfile.TemporaryDirectory() as place:
        detector.save(Path(place) / "d")
        size = sum(file.stat().st_size for file in (Path(place) / "d").iterdir())
    calibrated = detector.fitted.calibrated
    return {
        "set": name,
        "images": count,
        "seed": seed,
        "calibration": how,
        "calibration_scores": calibrated.count,
        "finest_p_value": 1 / (1 + calibrated.count),
        "false_alarms": round(float(scores.is_outlier.mean()), 5),
        "found": round(float(others.is_outlier.mean()), 5),
        "auroc": round(float(area), 5),
        "fit_cpu_seconds": round(fit_seconds, 2),
        "score_cpu_ms_an_image": round(1000 * score_seconds / len(statistic), 3),
        "folder_bytes": size,
    }


def main(data: Path, target: Path, only: list[str]) -> None:
    """Make what is not in `target` yet."""
    identity = {"command": f"python tools/few_images.py {data} {target}"}
    runs = Runs(target, ("set", "images", "seed", "calibration"), identity, resume=True)
    opened = {name: tried_on(data, name) for name in only or SEEDS}
    for seed in range(max(SEEDS.values())):
        for name, sets in opened.items():
            for count in SIZES:
                for how in ("folds", "holdout"):
                    wanted = seed < SEEDS[name] and (how == "folds" or count >= 100)
                    if wanted and not runs.has(name, count, seed, how):
                        runs.keep(one(sets, name, count, seed, how))


def markdown(facts: dict[str, Any]) -> str:
    """A row for each set, size and way."""
    lines = [
        "| set, images | calibration | fits | finest p-value | false alarms at 5% | outliers found "
        "at 5% | AUROC | time of a fit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in SEEDS:
        for count in SIZES:
            own = [row for row in facts["rows"] if (row["set"], row["images"]) == (name, count)]
            base = _mean(own, "holdout", "fit_cpu_seconds")
            for how in ("folds", "holdout"):
                rows = [row for row in own if row["calibration"] == how]
                if not rows:
                    continue
                took = _mean(own, how, "fit_cpu_seconds")
                times = f"{took / base:.1f} x" if base else "-"
                lines.append(
                    f"| {name}, {count} | {how} | {len(rows)} | {rows[0]['finest_p_value']:.2g} "
                    f"| {_mean(rows, how, 'false_alarms'):.1%} | {_mean(rows, how, 'found'):.1%} "
                    f"| {_mean(rows, how, 'auroc'):.4f} | {took:.1f} s, {times} |"
                )
    return "\n".join(lines)


def _mean(rows: list[dict[str, Any]], how: str, name: str) -> float:
    found = [row[name] for row in rows if row["calibration"] == how]
    return float(np.mean(found)) if found else 0.0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
