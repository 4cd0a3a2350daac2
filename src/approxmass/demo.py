"""The main job from end to end, on the images that come with the library."""

__all__ = ["run_demo"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import artifact
from .assessment import Assessment, score_set
from .baselines.plain import NearestNeighbour, PCAResidual
from .data import open_images
from .detector import Detector
from .evaluation import evaluate
from .machine import machine_facts
from .score_file import ScoreFile

TRAIN, ID_TEST, OOD_TEST = "sample:fashion_mnist/train", "sample:fashion_mnist/test", "sample:mnist"


@dataclass(frozen=True)
class Demo:
    """What the demo found."""

    assessment: Assessment
    facts: dict[str, Any]


def run_demo(folder: Path, *, seed: int = 0, progress: bool = True) -> Demo:
    """Fit on FashionMNIST, score held-out FashionMNIST and MNIST, and write everything.

    Writes `detector/`, `fashion_mnist-test.parquet`, `mnist.parquet` and `demo.json` to `folder`;
    what an earlier demo left there is replaced file by file.

    Arguments:
        folder: Where to write.
        seed: Fixes the run.
        progress: Show remarks and a progress bar on standard error.

    Raises:
        ApproxMassError: `folder` cannot be written.
    """
    artifact.check_target(folder / "detector")
    artifact.check_file(folder / "demo.json")
    detector = Detector(seed=seed).fit(TRAIN, progress=progress)
    detector.save(folder / "detector")

    train = open_images(TRAIN).read()
    plain: dict[str, NearestNeighbour | PCAResidual] = {
        "1-nearest-neighbour": NearestNeighbour().fit(train),
        "PCA residual": PCAResidual().fit(train),
    }
    sets, found = {}, {}
    for source in (ID_TEST, OOD_TEST):
        name = source.removeprefix("sample:").replace("/", "-")
        with (
            artifact.write_atomic(folder / f"{name}.parquet") as path,
            ScoreFile(path, folder / f"{name}.parquet") as file,
        ):
            sets[source] = score_set(detector, source, file.write)
        found[source] = {key: sets[source].statistics[key] for key in ("mass", "nll", "fused")}
        images = open_images(source).read()
        found[source] |= {key: baseline.score(images) for key, baseline in plain.items()}

    evaluation = evaluate(ID_TEST, found[ID_TEST], {OOD_TEST: found[OOD_TEST]}, seed=seed)
    assessment = Assessment(detector, sets, evaluation, 1, seed)
    facts = {
        "command": "approxmass demo",
        "seed": seed,
        "train": TRAIN,
        "fit": detector.facts,
        "notes": detector.notes,
        "flagged_at_5_percent": assessment.flagged,
        "evaluation": evaluation.as_dict(),
        "machine": machine_facts(),
    }
    artifact.write_json(folder / "demo.json", facts)
    return Demo(assessment, facts)
