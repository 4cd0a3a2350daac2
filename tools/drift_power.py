"""What the drift alarm of `watch` finds, how soon, and how seldom it is false: simulated.

    python tools/drift_power.py results/drift_power.json

Every run has its own calibration scores and its own stream. The share found and the delay are of
`DriftMonitor` as it comes, at one false alarm in 100,000 images. Where nothing changes, the images
to the first alarm are counted, up to a million. Stopped, it goes on with the next row; at the end
it writes the table that comes with the package.
"""

import json
import math
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special, stats

from approxmass.drift import DriftMonitor
from approxmass.drift.evidence import EARLY
from approxmass.drift.power import TABLE
from approxmass.paper.runs import Runs

EVERY = 100_000
RUNS = 1000
# Of those where nothing changes, and false alarms are so seldom that a run takes long.
LONG, LONG_RUNS = 10_000, 100
# Images after which a run ends in which nothing changes.
LONGEST = 1_000_000
# Calibration scores in the table of the package, and in that of the documents.
COUNTS = (1, 3, 8, 15, 30, 75, 150, 300, 750, 1500, 3000, 7500)
SHOWN = (15, 30, 75, 150, 300, 750)
LAWS: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "normal": lambda generator, count: generator.normal(size=count),
    "exponential": lambda generator, count: generator.exponential(size=count),
}
# Of each drift: by how many standard deviations scores move, what share of them, and in how many
# images it is to be found. Of the first, every other run moves downwards.
DRIFTS = {
    "a shift of half a standard deviation": (0.5, 1.0, 2000),
    "10% of images far out": (6.0, 0.1, 1000),
    "a shift of one standard deviation": (1.0, 1.0, 1000),
    "3% of images far out": (6.0, 0.03, 1000),
}
PACKAGED = list(DRIFTS)[:2]
KEY = ("drift", "law", "calibration", "begins", "every")


def delay(drift: str, law: str, count: int, begins: int, run: int) -> float:
    """In how many images of a drift one run finds it; infinite if not within those it has."""
    move, share, within = DRIFTS[drift]
    name = f"{drift}, {law}, {count}, {begins}, {run}"
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    draw = LAWS[law]
    move *= -1 if share == 1 and run % 2 else 1
    monitor = DriftMonitor(draw(generator, count), EVERY, seed=run)
    done = 0
    monitor.update(draw(generator, begins))
    while done < within:
        size = min(64 if done < 256 else 256, within - done)
        scores = draw(generator, size) + move * (generator.random(size) < share)
        alarm = monitor.update(scores).alarm
        if alarm.any():
            return float(done + alarm.argmax() + 1)
        done += size
    return math.inf


def power(drift: str, law: str, count: int, begins: int) -> dict[str, Any]:
    """The share of runs in which a drift is found, and the delay."""
    delays = np.array([delay(drift, law, count, begins, run) for run in range(RUNS)])
    middle, late = (float(np.quantile(delays, q, method="inverted_cdf")) for q in (0.5, 0.99))
    both = DRIFTS[drift][1] == 1
    return {
        "within": DRIFTS[drift][2],
        "runs": RUNS,
        "found": float(np.isfinite(delays).mean()),
        "found_up": float(np.isfinite(delays[::2]).mean()) if both else None,
        "found_down": float(np.isfinite(delays[1::2]).mean()) if both else None,
        "median": middle if math.isfinite(middle) else None,
        "99%": late if math.isfinite(late) else None,
    }


def quiet(law: str, count: int, every: int) -> dict[str, Any]:
    """How many images it takes to a false alarm; where some runs end before, at least."""
    lengths = np.empty(RUNS if every < LONG else LONG_RUNS)
    for run in range(len(lengths)):
        generator = np.random.default_rng(run)
        monitor, done = DriftMonitor(LAWS[law](generator, count), every, seed=run), 0
        alarm = np.zeros(1, bool)
        while not alarm.any() and done < LONGEST:
            alarm = monitor.update(LAWS[law](generator, 256)).alarm
            done += int(alarm.argmax()) + 1 if alarm.any() else 256
        lengths[run] = done
    return {
        "runs": len(lengths),
        "ended_before": int((lengths >= LONGEST).sum()),
        "mean": float(lengths.mean()),
        "standard_error": float(lengths.std() / math.sqrt(len(lengths))),
        "early": every // 100,
        "alarmed_early": float((lengths <= every // 100).mean()),
    }


def limit(drift: str, count: int) -> float:
    """What the best test finds that has only the calibration scores as its picture of the usual.

    It knows the drift, its direction, when it began and how many images there will be, and has the
    same chance of a false alarm in so many. Of normal scores. For a shift: that of the means of
    two samples, of known deviation. For outliers beyond all others the rank of the largest
    calibration score tells all there is to know.
    """
    move, share, images = DRIFTS[drift]
    level = EARLY + images / EVERY
    if share == 1:
        distance = move * math.sqrt(count * images / (count + images))
        return float(special.ndtr(distance + special.ndtri(level)))
    outliers = np.arange(images + 1)
    chance = stats.binom.pmf(outliers, images, share)

    def at_least(k: Any, of: Any) -> Any:  # scores of a stream beyond all calibration scores
        k = np.clip(k, 0, of)
        logs = special.gammaln(count + of - k + 1) - special.gammaln(of - k + 1)
        return np.exp(logs + special.gammaln(of + 1) - special.gammaln(count + of + 1))

    needed = int(np.argmax(at_least(outliers, images) <= level))
    if at_least(np.array(needed), images) > level:
        return 0.0
    beyond = np.where(outliers >= needed, 1.0, at_least(needed - outliers, images - outliers))
    beyond = np.where(needed - outliers > images - outliers, 0.0, beyond)
    return float((chance * beyond).sum())


def wanted() -> list[tuple[str, str, int, int, int]]:
    """All rows, by `KEY`."""
    rows = [(drift, "normal", count, 0, EVERY) for drift in PACKAGED for count in COUNTS]
    rows += [("none", "normal", count, 0, 1000) for count in (8, 75, 750)]
    rows += [(drift, "normal", n, 0, EVERY) for drift in list(DRIFTS)[2:] for n in SHOWN]
    rows += [(drift, "exponential", count, 0, EVERY) for drift in PACKAGED for count in (75, 750)]
    rows += [(drift, "normal", 75, 500, EVERY) for drift in PACKAGED]
    rows += [("none", "exponential", 75, 0, 1000)]
    rows += [("none", "normal", n, 0, every) for every in (300, LONG) for n in (75, 750)]
    return rows


def packaged(facts: dict[str, Any]) -> dict[str, Any]:
    """The table of the package, from all the rows."""
    rows = {tuple(row[name] for name in KEY): row for row in facts["rows"]}
    table = {}
    for drift in PACKAGED:
        own = [rows[drift, "normal", count, 0, EVERY] for count in COUNTS]
        table[drift] = {
            "within": DRIFTS[drift][2],
            "found": [row["found"] for row in own],
            "median": [row["median"] for row in own],
        }
    return {"false_alarm_every": EVERY, "calibration": list(COUNTS), "drifts": table}


def main(target: Path) -> None:
    """Make what is not in `target` yet."""
    runs = Runs(target, KEY, {"command": f"python tools/drift_power.py {target}"}, resume=True)
    for key in wanted():
        if not runs.has(*key):
            drift, law, count, _, every = key
            made = quiet(law, count, every) if drift == "none" else power(*key[:4])
            runs.keep(dict(zip(KEY, key, strict=True)) | made)
    TABLE.write_text(json.dumps(packaged(runs.facts), indent=1) + "\n")


def power_markdown(facts: dict[str, Any]) -> str:
    """A row for each number of calibration scores, a column for each drift."""
    rows = {tuple(row[name] for name in KEY): row for row in facts["rows"]}
    heads = [f"{drift}, within {DRIFTS[drift][2]:,}" for drift in DRIFTS]
    lines = [f"| calibration images | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for count in SHOWN:
        cells = [
            f"{_found(rows[drift, 'normal', count, 0, EVERY])}; best {limit(drift, count):.0%}"
            for drift in DRIFTS
        ]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    for law, begins, count, words in (
        ("exponential", 0, 75, "75, exponential scores"),
        ("exponential", 0, 750, "750, exponential scores"),
        ("normal", 500, 75, "75, and 500 usual images first"),
    ):
        cells = [_found(rows[drift, law, count, begins, EVERY]) for drift in PACKAGED]
        lines.append(f"| {words} | {' | '.join(cells)} | | |")
    return "\n".join(lines)


def quiet_markdown(facts: dict[str, Any]) -> str:
    """A row for each simulation in which nothing changes."""
    lines = [
        "| calibration images | scores | runs | asked: one in | images to the first false alarm, "
        "mean | within the first | of runs | at most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in facts["rows"]:
        if row["drift"] == "none":
            lines.append(
                f"| {row['calibration']} | {row['law']} | {row['runs']:,} | {row['every']:,} "
                f"| {'at least ' if row.get('ended_before') else ''}{row['mean']:,.0f} "
                f"± {row['standard_error']:,.0f} | {row['early']:,} | {row['alarmed_early']:.1%} "
                f"| {EARLY + row['early'] / row['every']:.1%} |"
            )
    return "\n".join(lines)


def _found(row: dict[str, Any]) -> str:
    words = {"median": "half", "99%": "99%"}
    soon = [f", {word} in {row[name]:,.0f}" for name, word in words.items() if row[name]]
    return f"{row['found']:.1%}{''.join(soon)}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
