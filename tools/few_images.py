"""What few images are worth: calibration by folds beside images held out, on real sets.

    python tools/few_images.py ../shared/data results/few_images.json

From the images of a set some are drawn at random, under the seed of the fit: 60, 110 or 300; the
detector is fitted on them by folds and, where there are 100, with images held out; then other
images of the set and outliers are scored. In turn come FashionMNIST against MNIST (`pca`), of these
the means of 49 parts of each image, as rows of numbers (`vectors`), and small sets of photos
(`lite0` without parts), all sizes of one seed before the next.

Several photos show one leaf, one tile or one sign: a series. The usual photos of `train.parquet`
and `test.parquet` are of different series, so that one file against the other is no test of a
promise for images drawn alike. `NAME` draws those to fit and those to score from both files
together; `NAME, other series` fits on the first and scores the second: as they are, and with the
series given as groups.

Time is that of the processor; what the network sees in a photo is cached by the first fit that
needs it, so that compared times of photos leave it out. Stopped, it goes on with the next fit.
"""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from approxmass import Detector, open_images
from approxmass.data import ImageSource
from approxmass.data.part import part_of
from approxmass.data.vectors import open_vectors
from approxmass.paper.runs import Runs

SIZES = (60, 110, 300)
_MEANS = "means of fashion_mnist"
_OTHER = ", other series"
_SERIES = "folds by series"
_PHOTO_SETS = ("magnetic_tile", "plantvillage_apple", "gtsrb_speed")
SEEDS = {
    "fashion_mnist": 100,
    _MEANS: 100,
    **dict.fromkeys(_PHOTO_SETS, 6),
    **{name + _OTHER: 5 for name in _PHOTO_SETS},
}
# Test images of each kind.
_MOST = 1000
_OPTIONS: dict[str, dict[str, Any]] = {
    "fashion_mnist": {"encoder": "pca"},
    _MEANS: {"encoder": "vectors"},
}
_PHOTOS: dict[str, Any] = {"encoder": "lite0", "parts": False}


@dataclass(frozen=True)
class Sets:
    """What a fit draws from, and what it is tried on.

    Attributes:
        usual: Images to draw from.
        inside: Others of their kind; None for those that are not drawn.
        outside: Outliers.
        series: That of each image to draw from; None where nothing tells.
    """

    usual: ImageSource
    inside: ImageSource | None
    outside: ImageSource
    series: NDArray[Any] | None = None


def drawn(source: ImageSource, count: int, seed: int) -> NDArray[np.bool_]:
    """Which images of a source are among so many drawn at random."""
    marks = np.zeros(len(source), dtype=bool)
    marks[np.random.default_rng(seed).permutation(len(source))[:count]] = True
    return marks


def some(source: ImageSource, count: int, seed: int) -> ImageSource:
    """So many images of a source, drawn at random."""
    return part_of(source, drawn(source, count, seed), source.name)


def rows_of(source: ImageSource) -> ImageSource:
    """The means of 7 x 7 parts of its images, as rows of numbers."""
    return open_vectors(source.read().reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(-1, 49))


def tried_on(data: Path, name: str) -> Sets:
    """The images of a set."""
    if name == "fashion_mnist":
        tests = (open_images(data / of / "test.parquet") for of in (name, "mnist"))
        inside, outside = (some(each, _MOST, 0) for each in tests)
        return Sets(open_images(data / name / "train.parquet"), inside, outside)
    if name == _MEANS:
        sets = tried_on(data, "fashion_mnist")
        assert sets.inside is not None
        return Sets(rows_of(sets.usual), rows_of(sets.inside), rows_of(sets.outside))
    folder = data / name.removesuffix(_OTHER)
    train, test = (pq.read_table(folder / f"{split}.parquet") for split in ("train", "test"))
    bad = np.asarray(test["label"]) != 0
    good, outside = test.filter(pa.array(~bad)), open_images(test.filter(pa.array(bad)))
    if name.endswith(_OTHER):
        return Sets(open_images(train), open_images(good), outside, np.asarray(train["group"]))
    both = pa.concat_tables([train, good.select(train.column_names)])
    return Sets(open_images(both), None, outside)


def one(sets: Sets, name: str, count: int, seed: int, how: str) -> dict[str, Any]:
    """One fit, and what it finds."""
    marks = drawn(sets.usual, count, seed)
    usual = part_of(sets.usual, marks, sets.usual.name)
    inside = sets.inside or some(part_of(sets.usual, ~marks, sets.usual.name), _MOST, seed)
    groups = None
    if how == _SERIES:
        assert sets.series is not None
        groups = sets.series[marks].tolist()
    options = {"calibration": how.split()[0], **_OPTIONS.get(name, _PHOTOS)}
    started = time.process_time()
    detector = Detector(seed=seed, **options).fit(usual, groups=groups)
    fit_seconds = time.process_time() - started
    started = time.process_time()
    scores, others = detector.score(inside), detector.score(sets.outside)
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
                for how in _ways(name, count):
                    if seed < SEEDS[name] and not runs.has(name, count, seed, how):
                        runs.keep(one(sets, name, count, seed, how))


def _ways(name: str, count: int) -> list[str]:
    """How a set is calibrated."""
    held_out = ["holdout"] if count >= 100 else []
    return ["folds", *held_out, *([_SERIES] if name.endswith(_OTHER) else [])]


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
            for how in _ways(name, count):
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
