"""Long runs: whether memory, descriptors and rate stay what they were, by tenths of the run.

    python benchmarks/long.py benchmarks/results/long.json embeddings.npz [watch] [score]

`watch`: a folder into which 20 PNG images of 28 x 28 a second come for an hour, and are scored.
`score`: a million rows of 2,208 numbers, the training rows of embeddings.npz (see embeddings.py) a
hundred times over with a little noise. Both are the command, looked at from outside: its resident
memory, open descriptors, and rows in what it writes.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from approxmass import Detector, open_images
from timing import write

HOUR, PER_SECOND = 3600, 20
ROWS, BLOCK = 1_000_000, 10_000
LOOKS = 200
COMMAND = [sys.executable, "-m", "approxmass"]


def looked_at(
    words: list[str], every: float, written: Callable[[], int], place: Path
) -> list[dict[str, float]]:
    """Seconds, MiB, descriptors and rows written of a command, each time one looks."""
    with (place / "said").open("wb") as said:
        run = subprocess.Popen([*COMMAND, *words], stdout=said, stderr=said)
        started, looks = time.monotonic(), []
        while run.poll() is None:
            time.sleep(every)
            process = Path(f"/proc/{run.pid}")
            try:
                status = (process / "status").read_text()
                descriptors = len(os.listdir(process / "fd"))
            except OSError:  # it has just ended
                break
            if "VmRSS" not in status:
                break
            looks.append(
                {
                    "seconds": time.monotonic() - started,
                    "mib": int(status.partition("VmRSS:")[2].split()[0]) / 1024,
                    "descriptors": descriptors,
                    "rows": written(),
                }
            )
        if run.wait():
            raise RuntimeError((place / "said").read_text())
    return looks


def by_tenths(looks: list[dict[str, float]]) -> list[dict[str, float]]:
    """The most memory and descriptors, and rows a second, of each tenth of the rows."""
    last = looks[-1]["rows"]
    looks = [look for look in looks if look["rows"]]
    # Then it waited for more, or gave the table its name.
    looks = looks[: 1 + next(i for i, look in enumerate(looks) if look["rows"] == last)]
    found, before = [], looks[0]
    for tenth in range(10):
        own = [look for look in looks if tenth <= 10 * look["rows"] / last <= tenth + 1]
        if not own or own[-1]["rows"] == before["rows"]:
            continue
        rows, seconds = (own[-1][key] - before[key] for key in ("rows", "seconds"))
        found.append(
            {
                "to": round(own[-1]["seconds"]),
                "mib": round(max(look["mib"] for look in own)),
                "descriptors": max(look["descriptors"] for look in own),
                "rows_per_second": round(rows / seconds, 1),
            }
        )
        before = own[-1]
    return found


def watched(place: Path, seconds: int) -> dict[str, Any]:
    """An hour of `watch`."""
    images = open_images("sample:fashion_mnist/test").read()[:, 0]
    Detector("pca", epochs=2).fit(images[:1000]).save(place / "detector")
    folder, log = place / "arriving", place / "log.csv"
    folder.mkdir()
    generator, given = np.random.default_rng(0), 0

    def feed() -> None:
        nonlocal given
        started = time.monotonic()
        while (now := time.monotonic() - started) < seconds:
            while given < now * PER_SECOND:
                image = images[given % len(images)] ^ generator.integers(
                    0, 4, images.shape[1:], np.uint8
                )
                Image.fromarray(image).save(folder / f".{given:08}.png")
                (folder / f".{given:08}.png").rename(folder / f"{given:08}.png")
                given += 1
            time.sleep(0.1)

    at, lines = 0, 0

    def written() -> int:
        nonlocal at, lines
        if log.exists():
            with log.open("rb") as file:
                file.seek(at)
                new = file.read()
            at, lines = at + len(new), lines + new.count(b"\n")
        return max(0, lines - 1)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    words = ["watch", str(place / "detector"), str(folder), "-o", str(log), "--until-idle", "20"]
    looks = looked_at(words, seconds / LOOKS, written, place)
    return {"given": given, "scored": written(), "tenths": by_tenths(looks)}


def scored(place: Path, rows: np.ndarray[Any, Any]) -> dict[str, Any]:
    """`score` of a million embeddings of photos."""
    detector = Detector(encoder="vectors", epochs=1).fit(rows[:2000])
    detector.save(place / "detector")
    source, table = place / "rows.npy", place / "scores.csv"
    kept = np.lib.format.open_memmap(source, "w+", np.float32, (ROWS, rows.shape[1]))
    generator = np.random.default_rng(0)
    for start in range(0, ROWS, BLOCK):
        some = rows[generator.permutation(len(rows))[:BLOCK]]
        kept[start : start + BLOCK] = some * generator.normal(1, 0.01, some.shape[1])
    kept.flush()
    del kept

    def written() -> int:
        """Bytes of what is written beside the table until it is whole."""
        sizes = []
        for path in place.glob("*scores*"):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:  # renamed since
                continue
        return max(sizes, default=0)

    words = ["score", str(place / "detector"), str(source), "-o", str(table)]
    looks = looked_at(words, 0.25, written, place)
    with table.open("rb") as file:
        lines = sum(1 for _ in file) - 1
    a_row = table.stat().st_size / lines
    looks = [{**look, "rows": look["rows"] / a_row} for look in looks]
    return {"scored": lines, "columns": rows.shape[1], "tenths": by_tenths(looks)}


def main(target: Path, embeddings: Path, parts: list[str]) -> None:
    """Run what is asked for, or both, and put it into the file."""
    facts = json.loads(target.read_text()) if target.exists() else {}
    facts["command"] = f"python benchmarks/long.py {target} {embeddings.name}"
    made: dict[str, Callable[[Path], dict[str, Any]]] = {
        "watch": lambda place: watched(place, HOUR),
        "score": lambda place: scored(place, np.load(embeddings)["train"]),
    }
    for name in parts or list(made):
        with tempfile.TemporaryDirectory() as folder:
            facts[name] = made[name](Path(folder))
        write(target, facts)


def markdown(facts: dict[str, Any]) -> str:
    """By tenths of the rows: memory, descriptors, rate."""
    lines = [
        "| run | tenth | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |",
        "|---|---|" + "---|" * 10,
    ]
    names = {
        "watch": "`watch`, {scored:,} images",
        "score": "`score`, {scored:,} rows of {columns:,} numbers",
    }
    for key, name in names.items():
        if key not in facts:
            continue
        found = facts[key]
        tenths = found["tenths"]
        for what, words in (
            ("mib", "memory, MiB"),
            ("descriptors", "descriptors"),
            ("rows_per_second", "rows/s"),
        ):
            cells = [f"{each[what]:,.0f}" for each in tenths]
            lines.append(f"| {name.format(**found)} | {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
