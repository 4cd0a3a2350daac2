"""Exported detectors beside the detectors themselves, on 1,000 real images each.

    python tools/onnx_parity.py DATA results/onnx_parity.json [KIND...]

DATA is the folder of image sets of docs/reproduction.md. Some minutes on two cores; of some kinds
alone, the others stay in the file as they are.
"""

__all__ = ["markdown"]

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from approxmass import Detector, open_images
from approxmass.calibration import called_ranks, with_tolerance
from approxmass.onnx_engine import OnnxDetector
from approxmass.runtime.machine import machine_facts
from approxmass.storage.atomic import write_json

RATES = (0.01, 0.05, 0.10)
COUNT = 1000
# What rounding may do to a statistic that is no difference, as a share of it; and those
# that are differences of larger numbers, and can be near 0.
NEAR = 1e-5
DIFFERENCES = ("typicality", "fused")
_ROUNDS = 3


def _pixels(path: Path, count: int) -> NDArray[np.uint8]:
    return open_images(str(path)).read()[:count]


def _means(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Rows of 49 numbers: means of 4 x 4 pixels of images of 28 x 28."""
    return images.reshape(len(images), 7, 4, 7, 4).mean((2, 4)).reshape(len(images), 49)


def _grey(data: Path, train: int) -> tuple[Any, Any]:
    usual = [
        _pixels(data / f"fashion_mnist/{part}.parquet", n)
        for part, n in (("train", train), ("test", 700))
    ]
    return usual[0], np.concatenate([usual[1], _pixels(data / "mnist/test.parquet", 300)])


def _rows(data: Path) -> tuple[Any, Any]:
    training, scored = _grey(data, 4000)
    return _means(training), _means(scored)


def _colour(data: Path) -> tuple[Any, Any]:
    usual = [
        _pixels(data / f"cifar10_lossless/{part}.parquet", n)
        for part, n in (("train", 2000), ("test", 700))
    ]
    odd = _pixels(data / "street_characters/test.parquet", 300)
    return usual[0], np.concatenate([usual[1], odd])


def _photos(data: Path) -> tuple[Any, Any]:
    """Magnetic tiles; all that are usual and not, and photos of other things, of many aspects."""
    sets = ("magnetic_tile", "elpv_mono", "pool_textures", "pool_imagenet_samples")
    items: list[Any] = []
    for name in (*sets, "clothing_pants"):
        source = open_images(str(data / name / "test.parquet"))
        items += [bytes(each) for _, some in source.parts()[0](64) for each in some]
    return str(data / "magnetic_tile" / "train.parquet"), items[:COUNT]


KINDS: dict[str, tuple[Callable[[], Detector], Callable[[Path], tuple[Any, Any]], str]] = {
    "vectors": (lambda: Detector(epochs=5), _rows, "rows of 49 means of FashionMNIST, MNIST"),
    "pca": (
        lambda: Detector("pca", epochs=3),
        lambda data: _grey(data, 4000),
        "FashionMNIST, MNIST",
    ),
    "pixels": (
        lambda: Detector("pixels", epochs=1),
        lambda data: _grey(data, 1500),
        "FashionMNIST, MNIST",
    ),
    "lite0": (
        lambda: Detector("lite0", parts=False, size=64, epochs=5),
        _colour,
        "CIFAR-10, street characters",
    ),
    "lite0 with parts": (
        lambda: Detector("lite0", parts=True, size=96, mode="grey", holdout=0.5, epochs=3),
        _photos,
        "magnetic tiles, other photos",
    ),
}


def measured(name: str, data: Path) -> dict[str, Any]:
    """Fit, export, and score by both; all in one thread."""
    make, sets, said = KINDS[name]
    training, scored = sets(data)
    detector = make()
    detector.threads = 1
    detector.fit(training)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        start = time.perf_counter()
        detector.export(file)
        seconds, size = time.perf_counter() - start, file.stat().st_size
        exported = OnnxDetector(file, threads=1)
    chunks = list(detector.chunks(scored if isinstance(scored, np.ndarray) else _decodable(scored)))
    rates: dict[str, list[float]] = {"torch": [], "onnx": []}
    engines = {"torch": detector.score_pixels, "onnx": exported.score_pixels}
    for _ in range(_ROUNDS):  # in turns, so that what else the machine does meets both
        found = {}
        for engine, score in engines.items():
            begin = time.perf_counter()
            parts = [score(chunk.images, chunk.boxes) for chunk in chunks]
            taken = time.perf_counter() - begin
            found[engine] = type(parts[0]).join(parts)
            rates[engine].append(len(found[engine]) / taken)
    return {
        "kind": name,
        "images": len(found["torch"]),
        "of": said,
        "calibration": len(detector.calibration_scores),
        "export_seconds": seconds,
        "bytes": size,
        "images_per_second": {engine: float(np.max(each)) for engine, each in rates.items()},
        **_compared(detector, found["torch"], found["onnx"]),
        "torch_by_itself": _by_itself(detector, chunks, found["torch"]),
    }


def _by_itself(detector: Detector, chunks: list[Any], scores: Any) -> dict[str, float]:
    """How far PyTorch is from itself by its other convolutions, as on another processor."""
    with torch.backends.mkldnn.flags(enabled=False):
        parts = [detector.score_pixels(chunk.images, chunk.boxes) for chunk in chunks]
    found = type(scores).join(parts).statistics
    return {
        name: float((np.abs(found[name] - there) / np.abs(there)).max())
        for name, there in scores.statistics.items()
    }


def _decodable(items: list[bytes]) -> Any:
    import io

    from PIL import Image

    return [Image.open(io.BytesIO(each)) for each in items]


def _compared(detector: Detector, there: Any, here: Any) -> dict[str, Any]:
    """How far the scores lie apart."""
    apart, plain, within = {}, {}, {}
    for name, values in there.statistics.items():
        difference = np.abs(here.statistics[name] - values)
        spread = float(np.std(detector.calibration[name]))
        apart[name] = float((difference / np.maximum(np.abs(values), spread)).max())
        share = difference / np.abs(values)
        plain[name], within[name] = float(share.max()), float((share <= NEAR).mean())
    calibration, p = detector.calibration_scores, there.p_value
    step = 1 / (1 + len(calibration))
    ordered, reached = np.sort(calibration), with_tolerance(calibration)
    verdicts = {}
    for rate in RATES:
        differ = (p <= rate) != (here.p_value <= rate)
        ranks = called_ranks(len(calibration), rate)
        at = len(calibration) - ranks
        near = np.abs(there.statistic - reached[at]) <= (reached - ordered)[at] if ranks else False
        verdicts[f"{rate:g}"] = {
            "called": int((p <= rate).sum()),
            "differ": int(differ.sum()),
            "differ_beyond_tolerance": int((differ & ~np.asarray(near)).sum()),
        }
    return {
        "apart": apart,
        "apart_as_a_share_of_itself": plain,
        "within": within,
        "p_identical": float((p == here.p_value).mean()),
        "p_apart_in_ranks": float(np.abs(p - here.p_value).max() / step),
        "verdicts": verdicts,
    }


def markdown(facts: dict[str, Any]) -> str:
    """The table of docs/export.md."""
    lines = [
        "| detector | images | within 1e-5 | apart, at most | differences apart | p-values the "
        "same | p apart, in 1/(n + 1) | verdicts that differ at 1, 5, 10% | images/s, ONNX Runtime "
        "| PyTorch |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in facts["rows"]:
        differ = ", ".join(str(each["differ"]) for each in row["verdicts"].values())
        rates = row["images_per_second"]
        measured = [name for name in row["apart"] if name not in DIFFERENCES]
        worst = max(measured, key=lambda name: row["apart_as_a_share_of_itself"][name])
        lines.append(
            f"| {row['kind']} | {row['images']:,}: {row['of']} "
            f"| {min(row['within'][name] for name in measured):.1%} "
            f"| {row['apart_as_a_share_of_itself'][worst]:.1e} (`{worst}`; PyTorch from itself "
            f"{row['torch_by_itself'][worst]:.1e}) "
            f"| {max(row['apart'][name] for name in DIFFERENCES):.1e} "
            f"| {row['p_identical']:.1%} | {row['p_apart_in_ranks']:.0f} | {differ} "
            f"| {rates['onnx']:,.0f} | {rates['torch']:,.0f} |"
        )
    lines += [
        "",
        f"One thread of {facts['machine']['processor']}; the quickest of {_ROUNDS} rounds of both "
        "in turns.",
    ]
    return "\n".join(lines)


def main(data: Path, target: Path, kinds: list[str]) -> None:
    """Measure and write."""
    rows = {}
    if target.exists():
        rows = {row["kind"]: row for row in json.loads(target.read_text())["rows"]}
    for name in kinds or KINDS:
        rows[name] = measured(name, data)
        print(json.dumps(rows[name], indent=1), file=sys.stderr, flush=True)
        known = [rows[each] for each in KINDS if each in rows]
        write_json(target, {"rows": known, "machine": machine_facts()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
