"""What one would pick instead, on embeddings of 10,000 photos: seconds to fit and to score, AUROC.

    python benchmarks/rivals.py benchmarks/results/rivals.json embeddings.npz

The rows are made by embeddings.py: 10,000 to fit on, 1,000 others and four sets of outliers of 500
to score. Everything with its defaults; the loops of zuko and normflows by likelihood, of 20 epochs
in batches of 512, on standardised columns. Each run is a process of its own,
once under the defaults of its libraries and once under the waiting policy that ours sets, in turns
with the others; the clock starts when all is imported and read. One seed. Stopped, it goes on
with the next run.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

Rows = NDArray[np.float32]
# Fits on rows, under a seed, and gives what scores others, larger where more out-of-distribution.
Fit = Callable[[Rows, int], Callable[[Rows], Any]]
SEEDS = 1
EPOCHS, BATCH = 20, 512
POLICIES: dict[str, dict[str, str]] = {"defaults": {}, "policy": {"GOMP_SPINCOUNT": "1000"}}
OURS = "ours"


def ours(train: Rows, seed: int) -> Callable[[Rows], Any]:
    """A detector with its defaults."""
    from approxmass import Detector

    detector = Detector(seed=seed).fit(train)
    return lambda rows: detector.score(rows).statistic


def gaussian(train: Rows, _: int) -> Callable[[Rows], Any]:
    """The squared Mahalanobis distance, with scikit-learn's shrunk covariance."""
    return LedoitWolf().fit(train).mahalanobis  # type: ignore[no-any-return]


def nearest(train: Rows, _: int) -> Callable[[Rows], Any]:
    """The distance to the nearest row of the fit."""
    index = NearestNeighbors(n_neighbors=1).fit(train)
    return lambda rows: index.kneighbors(rows)[0][:, 0]


def memory(train: Rows, seed: int, share: float = 0.1) -> Callable[[Rows], Any]:
    """The distance to a tenth of the rows, chosen greedily as far apart as can be (PatchCore)."""
    generator = np.random.default_rng(seed)
    small = train @ generator.normal(size=(train.shape[1], 128)).astype(np.float32)
    chosen = [int(generator.integers(len(train)))]
    far = ((small - small[chosen[0]]) ** 2).sum(1)
    while len(chosen) < share * len(train):
        chosen.append(int(far.argmax()))
        far = np.minimum(far, ((small - small[chosen[-1]]) ** 2).sum(1))
    return nearest(train[chosen], seed)


def forest(train: Rows, seed: int) -> Callable[[Rows], Any]:
    """scikit-learn's IsolationForest."""
    model = IsolationForest(random_state=seed).fit(train)
    return lambda rows: -model.score_samples(rows)


def pyod(name: str) -> Fit:
    """A detector of PyOD."""

    def fit(train: Rows, seed: int) -> Callable[[Rows], Any]:
        import importlib

        module = {"KNN": "knn", "ECOD": "ecod", "AutoEncoder": "auto_encoder"}[name]
        kind = getattr(importlib.import_module(f"pyod.models.{module}"), name)
        model = kind(random_state=seed, verbose=0) if name == "AutoEncoder" else kind()
        model.fit(train)
        return lambda rows: model.decision_function(rows)

    return fit


def flow(library: str) -> Fit:
    """A flow of a library, by likelihood, in the loop of its documents."""

    def fit(train: Rows, seed: int) -> Callable[[Rows], Any]:
        import torch

        torch.manual_seed(seed)
        mean, scale = train.mean(0), train.std(0) + 1e-6
        data = torch.from_numpy((train - mean) / scale)
        log_prob, parameters = _zuko(data) if library == "zuko" else _normflows(data)
        optimizer = torch.optim.AdamW(parameters, lr=1e-3)
        for _ in range(EPOCHS):
            for rows in data[torch.randperm(len(data))].split(BATCH):
                optimizer.zero_grad()
                (-log_prob(rows).mean()).backward()
                optimizer.step()

        def scores(rows: Rows) -> Any:
            with torch.no_grad():
                return -log_prob(torch.from_numpy((rows - mean) / scale)).numpy()

        return scores

    return fit


def _zuko(data: Any) -> tuple[Callable[[Any], Any], Any]:
    import zuko

    made = zuko.flows.RealNVP(
        data.shape[1], transforms=6, randmask=True, hidden_features=(256, 256)
    )
    return lambda rows: made().log_prob(rows), made.parameters()


def _normflows(data: Any) -> tuple[Callable[[Any], Any], Any]:
    import normflows as nf

    columns = data.shape[1]
    half, steps = (columns + 1) // 2, []
    for _ in range(6):
        widths = [half, 256, 256, 2 * (columns - half)]
        steps.append(nf.flows.AffineCouplingBlock(nf.nets.MLP(widths, init_zeros=True)))
        steps.append(nf.flows.Permute(columns, mode="shuffle"))
    made = nf.NormalizingFlow(nf.distributions.DiagGaussian(columns), steps)
    return made.log_prob, made.parameters()


RIVALS: dict[str, Fit] = {
    OURS: ours,
    "Gaussian (LedoitWolf)": gaussian,
    "nearest neighbour": nearest,
    "memory of a tenth": memory,
    "IsolationForest": forest,
    "PyOD KNN": pyod("KNN"),
    "PyOD ECOD": pyod("ECOD"),
    "PyOD AutoEncoder": pyod("AutoEncoder"),
    "zuko, likelihood": flow("zuko"),
    "normflows, likelihood": flow("normflows"),
}


def one(name: str, embeddings: Path, seed: int) -> dict[str, Any]:
    """A fit and its scores, in this process."""
    import torch

    torch.randn(64, 64) @ torch.randn(64, 64)  # its threads are there
    sets = np.load(embeddings)
    train, test = sets["train"], sets["test"]
    outliers = {each: sets[each] for each in sets.files if each not in ("train", "test")}
    if name == OURS:
        import approxmass.detector  # noqa: F401 - what it takes to import is not its fit
    started = time.perf_counter()
    scores = RIVALS[name](train, seed)
    fitted = time.perf_counter()
    usual = np.asarray(scores(test))
    odd = {each: np.asarray(scores(rows)) for each, rows in outliers.items()}
    ended = time.perf_counter()
    auroc = {each: _area(usual, found) for each, found in odd.items()}
    return {
        "fit_seconds": round(fitted - started, 3),
        "score_seconds": round(ended - fitted, 3),
        "auroc": auroc,
    }


def _area(usual: NDArray[Any], odd: NDArray[Any]) -> float:
    """AUROC; that of chance where a training has diverged, so that scores are no numbers."""
    scores = np.r_[usual, odd]
    if not np.isfinite(scores).all():
        return 0.5
    return round(float(roc_auc_score(np.arange(len(scores)) >= len(usual), scores)), 5)


def main(target: Path, embeddings: Path) -> None:
    """Run what is not there yet, each in a process of its own."""
    from approxmass.paper.runs import Runs

    identity = {
        "command": "python benchmarks/rivals.py benchmarks/results/rivals.json embeddings.npz"
    }
    runs = Runs(target, ("name", "policy", "seed"), identity, resume=True)
    for seed in range(SEEDS):
        for name in RIVALS:
            for policy, words in POLICIES.items():
                if runs.has(name, policy, seed):
                    continue
                call = [sys.executable, __file__, "--one", name, str(embeddings), str(seed)]
                kept = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
                said = subprocess.run(call, env=kept | words, stdout=subprocess.PIPE, check=True)
                found = json.loads(said.stdout.splitlines()[-1])
                runs.keep({"name": name, "policy": policy, "seed": seed, **found})
                print(name, policy, seed, found, flush=True)


def markdown(facts: dict[str, Any]) -> str:
    """A row for each; who is as quick in both and as good is better off."""
    found = {
        policy: {name: _summary(facts, name, policy) for name in RIVALS} for policy in POLICIES
    }
    sets = list(facts["rows"][0]["auroc"])
    lines = [
        "| method | fit, s | score, s | under the libraries' defaults, s | AUROC, mean | "
        + " | ".join(sets)
        + " | quicker and better |",
        "|---|---|---|---|---|" + "---|" * len(sets) + "---|",
    ]
    for name, own in found["policy"].items():
        plain = found["defaults"][name]
        cells = [f"{own['auroc'][each]:.3f}" for each in sets]
        beaten = [
            other
            for other, theirs in found["policy"].items()
            if other != name
            and all(a <= b for a, b in zip(_costs(theirs), _costs(own), strict=True))
        ]
        lines.append(
            f"| {name} | {_spread(own['fit'])} | {_spread(own['score'])} "
            f"| {statistics.median(plain['fit']):.2f}, {statistics.median(plain['score']):.2f} "
            f"| {own['mean']:.4f} | {' | '.join(cells)} | {', '.join(beaten) or 'none'} |"
        )
    return "\n".join(lines)


def _summary(facts: dict[str, Any], name: str, policy: str) -> dict[str, Any]:
    rows = [row for row in facts["rows"] if (row["name"], row["policy"]) == (name, policy)]
    areas = {each: statistics.mean(row["auroc"][each] for row in rows) for each in rows[0]["auroc"]}
    seconds = {key: [row[f"{key}_seconds"] for row in rows] for key in ("fit", "score")}
    return {**seconds, "auroc": areas, "mean": statistics.mean(areas.values())}


def _costs(own: dict[str, Any]) -> tuple[float, float, float]:
    return statistics.median(own["fit"]), statistics.median(own["score"]), -own["mean"]


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(one(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
