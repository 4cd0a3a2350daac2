"""What the published settings of the rivals would cost here, from one short epoch of each.

    python tools/full_cost.py ../shared/data results/full_cost.json

The folder holds `mnist/train.parquet` and `fashion_mnist/train.parquet`.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from approxmass import open_images
from approxmass.artifact import write_json
from approxmass.baselines import make_baseline
from approxmass.data import open_labels
from approxmass.machine import machine_facts

# Name, method, published settings, image set. Ten classes of MNIST are as many images as all of it.
PUBLISHED: list[tuple[str, str, dict[str, Any], str]] = [
    ("GradCon, ten digits", "gradcon", {"epochs": 1000}, "mnist"),
    ("OCGAN, ten digits", "ocgan", {"epochs": 200, "width": 64}, "mnist"),
    (
        "classifier of 11M weights",
        "energy",
        {"depth": 16, "width": 8, "epochs": 200},
        "fashion_mnist",
    ),
]
SOME = 1300


def main(data: Path, target: Path) -> None:
    """Time one epoch on some images, and multiply."""
    costs = []
    for name, method, options, images in PUBLISHED:
        source = data / images / "train.parquet"
        pixels, labels = open_images(source).read(), open_labels(source)
        short = make_baseline(method, {**options, "epochs": 1})
        short.fit(pixels[:SOME], labels[:SOME])
        seconds = short.training["seconds"] / SOME * len(pixels) * options["epochs"]
        costs.append({"name": name, "options": options, "hours": round(seconds / 3600, 1)})
        print(name, costs[-1]["hours"], "hours", flush=True)
    facts = {
        "command": f"python tools/full_cost.py {data} {target}",
        "measured_on_images": SOME,
        "threads": torch.get_num_threads(),
        "costs": costs,
        "machine": machine_facts(),
    }
    write_json(target, facts)


def markdown(facts: dict[str, Any]) -> str:
    """A row a training."""
    lines = [f"| training | settings | hours on {facts['threads']} cores |", "|---|---|---|"]
    for cost in facts["costs"]:
        settings = ", ".join(f"{name} {value}" for name, value in cost["options"].items())
        lines.append(f"| {cost['name']} | {settings} | {cost['hours']:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
