"""How much of the map of `Detector.explain` lies in a foreign patch, times the patch's area.

    python tools/foreign_patches.py results/foreign_patches.json

A detector fitted on the FashionMNIST images of the package; 200 of its test images, each with a
square from the middle of an MNIST digit, of noise, or of another image turned negative, at a random
place. 1 is what an even map would have. The smoothing is that of the library; it was not chosen by
these numbers.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from approxmass import Detector, open_images
from approxmass.arrays import Pixels
from approxmass.runtime.machine import machine_facts
from approxmass.storage.atomic import write_json

SIDES, COUNT, SEED = (6, 8, 10, 14), 200, 0


def patches(kind: str, side: int, images: Pixels, rng: np.random.Generator) -> Pixels:
    """`(COUNT, 1, side, side)` of one kind."""
    if kind == "noise":
        return rng.integers(0, 256, (COUNT, 1, side, side), dtype=np.uint8)
    whole = open_images("sample:mnist").read() if kind == "digit" else 255 - images[::-1]
    start = (28 - side) // 2
    found: Pixels = whole[:COUNT, :, start : start + side, start : start + side]
    return found


def times_area(detector: Detector, kind: str, side: int) -> dict[str, Any]:
    """Mean share of the map in the patch by its share of the area."""
    rng = np.random.default_rng(SEED)
    images = open_images("sample:fashion_mnist/test").read()[:COUNT].copy()
    foreign = patches(kind, side, images.copy(), rng)
    places = rng.integers(0, 29 - side, (COUNT, 2))
    for image, patch, (row, column) in zip(images, foreign, places, strict=True):
        image[:, row : row + side, column : column + side] = patch
    inside = [
        share[row : row + side, column : column + side].sum() / share.sum()
        for share, (row, column) in zip(detector.explain(images).maps, places, strict=True)
    ]
    return {
        "patch": kind,
        "side": side,
        "times_area": float(np.mean(inside)) / (side / 28) ** 2,
        "flagged": float(detector.score(images).is_outlier.mean()),
    }


def main(target: Path) -> None:
    """Measure and write."""
    detector = Detector().fit("sample:fashion_mnist/train", progress=True)
    rows = [
        times_area(detector, kind, side)
        for kind in ("digit", "noise", "negative")
        for side in SIDES
    ]
    for row in rows:
        print(row)
    write_json(
        target,
        {
            "command": f"python tools/foreign_patches.py {target}",
            "images": COUNT,
            "seed": SEED,
            "rows": rows,
            "machine": machine_facts(),
        },
    )


def markdown(facts: dict[str, Any]) -> str:
    """A row for each kind of patch, a column for each side."""
    sides = sorted({row["side"] for row in facts["rows"]})
    lines = [
        "| patch | " + " | ".join(f"{side}x{side}" for side in sides) + " |",
        "|---|" + "---|" * len(sides),
    ]
    for kind in dict.fromkeys(row["patch"] for row in facts["rows"]):
        cells = [
            f"{row['times_area']:.1f} ({row['flagged']:.0%} flagged)"
            for row in facts["rows"]
            if row["patch"] == kind
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
