"""Tables of numbers: each class as the usual one in turn, beside what else there is for tables.

    python tools/tables.py results/tables.json

The sets that scikit-learn carries (breast_cancer, wine, iris, digits): 18 classes. Seven tenths of
a class are fitted on, the others and all other classes told apart; five seeds. Everything with its
defaults: ours, IsolationForest, OneClassSVM and LocalOutlierFactor of scikit-learn, ECOD and KNN of
PyOD (`pip install pyod`). Ours was settled on altered in-distribution rows, not on these figures.
Then the time of fits on one thread, and of scoring on one and on one a core. Stopped, it goes on
with the next class.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM

from approxmass import Detector
from approxmass.paper.runs import Runs
from approxmass.runtime.cores import cores

Rows = NDArray[np.float64]
SETS = ("breast_cancer", "wine", "iris", "digits")
SEEDS = 5
TIMED = {"300 x 10": (300, 10), "10,000 x 30": (10_000, 30), "100,000 x 768": (100_000, 768)}


def classes() -> list[tuple[str, Rows, Rows]]:
    """Name, rows of a class, and those of all others."""
    found = []
    for name in SETS:
        data = getattr(datasets, f"load_{name}")()
        for kind in np.unique(data.target):
            own = data.target == kind
            found.append((f"{name} {kind}", data.data[own], data.data[~own]))
    return found


def ours(train: Rows, tests: list[Rows], seed: int) -> list[Rows]:
    """By statistic that decides."""
    detector = Detector(seed=seed).fit(train)
    return [detector.score(rows).statistic for rows in tests]


def _scikit(make: Callable[[int], Any]) -> Callable[[Rows, list[Rows], int], list[Rows]]:
    def scores(train: Rows, tests: list[Rows], seed: int) -> list[Rows]:
        model = make(seed).fit(train)
        return [-model.score_samples(rows) for rows in tests]

    return scores


def _pyod(name: str) -> Callable[[Rows, list[Rows], int], list[Rows]]:
    def scores(train: Rows, tests: list[Rows], seed: int) -> list[Rows]:
        import importlib

        kind = getattr(importlib.import_module(f"pyod.models.{name.lower()}"), name)
        model = kind().fit(train)
        return [model.decision_function(rows) for rows in tests]

    return scores


METHODS: dict[str, Callable[[Rows, list[Rows], int], list[Rows]]] = {
    "approxmass": ours,
    "IsolationForest": _scikit(lambda seed: IsolationForest(random_state=seed)),
    "OneClassSVM": _scikit(lambda seed: OneClassSVM()),
    "LOF": _scikit(lambda seed: LocalOutlierFactor(novelty=True)),
    "ECOD": _pyod("ECOD"),
    "KNN": _pyod("KNN"),
}


def one(own: Rows, others: Rows) -> dict[str, list[float]]:
    """AUROC of each method, by seed."""
    found: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(len(own))
        count = 7 * len(own) // 10
        train, inside = own[order[:count]], own[order[count:]]
        truth = np.repeat([0, 1], [len(inside), len(others)])
        for name, scores in METHODS.items():
            values = np.concatenate(scores(train, [inside, others], seed))
            found.setdefault(name, []).append(float(roc_auc_score(truth, values)))
    return found


def timed(count: int, width: int) -> dict[str, float]:
    """Seconds of a fit on one thread; rows a second on one, and on one a core."""
    rows = np.random.default_rng(0).normal(size=(count, width))
    Detector(threads=1).fit(rows[:40, :2])  # what is imported with the first fit is not counted
    started = time.perf_counter()
    detector = Detector(threads=1).fit(rows)
    fitted = time.perf_counter()
    some = rows[:20_000]
    rates = []
    for threads in (1, cores()):
        torch.set_num_threads(threads)
        detector.threads = threads
        began = time.perf_counter()
        detector.score(some)
        rates.append(round(len(some) / (time.perf_counter() - began)))
    return {
        "fit_seconds": round(fitted - started, 2),
        "rows_per_second": rates[0],
        "rows_per_second_on_all_cores": rates[1],
    }


def markdown(facts: dict[str, Any]) -> str:
    """The table of AUROC, the mean of seeds; in bold the best of a row."""
    rows = [row for row in facts["rows"] if "auroc" in row]
    lines = [
        f"| usual class | {' | '.join(METHODS)} |",
        "|---|" + "---|" * len(METHODS),
    ]
    means = {name: [float(np.mean(row["auroc"][name])) for row in rows] for name in METHODS}
    for i, row in enumerate(rows):
        lines.append(f"| {row['row']} | {_cells([means[name][i] for name in METHODS])} |")
    average = [float(np.mean(means[name])) for name in METHODS]
    lines.append(f"| mean of {len(rows)} | {_cells(average)} |")
    count = facts["machine"]["cores"]
    lines += ["", f"| rows | fit | scored, one thread | on {count} cores |", "|---|---|---|---|"]
    lines += [
        f"| {row['row']} | {row['fit_seconds']:.3g} s | {row['rows_per_second']:,} rows/s "
        f"| {row['rows_per_second_on_all_cores']:,} rows/s |"
        for row in facts["rows"]
        if "auroc" not in row
    ]
    return "\n".join(lines)


def _cells(values: list[float]) -> str:
    best = max(round(value, 3) for value in values)
    shown = (f"{value:.3f}" for value in values)
    return " | ".join(f"**{v}**" if float(v) == best else v for v in shown)


def main(file: Path) -> None:
    """Every class that is not in the file yet, then the times."""
    torch.set_num_threads(1)
    identity = {"command": f"python tools/tables.py {file}", "seeds": SEEDS}
    runs = Runs(file, ("row",), identity, resume=True)
    for name, own, others in classes():
        if not runs.has(name):
            runs.keep({"row": name, "auroc": one(own, others)})
    for name, (count, width) in TIMED.items():
        if not runs.has(name):
            runs.keep({"row": name, **timed(count, width)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
