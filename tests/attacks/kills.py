"""Kills commands that write, at any moment and inside each kind of write, and runs them again.

    python tests/attacks/kills.py FILE.json [KILLS]

Every command runs in a child of a process that has loaded all libraries. Some kills come at a
random moment of its run, the others inside a write: what Python writes, syncs, renames and removes
is counted, and at one of these calls the child ends itself by SIGKILL, half of a write written.
After each kill nothing half written may be read as whole and nothing old be gone; after a few of
them the command runs to its end, and nothing but its outputs may be left. Runs add up in the file,
each with the next seed; one that finds something leaves with 1.
"""

__all__: list[str] = []

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import COMMANDS, MAKERS, Child, digests, fresh, prepared, whole
from writes import KINDS, Writes

KILLS = 200
# The share of rounds inside a write, and of runs that find their outputs there already; kills in a
# row, at most, before a command runs to its end; rounds of a child.
INSIDE, AGAIN, IN_A_ROW, ROUNDS = 0.85, 0.6, 4, 8


def main() -> None:
    """Attack until so many kills are done, and add them to the file."""
    target = Path(sys.argv[1])
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else KILLS
    facts = Facts.read(target)
    for folder in prepared():
        attacked(folder, random.Random(facts.runs), wanted, facts)
    facts.write(target)
    print(f"{facts.all} kills in all, {len(facts.findings)} findings")
    sys.exit(1 if facts.findings else 0)


@dataclass
class Facts:
    """What has been done and found so far, over all runs."""

    runs: int
    kills: Counter[str]
    inside: Counter[str]
    at_random: Counter[str]
    findings: list[dict[str, Any]]

    @classmethod
    def read(cls, target: Path) -> "Facts":
        """What earlier runs have written."""
        known = json.loads(target.read_text()) if target.exists() else {}
        return cls(
            runs=known.get("runs", 0) + 1,
            kills=Counter(known.get("kills", {})),
            inside=Counter(known.get("inside each kind of write", {})),
            at_random=Counter(known.get("at a random moment", {})),
            findings=known.get("findings", []),
        )

    @property
    def all(self) -> int:
        """Kills."""
        return sum(self.kills.values())

    def count(self, name: str, kind: str | None) -> None:
        """One more kill, inside a kind of write or at a random moment."""
        self.kills[name] += 1
        if kind is None:
            self.at_random[name] += 1
        else:
            self.inside[kind] += 1

    def find(self, name: str, told: list[str], what: Iterator[str]) -> None:
        """Keep what is wrong."""
        for each in what:
            self.findings.append({"command": name, "killed": told, "found": each})
            print(self.findings[-1], flush=True)

    def write(self, target: Path) -> None:
        """All of it as JSON."""
        found = {
            "command": "python tests/attacks/kills.py FILE.json",
            "runs": self.runs,
            "kills in all": self.all,
            "kills": dict(sorted(self.kills.items())),
            "inside each kind of write": {kind: self.inside[kind] for kind in KINDS},
            "at a random moment": dict(sorted(self.at_random.items())),
            "findings": self.findings,
            "held": not self.findings,
        }
        target.write_text(json.dumps(found, indent=2) + "\n")


@dataclass(frozen=True)
class Tried:
    """A command as it runs when nobody kills it: its seconds, and its calls that write."""

    seconds: float
    events: list[tuple[str, str]]


def tried(folder: Path, name: str) -> Tried:
    """Run a command once."""
    log, out = folder / "events.json", fresh(folder, "dry")
    started = time.monotonic()
    child = Child(name, folder, out, log=log)
    if child.wait() != 0:
        raise SystemExit(f"{name}: {child.said()}")
    seconds, events = time.monotonic() - started, json.loads(log.read_text())
    print(f"{name}: {seconds:.1f} s, {len(events)} calls that write", flush=True)
    checked = whole(name, out)
    assert all(checked.values()), (name, checked)
    return Tried(seconds, [(kind, call) for kind, call in events])


def attacked(folder: Path, chance: random.Random, wanted: int, facts: Facts) -> None:
    """So many kills; after every few of one command it runs to its end."""
    known = {name: tried(folder, name) for name in COMMANDS}
    done = facts.all
    while facts.all < done + wanted:
        out = fresh(folder, "out")
        if chance.random() < INSIDE:
            kind = min(KINDS, key=lambda each: facts.inside[each])
            quick = [1 / known[name].seconds for name in MAKERS[kind]]
            name = chance.choices(MAKERS[kind], quick)[0]
            log = folder / "inside.json"
            inside = Inside(name, kind, known[name].events, folder, out, chance.random(), log)
            Child(name, folder, out, first=inside).wait()
            for each in json.loads(log.read_text()):
                facts.count(name, kind)
                facts.find(name, each["told"], iter(each["found"]))
        else:
            name = chance.choices(list(COMMANDS), [each.weight for each in COMMANDS.values()])[0]
            at_random(name, known[name].seconds, folder, out, chance, facts)
        facts.write(Path(sys.argv[1]))
        print(f"{facts.all} kills, {len(facts.findings)} findings", flush=True)


def at_random(
    name: str, seconds: float, folder: Path, out: Path, chance: random.Random, facts: Facts
) -> None:
    """Kill a command a few times at random moments of its run."""
    begun(name, folder, out, chance)
    told: list[str] = []
    for _ in range(chance.randint(1, IN_A_ROW)):
        before = digests(out)
        child = Child(name, folder, out)
        time.sleep(chance.uniform(0, seconds))
        if not child.kill():  # it had ended
            break
        told.append("at a random moment")
        facts.count(name, None)
        facts.find(name, told, half(name, out, before))
    if told:
        child = Child(name, folder, out)
        facts.find(name, told, after(name, folder, out, child.wait(), child.said()))


@dataclass
class Inside:
    """Kills inside a kind of write, in a child that has computed all and stands before its writes.

    From there it forks: what goes on is killed at one of its calls, and after a few of these one
    goes on to its end. So a kill costs no more than the writes themselves.
    """

    name: str
    kind: str
    events: list[tuple[str, str]]
    folder: Path
    out: Path
    seed: float
    log: Path

    def __call__(self, writes: Writes) -> None:
        """Returns in what goes on; the child itself ends here."""
        chance, found = random.Random(self.seed), []
        places = [i for i, event in enumerate(self.events) if event[0] == self.kind]
        start = next(i for i, event in enumerate(self.events) if event[0] != "lock")
        for _ in range(ROUNDS):
            fresh(self.folder, self.out.name)
            begun(self.name, self.folder, self.out, chance)
            told: list[str] = []
            for _ in range(chance.randint(1, IN_A_ROW)):
                before, at, later = digests(self.out), chance.choice(places), chance.random() < 0.5
                if not (pid := os.fork()):
                    writes.begin(at - start, after=later)
                    return
                if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGKILL:
                    break
                told.append(f"inside the write of {self.kind}: {self.events[at][1]}")
                wrong = list(half(self.name, self.out, before))
                found.append({"told": [*told], "found": wrong})
            if not told:
                continue
            if not (pid := os.fork()):
                writes.begin(None)
                return
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            found[-1]["found"] += after(self.name, self.folder, self.out, code, "")
        self.log.write_text(json.dumps(found))
        os._exit(0)


def begun(name: str, folder: Path, out: Path, chance: random.Random) -> None:
    """Perhaps with its outputs there."""
    for output in COMMANDS[name].outputs if chance.random() < AGAIN else ():
        place = out / output
        place.parent.mkdir(exist_ok=True)
        if COMMANDS[name].outputs[output] == "detector":
            shutil.copytree(folder / "in" / "detector", place)
        else:
            place.write_bytes(b"older")


def half(name: str, out: Path, before: dict[str, str]) -> Iterator[str]:
    """What is wrong after a kill: outputs that are half written, or gone."""
    now = digests(out)
    for output, good in whole(name, out).items():
        own = {file for file in before if file == output or file.startswith(f"{output}/")}
        kept = bool(own) and all(now.get(file) == before[file] for file in own)
        if own and not (out / output).exists():
            yield f"{output} is gone"
        elif (out / output).exists() and not good and not kept:
            yield f"{output} is half written"


def after(name: str, folder: Path, out: Path, code: int, said: str) -> Iterator[str]:
    """What is wrong after the next run, which has ended with a code."""
    if code != 0:
        yield f"the next run ended with {code}: {said}"
        return
    checked = whole(name, out)
    for output in (output for output, good in checked.items() if not good):
        yield f"{output} is not whole after the next run"
    parts = {Path(output).parts[0] for output in checked}
    left = sorted(path.name for path in out.iterdir() if path.name not in parts)
    hidden = sorted(path.name for path in out.rglob(".*"))
    if left or hidden:
        yield f"left over: {left or hidden}"
    if digests(folder / "in") != json.loads((folder / "inputs.json").read_text()):
        yield "an input was changed"


if __name__ == "__main__":
    main()
