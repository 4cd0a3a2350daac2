"""Whether usual images are called as seldom as promised: every encoder, baselines, every door.

    python tools/false_alarms.py ../shared/data results/false_alarms.json

For each fit images of one set are drawn at random, under its seed: some to fit on and, of those
left, some that are then scored. They are exchangeable with those that calibrate, so that the law of
the number called is known (`calls_law.py`). Counted are calls at 1, 5 and 10% of single images and
of groups of 8 and 20, and the first alarm of a stream at one in 1,000; through a saved detector and
other doors as said below. A fit that takes long is made five times only; then the images that
calibrate and those scored are parted anew, 100 times a fit. Stopped, it goes on with the next fit.
"""

import functools
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import torch
import torch.nn.functional as F
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from approxmass import Detector, open_images
from approxmass.calibration import fold_bound
from approxmass.data.copies import pixel_digests
from approxmass.data.png import png_bytes
from approxmass.drift import DriftMonitor
from approxmass.drift.evidence import EARLY
from approxmass.models.folded import FOLDS
from approxmass.paper.runs import Runs
from approxmass.rank_sum import rank_sum_p_values
from approxmass.scores import Scores
from approxmass.serve import create_app
from approxmass.watch.watch import Watch
from calls_law import SURE, parted_anew, share_called

Images = NDArray[np.uint8]
RATES = (0.01, 0.05, 0.1)
GROUPS = (8, 20)
# One false alarm in so many images, and after how many of a stream alarms are counted.
EVERY, WITHIN = 1000, (20, 100, 500)
SPLITS = 100
# Images that calibrate anew, of each camera, and those that come through the server and `watch`.
ANEW, FEW = 150, 200
# Fits simulated for the law of groups; fewer groups or streams than these have no row.
DRAWN, FEWEST_GROUPS, FEWEST_STREAMS = 300, 300, 20


class OwnModule(torch.nn.Module):
    """An encoder as somebody may bring one: a layer of fixed random filters, pooled."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("filters", torch.randn(16, 1, 5, 5, generator=generator) / 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features `(N, 144)` of pixels `(N, 1, H, W)`."""
        return F.adaptive_avg_pool2d(F.conv2d(x, self.filters, stride=2).relu(), 3).flatten(1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Detectors of one kind.

    Attributes:
        of: The set of the images, and to what side they are brought.
        fit: How many are fitted on.
        options: Of the detector.
        fits: How many.
        tested: Images scored a fit.
        times: How often each image of the fit is stored.
        doors: Also through other doors than `score`.
        parts: Parted anew as well.
        rows: Of each image the means of its 49 parts, a row of numbers, takes its place.
    """

    of: tuple[str, int | None] = ("fashion_mnist/test", None)
    fit: int = 600
    options: Callable[[], dict[str, Any]]
    fits: int = 100
    tested: int = 500
    times: int = 1
    doors: bool = False
    parts: bool = False
    rows: bool = False
    holdout: float = 0.25


def _with(**options: Any) -> Callable[[], dict[str, Any]]:
    return lambda: options


KMNIST = ("kmnist/test", None)
SLOW: dict[str, Any] = {"fits": 5, "fit": 300, "parts": True, "holdout": 0.5}
# Few epochs where many would take long: the promise is the same however much was learnt.
CASES = {
    "pca": Case(options=_with(encoder="pca"), doors=True),
    "own module": Case(options=lambda: {"encoder": OwnModule(), "epochs": 5}, of=KMNIST),
    "pixels": Case(
        options=_with(encoder="pixels", epochs=1), of=KMNIST, tested=300, **SLOW,
    ),
    "lite0": Case(
        options=_with(encoder="lite0", parts=False, epochs=2),
        of=("gtsrb_speed/train", 64), tested=200, **SLOW,
    ),
    "lite0 with parts": Case(
        options=_with(encoder="lite0", parts=True, epochs=1),
        of=("plantvillage_apple/train", 64), tested=100, **SLOW,
    ),
    "gaussian": Case(options=_with(method="gaussian"), of=KMNIST, doors=True),
    "nearest-neighbour": Case(options=_with(method="nearest-neighbour")),
    "gradcon": Case(options=_with(method="gradcon", epochs=1), fit=500, tested=300, holdout=0.3),
    "pca, by folds": Case(options=_with(encoder="pca", epochs=5, calibration="folds"), fit=110),
    "vectors": Case(options=_with(encoder="vectors"), rows=True),
    **{
        f"{name}, stored {times} times": Case(
            options=options, fit=400, tested=300, times=times, holdout=0.4,
        )
        for name, options in (
            ("nearest-neighbour", _with(method="nearest-neighbour")),
            ("pca", _with(encoder="pca", epochs=2)),
        )
        for times in (1, 2, 4, 8)
    },
}  # fmt: skip


@dataclass
class Population:
    """The different images of a set, from which each fit draws some."""

    data: Path
    _read: dict[tuple[str, int | None], Images] = field(default_factory=dict)

    def drawn(self, name: str, seed: int) -> Images:
        """All of them, in an order of its own for each fit."""
        of, side = CASES[name].of
        if (of, side) not in self._read:
            images = open_images(self.data / f"{of}.parquet", size=side).read()
            first = np.unique(pixel_digests(images), return_index=True)[1]
            self._read[of, side] = images[np.sort(first)]
        generator = np.random.default_rng(zlib.crc32(f"{name}, {seed}".encode()))
        return generator.permutation(self._read[of, side])


def counted(p: NDArray[np.float64], calibration: int) -> dict[str, Any]:
    """How many p-values are at or below each rate."""
    called = [int((p <= rate).sum()) for rate in RATES]
    return {"calibration": calibration, "tested": len(p), "called": called}


def one(name: str, images: Images, seed: int) -> dict[str, Any]:
    """One fit, and what it calls."""
    case = CASES[name]
    options = {"calibration": "holdout", "holdout": case.holdout, **case.options()}
    images = means(images) if case.rows else images
    fitted, new = images[: case.fit], images[case.fit : case.fit + case.tested]
    started = time.process_time()
    detector = Detector(seed=seed, threads=1, **options).fit(np.repeat(fitted, case.times, 0))
    took = time.process_time() - started
    count, scores = detector.fitted.calibrated.count, detector.score(new)
    doors = {"score": counted(scores.p_value, count)}
    row: dict[str, Any] = {"case": name, "seed": seed, "fit_cpu_seconds": round(took, 2)}
    if case.parts:
        pool = np.concatenate([detector.calibration_scores, scores.statistic])
        p = parted_anew(pool, count, SPLITS, np.random.default_rng(seed))
        doors["parted anew"] = counted(p.ravel(), count) | {"splits": SPLITS}
    groups = {size: in_groups(detector, scores, size) for size in GROUPS}
    streams = {"scores": in_a_stream(detector, scores)}
    with tempfile.TemporaryDirectory() as place:
        detector.save(Path(place) / "d")
        doors["saved and loaded"] = counted(loaded(place).score(new).p_value, count)
        if case.doors:
            doors["server"] = counted(served(loaded(place), new[:FEW]), count)
            p, streams["watch"] = watched(loaded(place), new[:FEW], Path(place))
            doors["watch"] = counted(p, count)
            anew = images[case.fit + case.tested :]
            doors |= calibrated_anew(place, anew[: 2 * ANEW], new)
    return row | {"doors": doors, "groups": groups, "streams": streams}


def means(images: Images) -> NDArray[Any]:
    """Of 28 x 28 pixels the means of 7 x 7 parts, `(N, 49)`."""
    found: NDArray[Any] = images.reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(-1, 49)
    return found


def loaded(place: str) -> Detector:
    """The saved one."""
    return Detector.load(Path(place) / "d", threads=1)


def in_groups(detector: Detector, scores: Scores, size: int) -> dict[str, Any]:
    """Calls of groups of images that come one after the other."""
    rows = np.arange(len(scores) // size * size).reshape(-1, size)
    p = np.array([detector.fitted.group_p_value(scores.some(group)) for group in rows])
    return counted(p, len(detector.fitted.calibrated.streamed(detector.statistic)))


def in_a_stream(detector: Detector, scores: Scores) -> dict[str, Any]:
    """The image that raises the first alarm, from 1; None if none does."""
    usual = detector.fitted.calibrated.streamed(detector.statistic)
    alarm = DriftMonitor(usual, EVERY, detector.settings.seed).update(scores.streamed).alarm
    return {"images": len(alarm), "alarm": int(alarm.argmax()) + 1 if alarm.any() else None}


def served(detector: Detector, images: Images) -> NDArray[np.float64]:
    """p-values that the server answers."""
    files = [("image", (f"{i}.png", png_bytes(image))) for i, image in enumerate(images)]
    with TestClient(create_app(detector), base_url="http://localhost:8000") as client:
        answer = client.post("/score", files=files)
    return np.array([result["p_value"] for result in answer.json()["results"]])


def watched(
    detector: Detector, images: Images, place: Path
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """p-values in the log of a watched folder, and its first alarm."""
    (place / "camera").mkdir()
    for i, image in enumerate(images):
        (place / "camera" / f"{i:04d}.png").write_bytes(png_bytes(image))
    with Watch(detector, place / "camera", place / "log.csv", EVERY) as watch:
        for _ in watch.batches(interval=0.01, until_idle=0):
            pass
    p = pyarrow.csv.read_csv(place / "log.csv")["p_value"].to_numpy()
    alarms = watch.totals.alarms
    return p, {"images": len(p), "alarm": alarms[0].images if alarms else None}


def calibrated_anew(place: str, usual: Images, new: Images) -> dict[str, dict[str, Any]]:
    """Calls after `calibrate` on new images, all together and per camera, of which one is dark."""
    together = loaded(place).calibrate(usual)
    doors = {"calibrated anew": counted(together.score(new).p_value, len(usual))}
    cameras = np.arange(len(usual)) % 2, np.arange(len(new)) % 2
    usual, new = (
        np.where(of[:, None, None, None] == 1, images // 2, images)
        for of, images in zip(cameras, (usual, new), strict=True)
    )
    names = [np.array(["bright", "dark"])[of].tolist() for of in cameras]
    p = loaded(place).calibrate(usual, per=names[0]).score(new, per=names[1]).p_value
    for camera, name in enumerate(("bright", "dark")):
        doors[f"per group: {name}"] = counted(p[cameras[1] == camera], ANEW)
    return doors


def main(data: Path, target: Path) -> None:
    """Make what is not in `target` yet, one fit of each case after the other."""
    identity = {"command": f"python tools/false_alarms.py {data} {target}"}
    runs, population = Runs(target, ("case", "seed"), identity, resume=True), Population(data)
    for seed in range(max(case.fits for case in CASES.values())):
        for name, case in CASES.items():
            if seed < case.fits and not runs.has(name, seed):
                row = one(name, population.drawn(name, seed), seed)
                runs.keep(row)
                print(f"{name}, fit {seed}: {row['doors']['score']['called']}", file=sys.stderr)


def _heads(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def images_markdown(facts: dict[str, Any]) -> str:
    """Calls of single images: a row for each case and door."""
    lines = _heads("detector", "door", "fits", "calibrating", "tested", *map(_asked, RATES))
    same = outside = cells = 0
    for name, rows in by_case(facts):
        same += sum(row["doors"]["score"] == row["doors"]["saved and loaded"] for row in rows)
        folds = FOLDS if CASES[name].options().get("calibration") == "folds" else 1
        for door in rows[0]["doors"]:
            if door == "saved and loaded":
                continue
            lots = [row["doors"][door] for row in rows]
            first = lots[0]
            shown = []
            for place, rate in enumerate(RATES):
                share = sum(lot["called"][place] for lot in lots) / sum(x["tested"] for x in lots)
                if folds > 1:
                    most = fold_bound(rate, first["calibration"], folds)
                    shown.append(f"{share:.2%} (at most {most:.1%})")
                    continue
                low, high = bounds(lots, rate)
                shown.append(f"{share:.2%} ({100 * low:.2f} to {100 * high:.2f})")
                cells, outside = cells + 1, outside + (not low <= share <= high)
            tested = f"{first['tested'] // first.get('splits', 1)}"
            splits = f", {first['splits']} times" if "splits" in first else ""
            facts_of = [name, door, str(len(rows)), str(first["calibration"]), tested + splits]
            lines.append(f"| {' | '.join(facts_of + shown)} |")
    lines += [
        "",
        f"Of the {cells} shares with two bounds {outside} are outside of these, where "
        f"{cells / 100:.1f} are expected. Saved and loaded, {same:,} of {len(facts['rows']):,} "
        "detectors call as many as before.",
    ]
    return "\n".join(lines)


def groups_markdown(facts: dict[str, Any]) -> str:
    """Calls of groups of images: a row for each case and size."""
    lines = _heads("detector", "images a group", "fits", "groups", *map(_asked, RATES))
    above = below = cells = 0
    for name, rows in by_case(facts):
        for size in GROUPS:
            lots = [row["groups"][str(size)] for row in rows]
            if len(rows) * lots[0]["tested"] < FEWEST_GROUPS:
                continue
            law = _groups_called(lots[0]["calibration"], size, lots[0]["tested"], len(rows))
            tested = sum(lot["tested"] for lot in lots)
            shown = []
            for place, (low, high) in enumerate(zip(*law, strict=True)):
                share = sum(lot["called"][place] for lot in lots) / tested
                shown.append(f"{share:.2%} ({100 * low:.2f} to {100 * high:.2f})")
                cells, above, below = cells + 1, above + (share > high), below + (share < low)
            first = [name, str(size), str(len(rows)), f"{tested:,}"]
            lines.append(f"| {' | '.join(first + shown)} |")
    lines += ["", f"Of these {cells} shares {above} are above the bounds, and {below} below."]
    return "\n".join(lines)


def streams_markdown(facts: dict[str, Any]) -> str:
    """Streams with an alarm: a row for each case, a column for each length."""
    heads = [f"within {t} images, at most {early(t):.1%}" for t in WITHIN]
    lines = _heads("detector", "door", "streams", *heads)
    for name, rows in by_case(facts):
        for door in rows[0]["streams"]:
            found = [row["streams"][door] for row in rows]
            if len(found) < FEWEST_STREAMS:
                continue
            shown = []
            for t in WITHIN:
                alarmed = sum(each["alarm"] is not None and each["alarm"] <= t for each in found)
                shown.append(f"{alarmed / len(found):.1%}" if t <= found[0]["images"] else "")
            lines.append(f"| {' | '.join([name, door, str(len(found)), *shown])} |")
    return "\n".join(lines)


def _asked(rate: float) -> str:
    return f"called at {rate:.0%}"


def early(t: int) -> float:
    """The most that may have had an alarm within so many images."""
    return EARLY + t / EVERY


def by_case(facts: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of each case that has some."""
    by_name = {n: [row for row in facts["rows"] if row["case"] == n] for n in CASES}
    return [(name, rows) for name, rows in by_name.items() if rows]


def bounds(lots: list[dict[str, Any]], rate: float, sure: float = SURE) -> tuple[float, float]:
    """Of the share called over independent lots, some of them several times as many."""
    each = []
    for lot in lots:
        splits = lot.get("splits", 1)
        each += [(lot["calibration"], lot["tested"] // splits)] * splits
    _, low, high = share_called(each, rate, sure)
    return low, high


@functools.cache
def _groups_called(
    count: int, size: int, groups: int, fits: int
) -> tuple[list[float], list[float]]:
    """Between what the share of groups called is in 99% of cases: by simulation."""
    generator = np.random.default_rng(0)
    calibration = generator.random((DRAWN, 1, count))
    new = generator.random((DRAWN, groups, size))
    p = rank_sum_p_values(calibration, new)
    called = np.stack([(p <= rate).sum(1) for rate in RATES])
    drawn = generator.integers(DRAWN, size=(10 * DRAWN, fits))
    shares = called[:, drawn].sum(-1) / (fits * groups)
    low, high = np.quantile(shares, [(1 - SURE) / 2, (1 + SURE) / 2], axis=1)
    return low.tolist(), high.tolist()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
