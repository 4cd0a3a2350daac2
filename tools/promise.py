"""Whether the promise of p-values and maps holds on photos: flagged shares over splits of each set.

    python tools/promise.py ../shared/data results/promise.json

Of the good training images of a set a fifth is held out at random and the default detector is
fitted on the rest, for seeds 0 to 4. The images that calibrate it and those held out have the same
part in the fit, none: so they are parted anew, 20 times a fit, into as many that calibrate and the
rest, of which those are counted that are flagged at 5%, and those whose map exceeds its 5% limit
somewhere. What such counts may be where the promise holds: `calls_law.py`. Stopped, it goes on with
the next fit.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from approxmass import Detector, open_images
from approxmass.calibration import FALSE_ALARM_RATE
from approxmass.data.part import part_of
from approxmass.paper.runs import Runs
from calls_law import parted_anew, share_called

SETS = ("magnetic_tile", "elpv_mono", "plantvillage_apple", "clothing_pants", "gtsrb_speed")
FITS, SPLITS = 5, 20


def fit(data: Path, name: str, seed: int) -> dict[str, Any]:
    """One fit: statistics and peaks of the images that calibrate, and of those held out."""
    source = open_images(data / name / "train.parquet")
    held = np.zeros(len(source), dtype=bool)
    held[np.random.default_rng(seed).permutation(len(source))[: len(source) // 5]] = True
    detector = Detector(seed=seed).fit(part_of(source, ~held, name))
    found = detector.explain(part_of(source, held, name))
    return {
        "set": name,
        "seed": seed,
        "calibration": detector.calibration_scores.tolist(),
        "held_out": found.scores.statistic.tolist(),
        "calibration_peaks": found.usual.tolist(),
        "held_out_peaks": found.peaks.tolist(),
    }


def flagged(rows: list[dict[str, Any]], what: str) -> float:
    """The share over fits and splits of scores that do not calibrate and fall."""
    called = tested = 0
    for row in rows:
        calibrating = len(row[f"calibration{what}"])
        pool = np.array(row[f"calibration{what}"] + row[f"held_out{what}"])
        p = parted_anew(pool, calibrating, SPLITS, np.random.default_rng(row["seed"]))
        called += int((p <= FALSE_ALARM_RATE).sum())
        tested += p.size
    return called / tested


def bounds(rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Expected share, and what 99% of all such lots give."""
    lots = [(len(row["calibration"]), len(row["held_out"])) for row in rows]
    return share_called(lots * SPLITS, FALSE_ALARM_RATE)


def main(data: Path, target: Path) -> None:
    """Run what is not in `target` yet."""
    identity = {"command": f"python tools/promise.py {data} {target}"}
    runs = Runs(target, ("set", "seed"), identity, resume=True)
    for seed in range(FITS):
        for name in SETS:
            if not runs.has(name, seed):
                runs.keep(fit(data, name, seed))


def markdown(facts: dict[str, Any]) -> str:
    """A row for each set, and one for all."""
    lines = [
        "| set | images that calibrate, held out | flagged at 5% | map above its 5% limit "
        "| expected | 99% of such lots |",
        "|---|---|---|---|---|---|",
    ]
    for name in (*SETS, "all"):
        rows = [row for row in facts["rows"] if name in (row["set"], "all")]
        expected, low, high = bounds(rows)
        counts = f"{len(rows[0]['calibration'])}, {len(rows[0]['held_out'])}"
        lines.append(
            f"| {name} | {counts if name != 'all' else ''} | {flagged(rows, ''):.1%} "
            f"| {flagged(rows, '_peaks'):.1%} | {expected:.1%} | {low:.1%} to {high:.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
