"""What scoring costs on many cores: one core, the command and Ray with one and two actors.

    python tools/scale.py results/scale.json ../shared/data

Each kind of image in one run: small ones (28x28, PNG) by pca, photos (JPEG of 0.5 million pixels)
by lite0 without parts. One core is by its own seconds, whatever else the machine does; the others
by the clock. A rate is of images after the start; a start is what a run takes besides.
Ray's actors run at the niceness of the others. Memory is the peak of a process that fits.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from approxmass import Detector
from approxmass.models.registry import make_model
from approxmass.runtime.machine import machine_facts
from approxmass.storage.atomic import write_json

# Of each kind: the images, how many fit and how many are scored, images of a block, and the words.
KINDS: dict[str, tuple[str, int, int, int, dict[str, Any]]] = {
    "pca": ("fashion_mnist/test", 2000, 60_000, 4096, {"epochs": 1}),
    "lite0": (
        "clothing_pants/train",
        120,
        240,
        20,
        {"epochs": 1, "parts": False, "calibration": "holdout"},
    ),
}
NAMES = {"pca": "28x28, PNG in Parquet, `pca`", "lite0": "photos of 0.4 megapixels, JPEG, `lite0`"}
FITTED = (2_000, 8_000, 32_000)


def main() -> None:
    """Measure, or fit where a child is asked to."""
    if sys.argv[1] == "--fit":
        fit(int(sys.argv[2]))
        return
    load = os.getloadavg()[0]
    target, data = Path(sys.argv[1]), Path(sys.argv[2])
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray calls it so
    with tempfile.TemporaryDirectory() as name:
        found = {kind: measured(kind, data, Path(name)) for kind in KINDS}
    facts = {
        "command": "python tools/scale.py results/scale.json ../shared/data",
        "machine": machine_facts(),
        "load before": load,
        "rates": found,
        "fit": {str(count): fit_peak(count) for count in FITTED},
        "bytes kept of an image": kept_bytes(),
    }
    write_json(target, facts)


def markdown(facts: dict[str, Any]) -> str:
    """The rates, and what a billion images cost by them."""
    lines = [
        "| images | one core, decoding alone | one core, all | Ray, 1 actor | Ray, 2 actors | "
        "start of Ray, s | the command on two cores, s | a billion, core-days | bytes of a row |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, found in facts["rates"].items():
        one, two = found["ray, 1"], found["ray, 2"]
        days = 1e9 / found["one core, all"] / 86400
        lines.append(
            f"| {NAMES[kind]} | {found['one core, decoding']:,.0f}/s | "
            f"{found['one core, all']:,.1f}/s | {one['rate']:,.1f}/s | {two['rate']:,.1f}/s | "
            f"{one['seconds besides']:.0f} to {two['seconds besides']:.0f} | "
            f"{found['command, all cores, seconds in all']:.0f} for {found['images']:,} | "
            f"{days:,.1f} | {found['bytes of a row']:.0f} |"
        )
    machine = facts["machine"]
    lines += [
        "",
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['packages']['torch']}; "
        f"beside others with a load of {facts['load before']:.1f}, which slow down what is by the "
        "clock (Ray, the command); one core is by its own seconds.",
    ]
    return "\n".join(lines)


def memory_markdown(facts: dict[str, Any]) -> str:
    """What a fit holds, by the number of images."""
    peaks = ", ".join(f"{int(n):,}: {peak:,.0f} MiB" for n, peak in facts["fit"].items())
    kept = facts["bytes kept of an image"]
    each = ", ".join(f"{name} {count:,} bytes" for name, count in kept.items())
    gib = {name: 1e6 * count / 2**30 for name, count in kept.items()}
    million = ", ".join(f"{name} {size:.1f} GiB" for name, size in gib.items())
    return (
        f"Peak of a process that fits `pca` on so many images of 28x28: {peaks}. Kept in memory of "
        f"each image: {each} (colour at 32x32 for `pixels`, without parts for `lite0`); of a "
        f"million: {million}."
    )


def kills_markdown(facts: dict[str, Any]) -> str:
    """What became of runs whose driver was killed."""
    lines = [
        "| killed | blocks finished | scored by the second run | finished ones scored again | "
        "rows, names | as the plain command |",
        "|---|---|---|---|---|---|",
    ]
    for each in facts["kills"]:
        same = "equal" if each["equal to the plain command, in its order"] else "**different**"
        lines.append(
            f"| {each['killed']} | {each['blocks finished before']} | "
            f"{each['blocks scored by the second run']} | {each['finished blocks scored again']} | "
            f"{each['rows']:,}, {each['different names']:,} | {same} |"
        )
    return "\n".join(lines)


def measured(kind: str, data: Path, folder: Path) -> dict[str, Any]:
    """Rates of one kind of image, in images a second."""
    name, fitted, count, size, words = KINDS[kind]
    whole = sorted((data / Path(name).parent).glob(f"{Path(name).name}*.parquet"))[0]
    table = pq.read_table(whole, columns=["image"])
    source = folder / f"{kind}.parquet"
    few = folder / f"{kind}-fit.parquet"
    rows = table.take(pa.array(np.arange(count) % len(table)))
    pq.write_table(rows, source, row_group_size=size)
    pq.write_table(table.slice(0, fitted), few)
    detector = Detector(kind, threads=1, **words).fit(few)
    place = folder / kind
    detector.save(place)
    found: dict[str, Any] = {"images": count}
    opened = detector.open(str(source))
    found["one core, decoding"] = count / seconds(
        lambda: [None for _ in opened.chunks(64, shape=detector.shape, threads=1)],
        time.process_time,
    )
    found["one core, all"] = count / seconds(
        lambda: [None for _ in detector.score_chunks(str(source))], time.process_time
    )
    command = [sys.executable, "-m", "approxmass", "score", str(place), str(source), "-o"]
    output = folder / f"{kind}-scores.parquet"
    found["command, all cores, seconds in all"] = seconds(
        lambda: subprocess.run([*command, str(output)], check=True, capture_output=True)
    )
    found["bytes of a row"] = output.stat().st_size / count
    for actors in (1, 2):
        found[f"ray, {actors}"] = by_ray(detector, place, str(source), actors, size)
    return found


def by_ray(
    detector: Detector, place: Path, source: str, actors: int, size: int
) -> dict[str, float]:
    """Rate once all actors are at work, and the seconds of the start."""
    import ray

    from approxmass.integrations.ray import scored_blocks

    started = time.time()
    ray.init(num_cpus=actors, include_dashboard=False, object_store_memory=100 << 20)
    try:
        with tempfile.TemporaryDirectory() as name:
            kept = Path(name) / "kept"
            images = detector.open(source)
            with scored_blocks(detector, place, images, kept, block=size) as tables:
                ended = time.time()
                made = sorted(each.stat().st_mtime for each in kept.glob("[0-9]*.parquet"))
                assert sum(len(table) for table in tables) == len(images)
    finally:
        ray.shutdown()
    # The first block of each actor comes with its start.
    steady = (len(made) - actors) * size / (made[-1] - made[actors - 1])
    return {"rate": steady, "seconds besides": ended - started - len(images) / steady}


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> float:
    """How long it takes."""
    started = clock()
    work()
    return clock() - started


def fit_peak(count: int) -> float:
    """Peak MiB of a process that fits on so many images."""
    done = subprocess.run(
        [sys.executable, __file__, "--fit", str(count)], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def fit(count: int) -> None:
    """Fit on so many random images of 28x28 and print the peak of the process, MiB."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "images.npy"
        data = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
        for start in range(0, count, 1000):
            generator = np.random.default_rng(start)
            data[start : start + 1000] = generator.integers(
                0, 256, data[start : start + 1000].shape
            )
        data.flush()
        Detector("pca", epochs=1, calibration="holdout").fit(path)
    # Of this process alone: what `resource` tells begins with that of its parent.
    status = Path("/proc/self/status").read_text()
    print(float(status.split("VmHWM:")[1].split()[0]) / 1024)


def kept_bytes() -> dict[str, int]:
    """What a fit keeps of an image in memory, by encoder; lite0 at 224 pixels a side."""
    import torch

    found = {}
    for name, shape in (("pca", (1, 28, 28)), ("pixels", (3, 32, 32)), ("lite0", (3, 224, 224))):
        model = make_model(
            "flow", 0, {"encoder": name} | ({"parts": False} if name == "lite0" else {})
        )
        model.plan(shape, 1000)
        model.prepare(shape, torch.device("cpu"))
        rows = model.kept(model.view(torch.zeros(1, *shape, dtype=torch.uint8)), [0], 1000)
        found[name] = rows[0].numel() * rows.element_size()
    return found


if __name__ == "__main__":
    main()
