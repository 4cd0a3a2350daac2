"""Whether the promise of the p-values holds on photos: flagged shares over 20 splits of each set.

    python tools/promise.py ../shared/data results/promise.json

Of the good training images of a set a fifth is held out at random, the default detector is fitted
on the rest, and two shares of the fifth are counted: those that it flags at 5%, and those whose map
exceeds its 5% limit somewhere; seeds 0 to 19. What 20 such counts together may be, where each is a
beta-binomial for its number of calibration images, is simulated. Stopped, it goes on with the next
split.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from approxmass import Detector, open_images
from approxmass.calibration import FALSE_ALARM_RATE, called_ranks
from approxmass.data.part import part_of
from approxmass.paper.runs import Runs

SETS = ("magnetic_tile", "elpv_mono", "plantvillage_apple", "clothing_pants", "gtsrb_speed")
SPLITS = 20


def split(data: Path, name: str, seed: int) -> dict[str, Any]:
    """One fit, and what it flags of the images held out."""
    source = open_images(data / name / "train.parquet")
    held = np.zeros(len(source), dtype=bool)
    held[np.random.default_rng(seed).permutation(len(source))[: len(source) // 5]] = True
    detector = Detector(seed=seed).fit(part_of(source, ~held, name))
    found = detector.explain(part_of(source, held, name))
    return {
        "set": name,
        "seed": seed,
        "calibration": detector.facts.calibration,
        "held_out": int(held.sum()),
        "flagged": int(found.scores.is_outlier.sum()),
        "map_exceeds": int((found.peaks > found.threshold(FALSE_ALARM_RATE)).sum()),
    }


def bounds(rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Expected share, and what 99% of all lots of such splits give."""
    rng, draws = np.random.default_rng(0), 20_000
    total = np.zeros(draws)
    for row in rows:
        ranks = called_ranks(row["calibration"], FALSE_ALARM_RATE)
        chance = stats.beta(ranks, row["calibration"] + 1 - ranks)
        total += rng.binomial(row["held_out"], chance.rvs(draws, random_state=rng))
    shares = total / sum(row["held_out"] for row in rows)
    low, high = np.quantile(shares, [0.005, 0.995])
    return float(shares.mean()), float(low), float(high)


def main(data: Path, target: Path) -> None:
    """Run what is not in `target` yet."""
    identity = {"command": f"python tools/promise.py {data} {target}"}
    runs = Runs(target, ("set", "seed"), identity, resume=True)
    for seed in range(SPLITS):
        for name in SETS:
            if not runs.has(name, seed):
                runs.keep(split(data, name, seed))


def markdown(facts: dict[str, Any]) -> str:
    """A row for each set, and one for all."""
    lines = [
        "| set | calibration images | flagged at 5%, 20 splits | map above its 5% limit | expected "
        "| 99% of such lots |",
        "|---|---|---|---|---|---|",
    ]
    for name in (*SETS, "all"):
        rows = [row for row in facts["rows"] if name in (row["set"], "all")]
        held = sum(row["held_out"] for row in rows)
        flagged, above = (
            sum(row[key] for row in rows) / held for key in ("flagged", "map_exceeds")
        )
        expected, low, high = bounds(rows)
        counts = sorted({row["calibration"] for row in rows})
        few = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        lines.append(
            f"| {name} | {few} | {flagged:.1%} | {above:.1%} | {expected:.1%} "
            f"| {low:.1%} to {high:.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
