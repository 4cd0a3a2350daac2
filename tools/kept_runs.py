"""Runs of an experiment in one JSON file: written as they come, skipped when they are there."""

import json
from pathlib import Path
from typing import Any

from approxmass.artifact import write_json
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
            self.facts["runs"] = json.loads(target.read_text())["runs"]

    def has(self, *values: Any) -> bool:
        """Whether the run with these values of `names` is there."""
        return any(tuple(run[name] for name in self.names) == values for run in self.facts["runs"])

    def keep(self, run: dict[str, Any]) -> None:
        """Add a run, and write the file."""
        self.facts["runs"].append(run)
        write_json(self.target, self.facts)
        print(*(run[name] for name in self.names), flush=True)
