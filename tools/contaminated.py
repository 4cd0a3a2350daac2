"""What outliers among the training images do, and whether `trim` undoes it.

    python tools/contaminated.py ../shared/data results/contaminated.json

Of the images of a fit none, 1%, 5% or 10% are outliers of the kind that is then to be found, though
never an image that is tried; each with and without `trim` at that share, and none also with `trim`
at 5%, which then takes usual images. In turn come FashionMNIST with MNIST among it and MNIST with
KMNIST among it (`pca`, 500 images, calibrated by folds), and solar cells with defective ones among
them (`lite0` without parts, 300 images of which a third is held out, as folds take long). Outliers
take the place of usual images, so that all fits have as many. Stopped, it goes on with the next
fit.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from approxmass import Detector, open_images
from approxmass.data import ImageSource
from approxmass.data.part import part_of
from approxmass.paper.runs import Runs

SHARES = (0.0, 0.01, 0.05, 0.10)
# Share of outliers mixed in, and share trimmed.
CASES = [(0.0, 0.0), (0.0, 0.05), *((share, trim) for share in SHARES[1:] for trim in (0.0, share))]
# Test images of each kind, at most.
_MOST = 1000


class Pair(NamedTuple):
    """A usual set and the outliers that come among it.

    Attributes:
        usual: Images to draw those of a fit from.
        foreign: Outliers to draw those from that are mixed in.
        inside: Usual images to try.
        outside: Outliers to try.
    """

    usual: NDArray[np.uint8]
    foreign: NDArray[np.uint8]
    inside: NDArray[np.uint8]
    outside: NDArray[np.uint8]


class Setting(NamedTuple):
    """How a pair is tried.

    Attributes:
        said: In a table.
        images: Of a fit.
        seeds: How many fits of each case.
        options: Of the detector.
    """

    said: str
    images: int
    seeds: int
    options: dict[str, Any]


PAIRS = {
    "fashion_mnist, mnist": Setting(
        "FashionMNIST with MNIST digits (`pca`, 500 images)", 500, 3, {"encoder": "pca"}
    ),
    "mnist, kmnist": Setting(
        "MNIST digits with KMNIST (`pca`, 500 images)", 500, 3, {"encoder": "pca"}
    ),
    "elpv_mono": Setting(
        "solar cells with defective ones (`lite0` without parts, 300 images)",
        300,
        3,
        {"encoder": "lite0", "parts": False, "calibration": "holdout", "holdout": 0.33},
    ),
}


def _drawn(source: ImageSource, marks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return part_of(source, marks, source.name).read()


def _parted(source: ImageSource, *counts: int) -> list[NDArray[np.uint8]]:
    """So many images drawn at random under one seed, then so many others, and so on."""
    order, found = np.random.default_rng(0).permutation(len(source)), []
    for rows in np.split(order, np.cumsum(counts))[: len(counts)]:
        marks = np.zeros(len(source), dtype=bool)
        marks[rows] = True
        found.append(_drawn(source, marks))
    return found


def _small(data: Path, usual: str, foreign: str) -> Pair:
    (images,) = _parted(open_images(data / usual / "train.parquet"), 20_000)
    (inside,) = _parted(open_images(data / usual / "test.parquet"), _MOST)
    mixed, outside = _parted(open_images(data / foreign / "test.parquet"), _MOST, _MOST)
    return Pair(images, mixed, inside, outside)


def _cells(data: Path) -> Pair:
    test = open_images(data / "elpv_mono" / "test.parquet")
    bad = np.asarray(test.labels()) != 0
    # Half of the defective cells may be mixed in, the other half is tried.
    half = int(bad.sum()) // 2
    mixed, outside = _parted(part_of(test, bad, "bad"), half, half)
    usual = open_images(data / "elpv_mono" / "train.parquet").read()
    return Pair(usual, mixed, _drawn(test, ~bad), outside)


OPEN: dict[str, Callable[[Path], Pair]] = {
    "fashion_mnist, mnist": lambda data: _small(data, "fashion_mnist", "mnist"),
    "mnist, kmnist": lambda data: _small(data, "mnist", "kmnist"),
    "elpv_mono": _cells,
}


def one(pair: Pair, name: str, share: float, trim: float, seed: int) -> dict[str, Any]:
    """One fit, and what it finds."""
    setting, rng = PAIRS[name], np.random.default_rng(seed)
    mixed = round(share * setting.images)
    usual = pair.usual[rng.permutation(len(pair.usual))[: setting.images - mixed]]
    foreign = pair.foreign[rng.permutation(len(pair.foreign))[:mixed]]
    order = rng.permutation(setting.images)
    images = np.concatenate([usual, foreign])[order]
    started = time.process_time()
    detector = Detector(seed=seed, trim=trim, **setting.options).fit(images)
    fit_seconds = time.process_time() - started
    left = {f"{place}" for place in np.flatnonzero(order >= setting.images - mixed)}
    trimmed = detector.facts.trimmed
    scores, others = detector.score(pair.inside), detector.score(pair.outside)
    statistic = np.concatenate([scores.statistic, others.statistic])
    area = roc_auc_score(np.arange(len(statistic)) >= len(scores), statistic)
    return {
        "pair": name,
        "share": share,
        "trim": trim,
        "seed": seed,
        "trimmed": len(trimmed),
        "mixed_in": mixed,
        "mixed_in_trimmed": len(left & set(trimmed)),
        "auroc": round(float(area), 5),
        "false_alarms": round(float(scores.is_outlier.mean()), 5),
        "found": round(float(others.is_outlier.mean()), 5),
        "fit_cpu_seconds": round(fit_seconds, 2),
    }


def main(data: Path, target: Path, only: list[str]) -> None:
    """Make what is not in `target` yet."""
    identity = {"command": f"python tools/contaminated.py {data} {target}"}
    runs = Runs(target, ("pair", "share", "trim", "seed"), identity, resume=True)
    opened = {name: OPEN[name](data) for name in only or PAIRS}
    for seed in range(max(setting.seeds for setting in PAIRS.values())):
        for name, pair in opened.items():
            for share, trim in CASES:
                if seed < PAIRS[name].seeds and not runs.has(name, share, trim, seed):
                    runs.keep(one(pair, name, share, trim, seed))


def markdown(facts: dict[str, Any]) -> str:
    """A row for each pair and share: without and with trim, means over seeds."""
    lines = [
        "| usual set, outliers mixed in | share, trimmed | fits | AUROC | usual called at 5% "
        "| outliers called at 5% | of those mixed in left out | time of a fit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, setting in PAIRS.items():
        own = [row for row in facts["rows"] if row["pair"] == name]
        for share, trim in CASES:
            rows = [row for row in own if (row["share"], row["trim"]) == (share, trim)]
            if not rows:
                continue
            took = float(np.mean([row["fit_cpu_seconds"] for row in rows]))
            found = "-"
            if share and trim:
                parts = [row["mixed_in_trimmed"] / row["mixed_in"] for row in rows]
                found = f"{np.mean(parts):.0%}"
            area, usual, called = (
                interval([row[what] for row in rows], form)
                for what, form in (("auroc", ".4f"), ("false_alarms", ".1%"), ("found", ".1%"))
            )
            lines.append(
                f"| {setting.said} | {share:.0%}, {trim:.0%} | {len(rows)} | {area} | {usual} "
                f"| {called} | {found} | {took:.0f} s |"
            )
    lines += ["", *_differences(facts)]
    return "\n".join(lines)


def _differences(facts: dict[str, Any]) -> list[str]:
    """What trim changes in fits of the same images, a row for each pair and share."""
    lines = [
        "| usual set, outliers mixed in | share, trimmed | AUROC, with trim - without "
        "| outliers called at 5%, with - without | usual called at 5%, with - without |",
        "|---|---|---|---|---|",
    ]
    for name, setting in PAIRS.items():
        own = [row for row in facts["rows"] if row["pair"] == name]
        for share, trim in CASES:
            if not trim:
                continue
            by = {(row["trim"], row["seed"]): row for row in own if row["share"] == share}
            seeds = sorted(seed for at, seed in by if at == trim and (0.0, seed) in by)
            if not seeds:
                continue
            shown = [
                interval([by[trim, s][what] - by[0.0, s][what] for s in seeds], form)
                for what, form in (("auroc", "+.4f"), ("found", "+.1%"), ("false_alarms", "+.1%"))
            ]
            lines.append(f"| {setting.said} | {share:.0%}, {trim:.0%} | {' | '.join(shown)} |")
    return lines


def interval(values: list[float], form: str) -> str:
    """The mean over seeds, and its 95% interval by Student's t; of a share it is one, too."""
    mean = np.mean(values)
    if len(values) == 1:
        return f"{mean:{form}}"
    error = stats.sem(values)
    half = error * stats.t.ppf(0.975, len(values) - 1)
    low, high = mean - half, mean + half
    if not form.startswith("+"):
        low, high = max(0.0, low), min(1.0, high)
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
