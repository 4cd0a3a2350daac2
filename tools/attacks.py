"""A slice of every attack of tests/attacks, within half an hour; counts add up in one file.

    python tools/attacks.py results/attacks.json            all of them
    python tools/attacks.py results/attacks.json kills      one

Each is a script of its own, which goes on from the counts that it is given, with other seeds. What
it found is kept under its name after each, so that a run that is stopped loses one. Leaves with 1
where an attack finds something. What repeated calls move, and Ray, have files of their own
(`results/ties.json`, `results/ray_kills.json`).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from approxmass.storage.atomic import write_json

HERE = Path(__file__).parents[1] / "tests" / "attacks"


# Arguments of each, after the file.
SLICES = {
    "fuzz": ["--seconds", "420"],
    "kills": ["60"],
    "disk": [],
    "server": ["--seconds", "300"],
    "watcher": ["15"],
}


def run(name: str, arguments: list[str], before: dict[str, Any] | None) -> tuple[int, Any]:
    """Run one, on top of what it counted before; its exit code, and its counts."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.json"
        if before is not None:
            write_json(file, before)
        done = subprocess.run([sys.executable, HERE / f"{name}.py", file, *arguments])
        return done.returncode, json.loads(file.read_text()) if file.exists() else before


def main(target: Path, wanted: list[str]) -> int:
    """All of them, or those wanted."""
    facts = json.loads(target.read_text()) if target.exists() else {}
    facts["command"] = "python tools/attacks.py results/attacks.json"
    found = 0
    for name, arguments in SLICES.items():
        if wanted and name not in wanted:
            continue
        print(f"{name} {' '.join(arguments)}", flush=True)
        code, facts[name] = run(name, arguments, facts.get(name))
        found |= code
        write_json(target, facts)
    return int(bool(found))


def markdown(facts: dict[str, Any]) -> str:
    """What was done in all, and what was found."""
    fuzz, kills, disk = facts["fuzz"], facts["kills"], facts["disk"]
    inside = kills["inside each kind of write"]
    peak = max(each["peak_mib"] for each in fuzz["readers"].values())
    lines = [
        "| attack | done | findings |",
        "|---|---|---|",
        f"| spoilt inputs, {len(fuzz['readers'])} readers and bodies | {fuzz['inputs']:,} inputs; "
        f"largest peak {peak} MiB above the start | {_count(fuzz)} |",
        f"| SIGKILL of {len(kills['kills'])} commands that write | "
        f"{kills['kills in all']:,} kills, {sum(inside.values()):,} of them inside "
        f"{len(inside)} kinds of write, {min(inside.values())} or more in each | {_count(kills)} |",
        f"| full disks, limits, other users' folders | {disk['runs']:,} runs | {_count(disk)} |",
    ]
    for name, each in facts["server"]["attacks"].items():
        worst = ", ".join(f"{_words(key)} {_short(value)}" for key, value in each["worst"].items())
        lines.append(
            f"| server: {name} | {each['requests']:,} requests; {worst} | {_count(each)} |"
        )
    for name, each in facts["watcher"]["attacks"].items():
        lines.append(
            f"| watcher: {name} | {each['repetitions']:,} times, {each['images']:,} images "
            f"| {_count(each)} |"
        )
    return "\n".join(lines)


def _count(facts: dict[str, Any]) -> int:
    found = facts["findings"]
    return found if isinstance(found, int) else len(found)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _words(key: str) -> str:
    return "worst " + key.replace("_", " ")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
