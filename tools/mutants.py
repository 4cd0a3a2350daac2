"""How many small faults the tests find in what every number rests on: `make mutants`.

    python tools/mutants.py results/mutants.json [calibration.py ...]

mutmut changes one thing at a time in every function of the files of tools/mutants.toml (a sign, a
bound, a constant, an argument) and runs the tests named there beside each; tests that draw inputs
draw the same ones each time. What it does not change, constants of a module and functions with a
decorator, is changed by hand: `by_hand` in that list. It fails unless 90% of the changes in each
file are found, those by hand all, and each that is not found has its reason in that list. With
files named after the results these alone are tried anew. All: an hour on one core.
"""

import json
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

import pytest
import scipy.stats
import sklearn.covariance
import torch
import zuko

from approxmass.storage.atomic import write_json

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tools" / "mutants.toml"
PACKAGE = "src/approxmass/"
LEAST = 0.9
COPIED = ("src", "tests", "tools", "results", "pyproject.toml")
PYTEST = ["-p", "no:cacheprovider", "--hypothesis-profile=mutants"]
# Imported for the children of `fails`.
_ONCE = (scipy.stats, sklearn.covariance, torch, zuko)
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


def fails(tests: list[str], folder: Path) -> bool:
    """Whether tests fail in a folder: in a child, which need not import torch anew."""
    child = os.fork()
    if child == 0:
        code = 9
        try:
            os.chdir(folder)
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            for module in [name for name in sys.modules if name.partition(".")[0] == "approxmass"]:
                del sys.modules[module]
            sys.path.insert(0, str(folder / "src"))
            sys.dont_write_bytecode = True  # which may be taken for that of the next change
            code = int(pytest.main(["-x", "-q", *PYTEST, *tests]))
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, 1):
        raise SystemExit(f"pytest ended with {code}: {tests}")
    return code == 1


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
            if not fails(tests, folder):
                missed.append(f"{old} -> {new}")
    return missed


def tried(file: str, listed: dict[str, Any]) -> dict[str, Any]:
    """What came of a file."""
    tests, hand = listed["tests"][file], listed["by_hand"].get(file, [])
    row: dict[str, Any] = {"file": file}
    if file not in listed["by_hand_alone"]:
        states, missed = mutate(file, tests)
        row["mutants"], row["found"] = states.total(), sum(states[state] for state in FOUND)
        row["by_time"] = states["timeout"]
        row["survivors"] = [{"change": each} for each in missed]
    row["by_hand"], row["named"] = len(hand), sum("named" in each for each in hand)
    row["missed_by_hand"] = missed_by_hand(file, tests, hand)
    return row


def judged(row: dict[str, Any], reasons: dict[str, dict[str, list[str]]]) -> list[str]:
    """Give the survivors of a file their reasons; returns what is wrong with it."""
    faults = [f"survives, by hand: {each}" for each in row["missed_by_hand"]]
    known = {change: why for why, of in reasons.items() for change in of.get(row["file"], [])}
    survivors = row.get("survivors", [])
    for each in survivors:
        each["why"] = known.get(each["change"])
        if each["why"] is None:
            faults.append(f"survives without a reason: {each['change']}")
    found = {each["change"] for each in survivors}
    faults += [f"a reason, and does not survive: {each}" for each in known if each not in found]
    if row.get("found", 0) < LEAST * row.get("mutants", 0):
        faults.append(f"{row['found']} of {row['mutants']} is less than {LEAST:.0%}")
    return faults


def main(target: Path, files: list[str]) -> int:
    """Try some files, or all, and keep what came of those that pass; returns how it ends."""
    listed = tomllib.loads(LIST.read_text())
    rows = {}
    if files and target.exists():
        rows = {row["file"]: row for row in json.loads(target.read_text())["rows"]}
    for file in files or listed["tests"]:
        rows[file] = tried(file, listed)
        print(f"{file}: {rows[file].get('found')} of {rows[file].get('mutants')}", flush=True)
        wrong = {name: judged(row, listed["reasons"]) for name, row in rows.items()}
        kept = [rows[name] for name in listed["tests"] if name in rows and not wrong[name]]
        command = "python tools/mutants.py results/mutants.json"
        write_json(target, {"command": command, "rows": kept})
    faults = [f"{name}: {fault}" for name, each in wrong.items() for fault in each]
    print("\n".join(faults))
    return bool(faults)


def markdown(facts: dict[str, Any]) -> str:
    """By file, how many changes are found, and why the others are not."""
    lines = ["| file | changes found | by hand | not found, because |", "|---|---|---|---|"]
    for row in facts["rows"]:
        whys = Counter(each["why"] for each in row.get("survivors", []))
        because = "; ".join(f"{why} ({count})" for why, count in whys.most_common())
        share = f"{row['found']} of {row['mutants']}" if "found" in row else ""
        lines.append(f"| `{row['file']}` | {share} | {row['by_hand'] or ''} | {because} |")
    tried = [row for row in facts["rows"] if "found" in row]
    found, count = (sum(row[name] for row in tried) for name in ("found", "mutants"))
    hand = sum(row["by_hand"] for row in facts["rows"])
    lines.append(f"| **all** | **{found:,} of {count:,}, {found / count:.1%}** | **{hand}** | |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
