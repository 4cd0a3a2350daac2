"""Runs of an experiment in one JSON file: written as they come, skipped when they are there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from approxmass.artifact import write_json
from approxmass.baselines import make_baseline
from approxmass.machine import machine_facts


class KeptRuns:
    """The file of an experiment.

    Arguments:
        target: The JSON file.
        names: The facts that tell one run from another.
        facts: What the file says besides its runs.
    """

    def __init__(self, target: Path, names: tuple[str, ...], **facts: Any) -> None:
        self.target, self.names = target, names
        self.facts: dict[str, Any] = {**facts, "machine": machine_facts(), "runs": []}
        if target.exists():
            self.facts = {**json.loads(target.read_text()), **facts}

    def has(self, *values: Any) -> bool:
        """Whether the run with these values of `names` is there."""
        return any(tuple(run[name] for name in self.names) == values for run in self.facts["runs"])

    def note(self, **facts: Any) -> None:
        """Add facts about all the runs, and write the file."""
        self.facts |= facts
        write_json(self.target, self.facts)

    def keep(self, run: dict[str, Any]) -> None:
        """Add a run, and write the file."""
        self.facts["runs"].append(run)
        self.note()
        print(*(run[name] for name in self.names), flush=True)


def hours_of(
    method: str,
    options: dict[str, Any],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    total: int,
) -> dict[str, Any]:
    """What training with the published `options` would cost here, measured on one short epoch.

    Arguments:
        method: One of `BASELINES`.
        options: Published settings.
        images: Some images, for the one epoch.
        labels: Their classes.
        total: Images that the published training goes through in an epoch.
    """
    short = make_baseline(method, {**options, "epochs": 1})
    short.fit(images, labels)
    seconds = short.training["seconds"] / len(images) * total * options["epochs"]
    return {
        "method": method,
        "options": options,
        "measured_on_images": len(images),
        "threads": torch.get_num_threads(),
        "hours": round(seconds / 3600, 1),
    }
