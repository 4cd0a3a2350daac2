"""Whether the promise of p-values and maps holds on photos: flagged shares over splits of each set.

    python tools/promise.py ../shared/data results/promise.json

Of the good training images of a set a fifth is held out at random and the default detector is
fitted on the rest, for seeds 0 to 4. The images that calibrate it and those held out have the same
part in the fit, none: so they are parted anew, 20 times a fit, into as many that calibrate and the
rest, of which those are counted that are flagged at 5%, and those whose map exceeds its 5% limit
somewhere. What such counts may be where the promise holds is simulated, with random numbers for
scores that are parted in the same way. Stopped, it goes on with the next fit.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from approxmass import Detector, open_images
from approxmass.calibration import FALSE_ALARM_RATE, called_ranks, p_values
from approxmass.data.part import part_of
from approxmass.paper.runs import Runs

SETS = ("magnetic_tile", "elpv_mono", "plantvillage_apple", "clothing_pants", "gtsrb_speed")
FITS, SPLITS, DRAWS = 5, 20, 2000


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


def shares(pool: NDArray[Any], calibrating: int, rng: np.random.Generator) -> float:
    """Of scores `(..., n)` parted 20 times, the share of those that do not calibrate and fall."""
    found = []
    for _ in range(SPLITS):
        order = rng.permutation(pool)
        p = p_values(order[:calibrating], order[calibrating:])
        found.append(float((p <= FALSE_ALARM_RATE).mean()))
    return float(np.mean(found))


def flagged(rows: list[dict[str, Any]], what: str) -> float:
    """Mean share over fits and splits."""
    return float(
        np.mean(
            [
                shares(
                    np.array(row[f"calibration{what}"] + row[f"held_out{what}"]),
                    len(row[f"calibration{what}"]),
                    np.random.default_rng(row["seed"]),
                )
                for row in rows
            ]
        )
    )


def bounds(rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Expected share, and what 99% of all such lots give."""
    rng = np.random.default_rng(0)
    total = np.zeros(DRAWS)
    for row in rows:
        count, rest = len(row["calibration"]), len(row["held_out"])
        ranks = called_ranks(count, FALSE_ALARM_RATE)
        for draw in range(DRAWS):
            # Of a split only the ranks count: a score is called if it is above the limit.
            values = rng.random(count + rest)
            parted = rng.permuted(np.tile(values, (SPLITS, 1)), axis=1)
            limit = np.sort(parted[:, :count], axis=1)[:, count - ranks]
            total[draw] += (parted[:, count:] > limit[:, None]).mean()
    means = total / len(rows)
    low, high = np.quantile(means, [0.005, 0.995])
    return float(means.mean()), float(low), float(high)


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
