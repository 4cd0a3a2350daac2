"""A fit and a scoring on a busy machine and within limits, against the same when it is quiet.

    python benchmarks/busy.py benchmarks/results/busy.json

Each run is a process of its own, in turns with the others: quiet; quiet with `threads=1`; beside
one process a core that counts without end; allowed one core of those there are (affinity); in a
control group with a quota of one core's time, where one can be made; and the three kinds of fit at
once. The clock starts when all is imported. `vectors`: 20,000 rows of 64 numbers; `pca`: 6,000
images of 28 x 28; `lite0`: 120 photos of 400 x 533 as JPEG with parts, its views not yet kept.
Stopped, it goes on with the next run.
"""

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from approxmass import Detector
from approxmass.paper.runs import Runs
from timing import ratio

KINDS = ("vectors", "pca", "lite0")
TURNS = 3
QUIET, ONE, BUSY = "quiet", "one thread", "beside a busy process a core"
AFFINITY, QUOTA, TOGETHER = "one core by affinity", "one core by quota", "three fits at once"
CONDITIONS = (QUIET, ONE, BUSY, AFFINITY, QUOTA, TOGETHER)
PHOTOS, SIZE = 120, (533, 400)
_PERIOD = 100_000


def one(kind: str, threads: int | None, photos: Path) -> dict[str, float]:
    """Seconds of a fit and of a scoring, in this process."""
    generator = np.random.default_rng(0)
    options: dict[str, Any] = {"threads": threads}
    if kind == "vectors":
        usual: Any = generator.normal(size=(20_000, 64)) @ generator.normal(size=(64, 64))
        tried: Any = np.tile(usual, (3, 1))
    elif kind == "pca":
        usual = np.kron(
            generator.integers(0, 256, (6000, 7, 7), dtype=np.uint8), np.ones((4, 4), np.uint8)
        )
        options |= {"encoder": "pca"}
        tried = np.tile(usual, (3, 1, 1))
    else:
        usual = tried = photos
        options |= {"encoder": "lite0", "calibration": "holdout"}
    detector = Detector(**options)
    started = time.perf_counter()
    detector.fit(usual)
    fitted = time.perf_counter()
    detector.score(tried)
    return {"fit": fitted - started, "score": time.perf_counter() - fitted}


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Within it so many processes count without end."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextlib.contextmanager
def quota() -> Iterator[Path | None]:
    """A control group with one core's time; None where none can be made."""
    for root, limit in (
        (Path("/sys/fs/cgroup/cpu"), ("cpu.cfs_quota_us", f"{_PERIOD}")),
        (Path("/sys/fs/cgroup"), ("cpu.max", f"{_PERIOD} {_PERIOD}")),
    ):
        group = root / f"approxmass-bench-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit[0]).write_text(limit[1])
            yield group
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    yield None


def started(kind: str, condition: str, photos: Path, group: Path | None) -> "subprocess.Popen[str]":
    """A run as a process of its own, with an empty cache."""
    call = [sys.executable, __file__, "--one", kind, "1" if condition == ONE else "", str(photos)]
    if condition == AFFINITY:
        call = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), *call]
    if group is not None:
        call = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *call]
    cache = {"APPROXMASS_CACHE": str(photos.parent / f"cache-{kind}-{time.monotonic_ns()}")}
    return subprocess.Popen(call, env=os.environ | cache, stdout=subprocess.PIPE, text=True)


def seconds_of(run: "subprocess.Popen[str]") -> dict[str, float]:
    """What a run has printed."""
    said, _ = run.communicate()
    if run.returncode:
        raise RuntimeError("a run failed")
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def measured(kind: str, condition: str, photos: Path) -> dict[str, dict[str, float]]:
    """Runs under a condition, by their kinds; none where it cannot be had."""
    if condition == TOGETHER:
        runs = {each: started(each, condition, photos, None) for each in KINDS}
        return {each: seconds_of(run) for each, run in runs.items()}
    busy = neighbours(os.cpu_count() or 1) if condition == BUSY else contextlib.nullcontext()
    limit = quota() if condition == QUOTA else contextlib.nullcontext()
    with busy, limit as group:
        if condition == QUOTA and group is None:
            return {}
        return {kind: seconds_of(started(kind, condition, photos, group))}


def main(target: Path) -> None:
    """Run what is not there yet."""
    from photos import folder

    identity = {"command": "python benchmarks/busy.py benchmarks/results/busy.json"}
    runs = Runs(target, ("kind", "condition", "turn"), identity, resume=True)
    with tempfile.TemporaryDirectory() as place:
        photos = folder(Path(place) / "photos", PHOTOS, SIZE)
        for turn, kind, condition in itertools.product(range(TURNS), KINDS, CONDITIONS):
            if runs.has(kind, condition, turn):
                continue
            for each, found in measured(kind, condition, photos).items():
                runs.keep({"kind": each, "condition": condition, "turn": turn, **found})
                print(each, condition, turn, found, flush=True)


def markdown(facts: dict[str, Any]) -> str:
    """A row for each kind and what it does; in brackets the range over turns."""
    others = CONDITIONS[2:]
    lines = [
        "| kind | quiet, s | " + " | ".join(others) + " |",
        "|---|---|" + "---|" * len(others),
    ]
    for kind in KINDS:
        for work in ("fit", "score"):
            quiet = statistics.median(_seconds(facts, kind, QUIET, work))
            cells = [_times(facts, kind, condition, work) for condition in others]
            lines.append(f"| {kind}, {work} | {quiet:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _times(facts: dict[str, Any], kind: str, condition: str, work: str) -> str:
    """How many times as long as its base: one thread for one core, else the quiet machine."""
    base = ONE if condition in (AFFINITY, QUOTA) else QUIET
    own, other = (_seconds(facts, kind, of, work) for of in (condition, base))
    if not own:
        return "-"
    found = ratio(own, other)
    return f"{found['median']:.2f}x ({found['low']:.2f}-{found['high']:.2f})"


def _seconds(facts: dict[str, Any], kind: str, condition: str, work: str) -> list[float]:
    rows = sorted(facts["rows"], key=lambda row: row["turn"])
    return [row[work] for row in rows if (row["kind"], row["condition"]) == (kind, condition)]


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        most = int(sys.argv[3]) if sys.argv[3] else None
        print(json.dumps(one(sys.argv[2], most, Path(sys.argv[4]))))
    else:
        main(Path(sys.argv[1]))
