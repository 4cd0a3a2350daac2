"""A watched folder of tables: every row once, by the name of its file and its number there."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from approxmass import Detector
from approxmass.watch import Watch

COLUMNS = ["a", "b", "c"]


def frame(count: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(shift, 1, (count, 3))
    return pd.DataFrame(values, columns=COLUMNS)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(seed=0).fit(frame(200, 0))


def arrive(folder: Path) -> dict[str, pd.DataFrame]:
    """Two tables, one of other columns beside and in another order, and two that are none."""
    folder.mkdir()
    first, second = frame(30, 1), frame(2500, 2)
    first.loc[4, "b"] = np.nan
    first.to_csv(folder / "1.csv", index=False)
    (folder / "day").mkdir()
    second.assign(d="x")[["d", "c", "b", "a"]].to_parquet(folder / "day" / "2.parquet")
    (folder / "3.csv").write_text("a,b\n1,2\n")
    (folder / "4.parquet").write_bytes(b"PAR1")
    (folder / "note.txt").write_text("not looked at")
    return {"1.csv": first, "day/2.parquet": second}


def watched(detector: Detector, folder: Path, log: Path) -> pd.DataFrame:
    with Watch(detector, folder, log) as run:
        for _ in run.batches(interval=0.01, until_idle=0):
            pass
    return pd.read_csv(log).drop(columns=["time", "check"])


def test_each_row_is_scored_as_by_score(detector: Detector, tmp_path: Path) -> None:
    tables = arrive(tmp_path / "in")
    log = watched(detector, tmp_path / "in", tmp_path / "log.csv").set_index("name")
    for file, table in tables.items():
        rows = log.loc[[f"{file}:{i}" for i in range(len(table))]]
        bad = table.isna().any(axis=1).to_numpy()
        assert (rows.error.notna() == bad).all()
        wanted = detector.score(table[~bad])
        np.testing.assert_allclose(rows.p_value[~bad], wanted.p_value)
        np.testing.assert_allclose(rows.statistic[~bad], wanted.statistic)
    assert "column b" in log.error["1.csv:4"]
    assert "no column c" in log.error["3.csv"]
    assert log.error["4.parquet"]
    assert len(log) == 30 + 2500 + 2


@pytest.mark.parametrize("kept", [0, 1, 17, 30, 31, 700, 2049, 2529, 2530, 2531])
def test_a_run_goes_on_within_a_table(detector: Detector, tmp_path: Path, kept: int) -> None:
    arrive(tmp_path / "in")
    whole = watched(detector, tmp_path / "in", tmp_path / "log.csv")
    lines = (tmp_path / "log.csv").read_text().splitlines(keepends=True)
    (tmp_path / "cut.csv").write_text("".join(lines[: 1 + kept]) + lines[1 + kept][:9])
    again = watched(detector, tmp_path / "in", tmp_path / "cut.csv")
    pd.testing.assert_frame_equal(again, whole)
    # All is known, and nothing comes a second time.
    pd.testing.assert_frame_equal(watched(detector, tmp_path / "in", tmp_path / "cut.csv"), whole)


def test_the_command_follows_tables_and_finds_a_drift(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "detector")
    (tmp_path / "in").mkdir()
    frame(100, 3).to_csv(tmp_path / "in" / "usual.csv", index=False)
    frame(100, 4, shift=2.0).to_csv(tmp_path / "in" / "z.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-m", "approxmass", "watch", tmp_path / "detector", tmp_path / "in", "-o",
         tmp_path / "log.csv", "--interval", "0.05", "--until-idle", "0", "--json", "-"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    facts = json.loads(done.stdout)
    assert facts["scored"] == 200
    assert facts["alarms"][0]["image"].startswith("z.csv:")
    assert "drift alarm (out-of-distribution) at row z.csv:" in done.stderr
    assert "image" not in done.stderr
