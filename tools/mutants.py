"""How many small faults the tests find in what every number rests on: `make mutants`.

    python tools/mutants.py results/mutants.json [calibration.py ...]

mutmut changes one thing at a time in every function of the files of tools/mutants.toml (a sign, a
bound, a constant, an argument) and runs the tests named there beside each; tests that draw inputs
draw the same ones each time. What it does not change, constants of a module and functions with a
decorator, is changed by hand: `by_hand` in that list. It fails unless 90% of the changes in each
file are found, those by hand all, and each that is not found has its reason in that list. With
files named after the results these alone are tried, and nothing is written. All: 40 minutes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from approxmass.storage.atomic import write_json

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tools" / "mutants.toml"
PACKAGE = "src/approxmass/"
LEAST = 0.9
COPIED = ("src", "tests", "tools", "results", "pyproject.toml")
PYTEST = ["-p", "no:cacheprovider", "--hypothesis-profile=ci"]
# An endless loop is found by its time.
FOUND = ("killed", "timeout")


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder, with one thread."""
    alone = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / "src"), "COLUMNS": "200"}
    environment = os.environ | alone
    return subprocess.run(words, cwd=folder, env=environment, text=True, capture_output=True)


def copy(folder: Path) -> Path:
    """What tests need, in an empty folder."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    return folder


def short(diff: str) -> str:
    """The lines that a change takes away and those that it puts there, in one line."""
    lines = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("---", "+++")]
    old, new = (
        " ".join(line[1:].split("#")[0].strip() for line in lines if line[0] == sign)
        for sign in "-+"
    )
    return f"{old} -> {new}"


def mutate(file: str, tests: list[str]) -> tuple[Counter[str], list[str]]:
    """How many changes of a file came to what, and those not found, by function and change."""
    with tempfile.TemporaryDirectory() as name:
        folder = copy(Path(name))
        with (folder / "pyproject.toml").open("a") as settings:
            settings.write(
                f"\n[tool.mutmut]\nsource_paths = ['src']\nonly_mutate = ['{PACKAGE}{file}']\n"
                f"also_copy = {list(COPIED)}\npytest_add_cli_args = {PYTEST}\n"
                f"pytest_add_cli_args_test_selection = {tests}\nuse_git_change_detection = false\n"
                "timeout_multiplier = 4.0\ntimeout_constant = 5.0\n"
            )
        mutmut = [sys.executable, "-m", "mutmut"]
        done = run([*mutmut, "run", "--max-children", "1"], folder)
        if done.returncode:
            raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
        listed = run([*mutmut, "results", "--all", "true"], folder).stdout
        states = dict(re.findall(r"^ *(\S+): (.+)$", listed, re.MULTILINE))
        missed = []
        for mutant in (mutant for mutant, state in states.items() if state not in FOUND):
            function = mutant.split("__mutmut_")[0].rsplit(".", 1)[1]
            function = function.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
            diff = run([*mutmut, "show", mutant], folder).stdout
            missed.append(f"{function}: {short(diff)}")
        return Counter(states.values()), missed


def by_hand(file: str, tests: list[str], changes: list[dict[str, Any]]) -> list[str]:
    """Those of such changes in a file that its tests do not find."""
    missed = []
    with tempfile.TemporaryDirectory() as name:
        folder = copy(Path(name))
        path = folder / PACKAGE / file
        text = path.read_text()
        for change in changes:
            old, new = change["old"], change["new"]
            if text.count(old) != 1:
                raise SystemExit(f"{file} has {text.count(old)} times, not once: {old}")
            path.write_text(text.replace(old, new))
            words = [sys.executable, "-m", "pytest", "-x", "-q", *PYTEST]
            done = run([*words, *change.get("tests", tests)], folder)
            if done.returncode not in (0, 1):
                raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
            if done.returncode == 0:
                missed.append(f"{old} -> {new}")
        path.write_text(text)
    return missed


def main(target: Path, files: list[str]) -> int:
    """Try some files, or all and keep what came of it; returns how the command ends."""
    listed = tomllib.loads(LIST.read_text())
    reasons = {
        (reason["file"], change): reason["why"]
        for reason in listed.get("reason", [])
        for change in reason["changes"]
    }
    rows, faults = [], []
    for file in files or listed["tests"]:
        tests = listed["tests"][file]
        states, missed = mutate(file, tests)
        own = [change for change in listed.get("by_hand", []) if change["file"] == file]
        hand = by_hand(file, tests, own)
        found = sum(states[state] for state in FOUND)
        row = {
            "file": file,
            "mutants": states.total(),
            "found": found,
            "by_time": states["timeout"],
            "by_hand": len(own),
            "survivors": [
                {"change": each, "why": reasons.pop((file, each), None)} for each in missed
            ],
        }
        rows.append(row)
        print(f"{file}: {found} of {states.total()}, {len(own) - len(hand)} of {len(own)} by hand")
        faults += [f"{file}: survives, by hand: {each}" for each in hand]
        faults += [
            f"{file}: survives without a reason: {each['change']}"
            for each in row["survivors"]
            if each["why"] is None
        ]
        faults += [
            f"{file}: a reason for what does not survive: {each}"
            for of, each in reasons
            if of == file
        ]
        if found < LEAST * states.total():
            faults.append(f"{file}: {found} of {states.total()} is less than {LEAST:.0%}")
    print("\n".join(faults))
    if not files and not faults:
        command = "python tools/mutants.py results/mutants.json"
        write_json(target, {"command": command, "rows": rows})
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
