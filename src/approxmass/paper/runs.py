"""Finished rows of an experiment in one JSON file: written as they come, skipped when there."""

__all__ = ["Runs"]

import json
from pathlib import Path
from typing import Any

from ..artifact import check_file, write_json
from ..errors import ApproxMassError
from ..machine import is_main_process, machine_facts


class Runs:
    """The file of an experiment.

    Arguments:
        target: The JSON file.
        key: The facts that tell one row from another.
        identity: Facts that all rows share; a file with other ones is of another experiment.
        resume: Go on with a file that is there.

    Raises:
        ApproxMassError: a file is there and not to be resumed, or it is of another experiment.
    """

    def __init__(
        self, target: Path, key: tuple[str, ...], identity: dict[str, Any], *, resume: bool
    ) -> None:
        check_file(target)
        self.target, self.key = target, key
        self.facts: dict[str, Any] = {**identity, "machine": machine_facts(), "rows": []}
        if not target.exists():
            return
        if not resume:
            raise ApproxMassError(
                f"{target} is there: add --resume to go on with it, or choose another -o"
            )
        try:
            found = json.loads(target.read_text())
            rows = list(found["rows"])
        except (ValueError, LookupError, TypeError) as error:
            raise ApproxMassError(f"{target} was cut short or edited: remove it") from error
        for name, value in identity.items():
            if found.get(name) != value:
                raise ApproxMassError(
                    f"{target} was made with {name} {found.get(name)!r}, not {value!r}: choose "
                    "another -o"
                )
        self.facts["rows"] = rows

    def has(self, *values: Any) -> bool:
        """Whether the row with these values of `key` is there."""
        return any(tuple(row[name] for name in self.key) == values for row in self.facts["rows"])

    def keep(self, row: dict[str, Any]) -> None:
        """Add a row, and write the file."""
        self.facts["rows"].append(row)
        if is_main_process():
            write_json(self.target, self.facts)
