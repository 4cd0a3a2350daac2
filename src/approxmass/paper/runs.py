"""Finished rows of an experiment in one JSON file: written as they come, skipped when there."""

__all__ = ["SCALES", "Order", "Runs", "check_new", "check_only", "other_run", "read_facts"]

import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from ..errors import ApproxMassError
from ..runtime.machine import all_processes, is_main_process, machine_facts
from ..storage.atomic import check_file, write_json
from ..storage.cache import cache_folder, cache_key, check_cache

Item = TypeVar("Item")
SCALES = ("laptop", "full")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to make of a table or figure, and whom to tell how it goes.

    Attributes:
        data: Folder of local image sets; None for the hub.
        target: JSON file: rows that it has are not made again, the others written when done.
        scale: `laptop`, or `full` for the published settings.
        protocol: One of `PROTOCOLS`; None for what the table is about.
        only: Rows to make; none for all.
        resume: Go on with a target that is there.
        on_start: Told about how many seconds each row to come will take at laptop scale.
        on_row: Told what was done, and about how many seconds that was to take.

    Raises:
        ApproxMassError: an unknown scale.
    """

    data: Path | None
    target: Path
    scale: str = "laptop"
    protocol: str | None = None
    only: Sequence[str] = ()
    resume: bool = False
    on_start: Callable[[list[float]], None] | None = None
    on_row: Callable[[str, float], None] | None = None

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ApproxMassError(
                f"--scale is {' or '.join(SCALES)}, not {self.scale!r}", code="unknown-row"
            )

    def wants(self, row: str) -> bool:
        """Whether a row is among those to make."""
        return not self.only or row in self.only

    def at_laptop(self, most: int) -> int | None:
        """A limit that holds at laptop scale alone."""
        return most if self.scale == "laptop" else None

    def go_through(self, todo: Sequence[tuple[Item, str, float]]) -> Iterator[Item]:
        """The items of `(item, name, seconds)`, telling of the start and of each that is done."""
        if self.on_start is not None:
            self.on_start([seconds for _, _, seconds in todo])
        for item, name, seconds in todo:
            yield item
            if self.on_row is not None:
                self.on_row(name, seconds)


class Runs:
    """The file of an experiment.

    Arguments:
        target: The JSON file. No other process may write it until this one ends.
        key: The facts that tell one row from another.
        identity: Facts that all rows share; a file with other ones is of another experiment.
        resume: Go on with a file that is there.

    Raises:
        ApproxMassError: a file is there and not to be resumed, it is of another experiment, or
            another process is at work on it.
    """

    def __init__(
        self, target: Path, key: tuple[str, ...], identity: dict[str, Any], *, resume: bool
    ) -> None:
        self.target, self.key = target, key
        self.machine = machine_facts()
        self.facts: dict[str, Any] = {**identity, "machine": self.machine, "rows": []}
        if is_main_process():
            check_file(target)
            self._lock = _locked(target)
            self._read(identity, resume)
        if all_processes().num_processes > 1:  # all have the same rows to make
            (self.facts,) = broadcast_object_list([self.facts])

    def _read(self, identity: dict[str, Any], resume: bool) -> None:
        if not self.target.exists():
            return
        check_new(self.target, resume=resume)
        found = read_facts(self.target, "rows", "machine")
        rows = found["rows"]
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and all(name in row for name in self.key) for row in rows
        ):
            raise _damaged(self.target)
        for name, value in identity.items():
            if found.get(name) != value:
                raise other_run(self.target, f"{name} {found.get(name)!r}", repr(value))
        self.facts |= {"machine": found["machine"], "rows": rows}

    def has(self, *values: Any) -> bool:
        """Whether the row with these values of `key` is there."""
        return any(tuple(row[name] for name in self.key) == values for row in self.facts["rows"])

    def keep(self, row: dict[str, Any]) -> None:
        """Add a row, and write the file."""
        if self.machine != self.facts["machine"]:  # not that of the rows before it
            row = {**row, "machine": self.machine}
        self.facts["rows"].append(row)
        if is_main_process():
            write_json(self.target, self.facts)


def check_only(only: Sequence[str], known: Collection[str], table: str) -> None:
    """Every row in `only` is one of `known`.

    Raises:
        ApproxMassError: it is not.
    """
    for name in only:
        if name not in known:
            raise ApproxMassError(
                f"no row {name!r} in {table}: it has {', '.join(known)}", code="unknown-row"
            )


def check_new(target: Path, *, resume: bool) -> None:
    """Nothing is there, or it is to be gone on with.

    Raises:
        ApproxMassError: otherwise.
    """
    if target.exists() and not resume:
        raise ApproxMassError(
            f"{target} is there: add --resume to go on with it, or choose another -o",
            code="would-overwrite",
        )


def read_facts(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object that an experiment wrote, which has these keys.

    Raises:
        ApproxMassError: it is none.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(found, dict) or any(key not in found for key in keys):
        raise _damaged(path)
    return found


def other_run(target: Path, found: str, wanted: str) -> ApproxMassError:
    """The mistake of going on with a file that was made with something else."""
    return ApproxMassError(
        f"{target} was made with {found}, not {wanted}: choose another -o", code="other-run"
    )


def _damaged(path: Path) -> ApproxMassError:
    return ApproxMassError(f"{path} was cut short or edited: remove it", code="damaged")


def _locked(target: Path) -> FileLock:
    """A lock that lasts until this process ends, or what is returned is forgotten."""
    name = cache_key({"target": os.path.realpath(target)})
    place = cache_folder() / "locks" / f"{name}.lock"
    check_cache(place)
    lock = FileLock(place, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ApproxMassError(
            f"another process is at work on {target}: wait for it, or choose another -o",
            code="in-use",
        ) from None
    return lock
