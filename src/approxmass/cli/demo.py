"""The command `demo`: the main job from end to end, on the images that come with the library."""

__all__ = ["ID_TEST", "OOD_TEST", "TRAIN", "demo", "run_demo"]

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import check_outputs, emit, out, say
from .options import Device, Json, Threads

if TYPE_CHECKING:
    from ..baselines import Baseline
    from ..evaluation.assess import Assessment

TRAIN, ID_TEST, OOD_TEST = "sample:fashion_mnist/train", "sample:fashion_mnist/test", "sample:mnist"


@dataclass(frozen=True)
class Demo:
    """What the demo found."""

    assessment: "Assessment"
    facts: dict[str, Any]


def demo(
    output: Annotated[Path, typer.Option("-o", metavar="DIR", help="Where to write.")] = Path(
        "approxmass-demo"
    ),
    seed: Annotated[int, typer.Option(help="Fixes the run.")] = 0,
    device: Device = None,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Fit on FashionMNIST, find MNIST digits: real images that come with the package."""
    from ..runtime.extras import has_extra
    from .evaluate import show_evaluation, write_page

    check_outputs(json_file, output / "report.html")
    result = run_demo(output, seed=seed, device=device, threads=threads)
    emit(result.facts, json_file)
    if json_file != Path("-"):
        show_evaluation(result.assessment)
        seconds = result.assessment.detector.facts.fit_seconds
        out.print(f"Fitted and calibrated in {seconds:.0f} s. Detector and scores are in {output}/")
    if has_extra("report"):
        write_page(result.assessment, output / "report.html")
    else:
        say("no report: it needs pip install altair vl-convert-python jinja2")


def run_demo(
    folder: Path,
    *,
    seed: int = 0,
    progress: bool = True,
    device: str | None = None,
    threads: int | None = None,
) -> Demo:
    """Fit on FashionMNIST, score held-out FashionMNIST and MNIST, and write everything.

    Writes `detector/`, `fashion_mnist-test.parquet`, `mnist.parquet` and `demo.json` to `folder`;
    what an earlier demo left there is replaced file by file.

    Arguments:
        folder: Where to write.
        seed: Fixes the run.
        progress: Show remarks and a progress bar on standard error.
        device: Where to compute; None for a GPU where there is one.
        threads: Most threads to compute in; None leaves that to the libraries.

    Raises:
        ApproxMassError: `folder` cannot be written.
    """
    from ..data import open_images
    from ..detector import Detector
    from ..evaluation.assess import Assessment, score_set
    from ..evaluation.protocol import evaluate
    from ..runtime.machine import machine_facts
    from ..runtime.plain import plain_process
    from ..storage.artifact import check_target
    from ..storage.atomic import check_file, write_atomic, write_json
    from ..storage.score_file import ScoreFile, score_table

    check_target(folder / "detector")
    check_file(folder / "demo.json")
    detector = Detector(seed=seed, device=device, threads=threads)
    detector.fit(TRAIN, progress=progress)
    detector.save(folder / "detector")

    plain = _plain_lines(threads)
    sets, found = {}, {}
    for source in (ID_TEST, OOD_TEST):
        name = source.removeprefix("sample:").replace("/", "-")
        with (
            write_atomic(folder / f"{name}.parquet") as path,
            path.open("wb") as file,
            ScoreFile(file, "parquet") as rows,
        ):
            sets[source] = score_set(
                detector, source, lambda chunk, scores: rows.append(score_table(chunk, scores))
            )
        found[source] = {key: sets[source].statistics[key] for key in ("mass", "nll", "fused")}
        images = open_images(source).read(threads=threads)
        with plain_process(threads):
            found[source] |= {key: baseline.score(images) for key, baseline in plain.items()}

    evaluation = evaluate(ID_TEST, found[ID_TEST], {OOD_TEST: found[OOD_TEST]}, seed=seed)
    assessment = Assessment(
        detector=detector, sets=sets, evaluation=evaluation, group_size=1, seed=seed
    )
    facts = {
        "command": "approxmass demo",
        "seed": seed,
        "train": TRAIN,
        "fit": detector.facts.as_dict() | detector.model.facts(),
        "flagged_at_5_percent": assessment.flagged,
        "evaluation": evaluation.as_dict(),
        "machine": machine_facts(),
    }
    write_json(folder / "demo.json", facts)
    return Demo(assessment, facts)


def _plain_lines(threads: int | None) -> "dict[str, Baseline]":
    """By name, fitted on the images of the demo."""
    from ..baselines import NearestNeighbour, PCAResidual
    from ..data import open_images
    from ..runtime.plain import plain_process

    found: dict[str, Baseline] = {
        "1-nearest-neighbour": NearestNeighbour(),
        "PCA residual": PCAResidual(),
    }
    train = open_images(TRAIN).read(threads=threads)
    with plain_process(threads):
        for baseline in found.values():
            baseline.fit(train)
    return found
