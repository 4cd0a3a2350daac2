"""`approxmass score` in a pipe: what it prints, names from standard input, rates, exit codes."""

import contextlib
import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from approxmass import Detector
from conftest import textures

COMMAND = [sys.executable, "-m", "approxmass"]


def run(*words: object, given: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([*COMMAND, *map(str, words)], input=given, capture_output=True)
    assert done.returncode == code, done.stderr.decode()
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector `d`, and folders `a` and `b` of images, of which one cannot be read."""
    root = tmp_path_factory.mktemp("pipe")
    Detector("pca", epochs=1, seed=0).fit(textures(200)).save(root / "d")
    for name, images in (("a", textures(6, seed=5)), ("b", 255 - textures(4, seed=6))):
        (root / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{i} ü.png")
    (root / "b" / "9.png").write_bytes(b"no image")
    return root


def test_what_is_printed_is_what_is_written(place: Path, tmp_path: Path) -> None:
    run("score", place / "d", place / "b", "-o", tmp_path / "t.csv")
    run("score", place / "d", place / "b", "-o", tmp_path / "t.parquet")
    run("score", place / "d", place / "b", "-o", tmp_path / "t.jsonl")
    wanted = pd.read_parquet(tmp_path / "t.parquet")
    printed = run("score", place / "d", place / "b", "-o", "-")
    assert printed.stdout == (tmp_path / "t.csv").read_bytes()
    assert b"scored" in printed.stderr
    assert b"9.png" in printed.stderr
    lines = run("score", place / "d", place / "b", "-o", "-", "--format", "jsonl").stdout
    assert lines == (tmp_path / "t.jsonl").read_bytes()
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [list(row) for row in rows] == [list(wanted.columns)] * 5
    for row, (_, other) in zip(rows, wanted.iterrows(), strict=True):
        for name, value in row.items():
            assert value == other[name] or (value is None and pd.isna(other[name])), name
    text = (tmp_path / "t.csv").read_text()
    assert [each["name"] for each in csv.DictReader(io.StringIO(text))] == list(wanted.name)


def test_names_come_from_standard_input(place: Path) -> None:
    files = sorted(map(str, (place / "a").glob("*.png")))
    for given in ("\n".join(files), "\n".join(files) + "\n", "\0".join(files) + "\0"):
        done = run("score", place / "d", "-", "-o", "-", "--format", "jsonl", given=given.encode())
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["name"] for row in rows] == files
        wanted = Detector.load(place / "d").score(str(place / "a"))
        np.testing.assert_array_equal([row["p_value"] for row in rows], wanted.p_value)
    none = run("score", place / "d", "-", "-o", "-", given=b"\n", code=2)
    assert b"no names of images" in none.stderr
    assert none.stdout == b""


def test_several_sources_are_told_apart(place: Path) -> None:
    lines = run("score", place / "d", place / "a", place / "b", "-o", "-", "--format", "jsonl")
    rows = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [row["source"] for row in rows] == [str(place / "a")] * 6 + [str(place / "b")] * 5
    alone = run("score", place / "d", place / "b", "-o", "-", "--format", "jsonl").stdout
    for row, other in zip(rows[6:], map(json.loads, alone.splitlines()), strict=True):
        assert row == {"source": str(place / "b"), **other}


def test_verdicts_at_another_rate(place: Path, tmp_path: Path) -> None:
    for rate in (0.2, 0.5):
        words = ("--false-alarm-rate", rate, "--json", tmp_path / "f.json")
        done = run("score", place / "d", place / "a", "-o", "-", "--format", "jsonl", *words)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["is_outlier"] for row in rows] == [row["p_value"] <= rate for row in rows]
        facts = json.loads((tmp_path / "f.json").read_text())
        assert facts["outliers"] == sum(row["is_outlier"] for row in rows)
        assert facts["false_alarm_rate"] == rate
    too_fine = run("score", place / "d", place / "a", "-o", "-", "--false-alarm-rate", 1e-4, code=2)
    assert b"error[rate]" in too_fine.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("a", "-o", "-", "--format", "parquet"), b"not for a pipe"),
        (("a", "-o", "t.csv", "--format", "jsonl"), b"is csv by its name"),
        (("a", "-o", "t.txt"), b".csv, .jsonl or .parquet"),
        (("a", "-o", "-", "--json", "-"), b"only one of"),
        (("-", "-", "-o", "-"), b"give - once"),
        (("-", "-o", "t.csv", "--engine", "ray"), b"opens sources by name"),
        (("a", "-o", "-", "--engine", "ray"), b"give -o FILE"),
        (("a", "missing", "-o", "-"), b"no such file"),
    ],
)
def test_what_does_not_go_together(
    place: Path, words: tuple[str, ...], reason: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    done = run("score", "d", *words, code=2)
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == b""
    assert not list(place.glob("t.*"))


def test_exit_codes_are_said_and_kept(place: Path, tmp_path: Path) -> None:
    for words in ((), ("score",), ("fit",)):
        assert b"Exit codes: 0 done; 2 a mistake" in run(*words, "--help").stdout.replace(
            b"\n", b" "
        )
    assert b"No such option" in run("score", "--nonsense", code=2).stderr
    many = tmp_path / "many.npy"
    np.save(many, np.tile(textures(100), (200, 1, 1)))
    words = [*COMMAND, "score", str(place / "d"), str(many), "-o", "-"]
    # The reader goes after a line.
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'"name"')
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""
    # Ctrl-C, which is ignored from the start in what a script has put into the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        for _ in range(5):  # it waits for the reader; one that comes within a callback is lost
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                break
        process.communicate(timeout=60)
        assert process.returncode == 130
