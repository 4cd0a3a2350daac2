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
    alone = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / "src"), "PYTHONHASHSEED": "0"}
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
    lines = [line for line in diff.splitlines() if line[:1] in ("+", "-")]
    lines = [line for line in lines if line[:3] not in ("+++", "---")]
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


def missed_by_hand(file: str, tests: list[str], changes: list[dict[str, Any]]) -> list[str]:
    """Those of such changes in a file that its tests do not find."""
    missed = []
    with tempfile.TemporaryDirectory() as name:
        folder = copy(Path(name))
        path = folder / PACKAGE / file
        text = path.read_text()
        for old, new in ((change["old"], change["new"]) for change in changes):
            if text.count(old) != 1:
                raise SystemExit(f"{file} has {text.count(old)} times, not once: {old}")
            path.write_text(text.replace(old, new))
            done = run([sys.executable, "-m", "pytest", "-x", "-q", *PYTEST, *tests], folder)
            if done.returncode not in (0, 1):
                raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
            if done.returncode == 0:
                missed.append(f"{old} -> {new}")
    return missed


def tried(file: str, listed: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What came of a file, and what is wrong with it."""
    tests, hand = listed["tests"][file], listed["by_hand"].get(file, [])
    faults = [f"survives, by hand: {each}" for each in missed_by_hand(file, tests, hand)]
    row = {"file": file, "by_hand": len(hand), "named": sum("named" in each for each in hand)}
    if file in listed["by_hand_alone"]:
        return row, faults
    states, missed = mutate(file, tests)
    reasons = {
        change: why for why, of in listed["reasons"].items() for change in of.get(file, [])
    }
    count, found = states.total(), sum(states[state] for state in FOUND)
    survivors = [{"change": each, "why": reasons.get(each)} for each in missed]
    row |= {"mutants": count, "found": found, "by_time": states["timeout"], "survivors": survivors}
    faults += [f"survives without a reason: {each}" for each in missed if each not in reasons]
    faults += [f"a reason, and is found: {each}" for each in reasons if each not in missed]
    if found < LEAST * count:
        faults.append(f"{found} of {count} is less than {LEAST:.0%}")
    print(f"{file}: {found} of {count} found, and by hand {len(hand)}", flush=True)
    return row, faults


def main(target: Path, files: list[str]) -> int:
    """Try some files, or all and keep what came of it; returns how the command ends."""
    listed = tomllib.loads(LIST.read_text())
    rows, wrong = [], False
    for file in files or listed["tests"]:
        row, faults = tried(file, listed)
        rows.append(row)
        wrong |= bool(faults)
        print("".join(f"{file}: {fault}\n" for fault in faults), end="", flush=True)
    if not files and not wrong:
        command = "python tools/mutants.py results/mutants.json"
        write_json(target, {"command": command, "rows": rows})
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
