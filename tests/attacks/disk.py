"""Full disks, files that may grow no more, and folders that may not be written to.

    python tests/attacks/disk.py FILE.json

Every command that writes meets a disk that is full from one of its calls on (each kind of call that
needs room, by an error in its place), files that may not grow beyond some bytes (RLIMIT_FSIZE), a
small tmpfs and a folder mounted read-only where mounts are allowed, and a folder of another user.
Each time it must end with 2 and one line, outputs that were there stay or are replaced by whole
ones, and nothing is left beside them. Where that is not so the script leaves with 1.
"""

__all__: list[str] = []

import contextlib
import json
import os
import random
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands import COMMANDS, Child, digests, fresh, prepared
from kills import begun, half, tried
from writes import full

NOBODY = 65534
# Bytes that a file may have, and of a whole small disk.
LIMITS, DISKS = (0, 100, 1500), ("4k", "16k", "64k")
# Of a command so many calls are tried, spread over what it does; all of a quick one.
MOST, QUICK = 4, 3.0


def main() -> None:
    """All of it, once."""
    facts = Facts()
    for folder in prepared():
        folder.chmod(0o755)  # for another user
        for name in COMMANDS:
            for disk in (errors, limits, mounts, another_user):
                disk(name, folder, facts)
            print(f"{name}: {len(facts.findings)} findings so far", flush=True)
    found = {
        "command": "python tests/attacks/disk.py FILE.json",
        "runs": sum(facts.done.values()),
        "by disk": dict(facts.done),
        "mounts": facts.mounts,
        "findings": facts.findings,
        "held": not facts.findings,
    }
    Path(sys.argv[1]).write_text(json.dumps(found, indent=2) + "\n")
    print(f"{found['runs']} runs, {len(facts.findings)} findings")
    sys.exit(1 if facts.findings else 0)


class Facts:
    """What has been done and found."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.findings: list[dict[str, Any]] = []
        self.mounts = "not allowed here"

    def run(
        self,
        disk: str,
        name: str,
        folder: Path,
        out: Path,
        *,
        may_end: bool = False,
        **how: Any,
    ) -> None:
        """Run a command on a bad disk; `may_end` where it need not notice."""
        before = digests(out)
        child = Child(name, folder, out, **how)
        code = child.wait()
        self.done[disk.partition(":")[0]] += 1
        for what in wrong(name, out, before, code, child, may_end):
            self.findings.append({"command": name, "disk": disk, "found": what})
            print(self.findings[-1], flush=True)


def wrong(
    name: str, out: Path, before: dict[str, str], code: int, child: Child, may_end: bool
) -> Iterator[str]:
    """What is not as it must be."""
    lines = child.text.splitlines()
    errors = [line for line in lines if line.startswith("error[")]
    if code != 2 and not (may_end and code == 0):
        yield f"it ended with {code}: {child.said()}"
    if (code == 2 and len(errors) != 1) or any("Traceback" in line for line in lines):
        yield f"{len(errors)} lines of an error: {child.said()}"
    yield from half(name, out, before)
    if hidden := sorted(path.name for path in out.rglob(".*")):
        yield f"left over: {hidden}"


def errors(name: str, folder: Path, facts: Facts) -> None:
    """A disk that is full from a call on."""
    known = tried(folder, name)
    needs = [i for i, (_, call) in enumerate(known.events) if call in NEED_ROOM]
    first = {known.events[i]: i for i in reversed(needs)}  # the first of each kind
    places = sorted(first.values())
    if known.seconds > QUICK:
        places = places[:: max(1, len(places) // MOST)][:MOST]
    chance = random.Random(0)
    for at in places:
        out = fresh(folder, "out")
        begun(name, folder, out, chance)
        kind, call = known.events[at]
        facts.run(f"full: at {call} of {kind}", name, folder, out, at=at, act=full)


NEED_ROOM = ("open", "fsync", "mkdir", "write")


def limits(name: str, folder: Path, facts: Facts) -> None:
    """Files that may not grow, by the system itself."""
    for most in LIMITS:
        out = fresh(folder, "out")
        begun(name, folder, out, random.Random(most))
        facts.run(
            f"limit: {most} bytes a file",
            name,
            folder,
            out,
            may_end=most > 0,
            before=lambda most=most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        )


def mounts(name: str, folder: Path, facts: Facts) -> None:
    """A small file system, and one that is read-only."""
    for size in (*DISKS, "ro"):
        out = fresh(folder, "out")
        with mounted(out, "1m" if size == "ro" else size) as done:
            if not done:
                return
            facts.mounts = "tmpfs"
            if size == "ro":
                begun(name, folder, out, random.Random(0))
                subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
            facts.run(f"mount: {size}", name, folder, out, may_end=size != "ro")


@contextlib.contextmanager
def mounted(place: Path, size: str) -> Iterator[bool]:
    """A tmpfs at a place; whether that may be."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    done = subprocess.run(words, capture_output=True, check=False).returncode == 0
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", str(place)], check=True)


def another_user(name: str, folder: Path, facts: Facts) -> None:
    """A folder of somebody else, with outputs of theirs and without."""
    if os.geteuid() != 0:
        return
    for seed in (0, 1, 2, 3):
        out = fresh(folder, "out")
        begun(name, folder, out, random.Random(seed))
        facts.run("another user's folder", name, folder, out, user=NOBODY)


if __name__ == "__main__":
    main()
