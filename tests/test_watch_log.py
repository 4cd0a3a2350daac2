"""The log of a watched folder is gone on with only if it is what was written."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest

from approxmass import Detector
from approxmass.errors import ApproxMassError
from approxmass.watch import Watch
from approxmass.watch.chain import with_checks
from conftest import mistake
from test_watch_files import DATA, pictures


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(method="gaussian").fit(pictures(200, 0))


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    folder = tmp_path / "camera"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.png").write_bytes(DATA[i])
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def follow(detector: Detector, camera: Path, log: Path) -> list[str]:
    with Watch(detector, camera, log) as run:
        found = [batch.names for batch in run.batches(interval=0.02, until_idle=0)]
    return [name for names in found for name in names]


def content(log: Path) -> dict[str, bytes] | bytes | None:
    if log.is_dir():
        return {each.name: each.read_bytes() for each in log.iterdir()}
    return log.read_bytes() if log.exists() else None


def emptied(log: Path) -> None:
    os.truncate(log, 0)


def cut(log: Path) -> None:
    os.truncate(log, log.stat().st_size // 2)


def removed(log: Path) -> None:
    log.unlink()


def replaced(log: Path) -> None:
    shutil.copy2(log, log.with_name("new"))
    os.replace(log.with_name("new"), log)


def added_to(log: Path) -> None:
    with log.open("ab") as file:
        file.write(b"a line\n")


def written_over(log: Path) -> None:
    with log.open("r+b") as file:
        file.write(b"x" * log.stat().st_size)


@pytest.mark.parametrize("what", [emptied, cut, removed, replaced, added_to, written_over])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_log_changed_by_another_program_is_not_written_to(
    detector: Detector,
    camera: Path,
    tmp_path: Path,
    suffix: str,
    what: Callable[[Path], None],
) -> None:
    log = tmp_path / f"log.{suffix}"
    names = follow(detector, camera, log)
    with Watch(detector, camera, log) as run:
        (camera / "new.png").write_bytes(DATA[9])
        (batch,) = run.batches(interval=0.02, until_idle=0.1)
        assert batch.names == ["new.png"]
        (camera / "newer.png").write_bytes(DATA[10])
        what(log / "part-000000.parquet" if suffix == "parquet" else log)
        before = content(log)
        with mistake("damaged", f"{log} was cut, replaced or removed by another program"):
            list(run.batches(interval=0.02, until_idle=0))
    assert content(log) == before
    if what is replaced:  # by itself
        assert follow(detector, camera, log) == ["newer.png"]
    elif what is emptied and suffix == "csv":
        assert follow(detector, camera, log) == [*names, "new.png", "newer.png"]
        assert b"\0" not in log.read_bytes()


def test_the_command_ends_with_2_when_its_log_is_emptied(
    detector: Detector, camera: Path, tmp_path: Path
) -> None:
    detector.save(tmp_path / "detector")
    log = tmp_path / "log.csv"
    words = ["watch", tmp_path / "detector", camera, "-o", log, "--interval", "0.05"]
    command = [sys.executable, "-m", "approxmass", *map(str, words)]
    running = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
    try:
        while not log.exists() or log.read_bytes().count(b"\n") < 8:
            assert running.poll() is None
        emptied(log)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 2
    assert said.splitlines()[-1].startswith(f"error[damaged]: {log} was cut, replaced or removed")
    assert log.read_bytes() == b""


def doubled(rows: list[str]) -> list[str]:
    return [*rows, rows[2]]


def out_of_order(rows: list[str]) -> list[str]:
    return [*rows[:2], rows[3], rows[2], *rows[4:]]


def one_less(rows: list[str]) -> list[str]:
    return [*rows[:2], *rows[3:]]


def renamed(rows: list[str]) -> list[str]:
    return [row.replace("3.png", "8.png") for row in rows]


def errorless(rows: list[str]) -> list[str]:
    return [re.sub(r'"[^"]*(cannot|not)[^"]*"', '"another"', row) for row in rows]


@pytest.mark.parametrize("edit", [doubled, out_of_order, one_less, renamed, errorless])
def test_a_log_with_rows_altered_is_refused(
    detector: Detector, camera: Path, tmp_path: Path, edit: Callable[[list[str]], list[str]]
) -> None:
    log = tmp_path / "log.csv"
    follow(detector, camera, log)
    header, *rows = log.read_text().splitlines(keepends=True)
    assert edit(rows) != rows
    log.write_text("".join([header, *edit(rows)]))
    before = log.read_bytes()
    with mistake("damaged", f"{log} is damaged or was edited, at row "):
        follow(detector, camera, log)
    assert log.read_bytes() == before


def test_a_digit_or_letter_altered_anywhere_is_noticed(
    detector: Detector, camera: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.csv"
    follow(detector, camera, log)
    whole = log.read_bytes()
    start = whole.index(b"\n") + 1
    places = [i for i in range(start, len(whole)) if whole[i : i + 1].isalnum()]
    generator = np.random.default_rng(0)
    unnoticed = []
    for place in generator.choice(places, 150, replace=False):
        letter = b"7" if whole[place : place + 1] != b"7" else b"3"
        log.write_bytes(whole[:place] + letter + whole[place + 1 :])
        damaged = log.read_bytes()
        noticed = pytest.raises(ApproxMassError, match=r"\A.*\Z")  # in one line
        with contextlib.suppress(pytest.fail.Exception), noticed, Watch(detector, camera, log):
            # Digits beyond those of a number.
            columns = pyarrow.csv.read_csv(pa.BufferReader(damaged))
            unnoticed += [columns.equals(pyarrow.csv.read_csv(pa.BufferReader(whole)))]
        assert log.read_bytes() == damaged
    assert all(unnoticed)
    assert len(unnoticed) < 15


@pytest.mark.parametrize("name", ["../3.png", r"\xzz.png", ".hidden.png", "/etc/3.png", ""])
def test_names_that_no_file_can_have_are_refused(
    detector: Detector, camera: Path, tmp_path: Path, name: str
) -> None:
    """Also where whoever wrote them has made the checks anew."""
    log = tmp_path / "log.parquet"
    follow(detector, camera, log)
    part = log / "part-000000.parquet"
    rows = pa.parquet.read_table(part).drop_columns(["check"])
    names = rows["name"].to_pylist()
    names[3] = name
    rows = rows.set_column(0, "name", pa.array(names))
    pa.parquet.write_table(with_checks(rows, ""), part)
    with mistake("damaged", f"{log} has a row that no file can have"):
        follow(detector, camera, log)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_log_of_an_earlier_version_is_refused(
    detector: Detector, camera: Path, tmp_path: Path, suffix: str
) -> None:
    log = tmp_path / f"log.{suffix}"
    follow(detector, camera, log)
    part = log / "part-000000.parquet" if suffix == "parquet" else log
    later = ["time", "size", "modified", "digest", "check"]
    if suffix == "csv":
        pd.read_csv(part).drop(columns=later).to_csv(part, index=False)
    else:
        pa.parquet.write_table(pa.parquet.read_table(part).drop_columns(later), part)
    before = content(log)
    with mistake("other-run", "was written by an earlier version: choose another name"):
        follow(detector, camera, log)
    assert content(log) == before


def test_a_part_that_is_missing_is_noticed(
    detector: Detector, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("approxmass.watch.log._PART_ROWS", 2)
    log = tmp_path / "log.parquet"
    for i in range(3):
        (camera / f"more{i}.png").write_bytes(DATA[20 + i])
        follow(detector, camera, log)
    parts = sorted(log.iterdir())
    assert len(parts) > 1
    parts[0].rename(tmp_path / "first")
    with mistake("damaged", str(log)):
        follow(detector, camera, log)
    (tmp_path / "first").rename(parts[0])
    assert follow(detector, camera, log) == []


def test_a_line_end_within_the_names_of_the_columns_is_no_log_of_ours(
    detector: Detector, camera: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.csv"
    follow(detector, camera, log)
    spoilt = log.read_bytes().replace(b"drift", b"dr\rift", 1)
    log.write_bytes(spoilt)
    with mistake("other-run", "is not a log of this detector"):
        follow(detector, camera, log)
    assert log.read_bytes() == spoilt
