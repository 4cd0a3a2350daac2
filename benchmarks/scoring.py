"""Scoring: the price of the mass, images a second from arrays and from PNG files, and memory.

    python benchmarks/scoring.py benchmarks/results/scoring.json

Images are random; the detectors are fitted briefly. Memory is the peak resident size of a process
that scores a file of 10,000 or of 1,000,000 images.
"""

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from approxmass import Detector
from approxmass.arrays import Pixels
from approxmass.data.pixels import unit_pixels
from approxmass.models.flow import FlowModel
from approxmass.models.scorer import FlowScorer
from timing import alternate, peak_mib, rate, ratio, write

ARRAY, PNGS, MANY = 60_000, 20_000, (10_000, 1_000_000)
ROUNDS = 5
# Of each encoder: shape of the images, and number fitted on.
KINDS = {"pca": (1, 28, 28), "pixels": (3, 32, 32)}
FITTED = {"pca": 2000, "pixels": 400}


def images(count: int, shape: tuple[int, ...], seed: int = 0) -> Pixels:
    """Smooth random images, which compress about as photographs do."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, *shape[:-2], 4, 4), dtype=np.uint8)
    return np.kron(coarse, np.ones((shape[-2] // 4, shape[-1] // 4), np.uint8))


def fitted(encoder: str, count: int) -> Detector:
    """A detector that has seen a little."""
    shape = KINDS[encoder]
    data = images(count, shape)
    data = (data + np.random.default_rng(1).integers(0, 20, data.shape, dtype=np.uint8)) // 2
    return Detector(encoder, epochs=1).fit(data)


def batches(scorer: FlowScorer, data: Tensor, work: Callable[[Tensor], object]) -> None:
    """Do some work on the inputs of the flow, batch by batch as the scorer takes them."""
    for batch in torch.split(data, scorer.batch_size):
        with torch.no_grad():
            code = scorer.encoder(unit_pixels(batch))
            work(code)


def price_of_the_mass(encoder: str, count: int) -> dict[str, Any]:
    """All scores against the log-likelihood alone, encoder and all."""
    model = fitted(encoder, FITTED[encoder]).model
    assert isinstance(model, FlowModel)
    scorer = model.scorer
    data = torch.from_numpy(images(count, KINDS[encoder]))
    seconds = alternate(
        {
            "log-likelihood": lambda: batches(scorer, data, scorer.flow.log_prob),
            "all scores": lambda: scorer.statistics_of(data),
        },
        ROUNDS,
    )
    return {
        "images_per_second": {name: rate(count, taken) for name, taken in seconds.items()},
        "share_of_log_likelihood_rate": ratio(seconds["log-likelihood"], seconds["all scores"]),
    }


def throughput(folder: Path) -> dict[str, Any]:
    """`Detector.score` from an array, and from a Parquet file of PNGs."""
    detector = fitted("pca", 6000)
    data = images(ARRAY, (28, 28))
    path = folder / "images.parquet"
    encoded = []
    for image in data[:PNGS]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    pq.write_table(pa.table({"image": encoded}), path, row_group_size=2000)
    seconds = alternate(
        {"array": lambda: detector.score(data), "parquet": lambda: detector.score(str(path))},
        ROUNDS,
    )
    return {
        "array": rate(ARRAY, seconds["array"]),
        "parquet of PNGs": rate(PNGS, seconds["parquet"]),
    }


def score_file(folder: str, path: str) -> Callable[[], object]:
    """For a new process: score all of a file, keeping nothing."""
    detector = Detector.load(folder)
    # What is loaded at the first image is not what grows with their number.
    detector.score(images(2048, (28, 28)))

    def work() -> None:
        for _, scores in detector.score_chunks(path):
            assert np.isfinite(scores.statistic).all()

    return work


def memory(folder: Path) -> dict[str, Any]:
    """Peak resident memory by the number of images in an IDX file."""
    saved = folder / "detector"
    fitted("pca", 2000).save(saved)
    peaks = {}
    block = images(10_000, (28, 28)).tobytes()
    for count in MANY:
        path = folder / "many-idx3-ubyte"
        with path.open("wb") as file:
            header = np.array([0x803, count, 28, 28], ">u4")
            file.write(header.tobytes())
            for _ in range(count // 10_000):
                file.write(block)
        peaks[count] = peak_mib(score_file, str(saved), str(path), total=True)
        path.unlink()
    few, many = (peaks[count] for count in MANY)
    return {"peak_mib": {str(k): v for k, v in peaks.items()}, "growth": many / few - 1}


def main(target: Path) -> None:
    """Measure and write."""
    facts: dict[str, Any] = {"command": f"python benchmarks/scoring.py {target}"}
    facts["price"] = {
        "pca": price_of_the_mass("pca", 40_000),
        "pixels": price_of_the_mass("pixels", 1024),
    }
    with tempfile.TemporaryDirectory() as name:
        facts["images_per_second"] = throughput(Path(name))
        facts["memory"] = memory(Path(name))
    print(
        {
            k: round(v["share_of_log_likelihood_rate"]["median"], 3)
            for k, v in facts["price"].items()
        }
    )
    print({k: round(v["median"]) for k, v in facts["images_per_second"].items()}, facts["memory"])
    write(target, facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
