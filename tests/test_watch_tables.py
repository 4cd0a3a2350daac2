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


def lines(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, header=False)


def test_rows_that_are_added_are_scored_and_no_row_twice(
    detector: Detector, tmp_path: Path
) -> None:
    folder, log = tmp_path / "in", tmp_path / "log.csv"
    folder.mkdir()
    table = frame(12, 7)
    file = folder / "a.csv"
    file.write_text("a,b,c\n")
    assert watched(detector, folder, log).name.tolist() == ["a.csv"]  # no rows: an error
    written = 0
    for more in (5, 1, 6):
        with file.open("a") as opened:
            opened.write(lines(table[written : written + more]))
        written += more
        watched(detector, folder, log)
    file.touch()
    rows = watched(detector, folder, log)
    assert rows.name.tolist() == ["a.csv"] + [f"a.csv:{i}" for i in range(12)]
    assert rows.error.notna().tolist() == [True] + [False] * 12
    np.testing.assert_allclose(rows.statistic[1:], detector.score(table).statistic)
    with Watch(detector, folder, log) as run:
        assert (run.totals.scored, run.totals.unreadable) == (12, 0)
    # As Parquet, whose bytes all change when rows are added.
    for count in (5, 9, 12):
        table[:count].to_parquet(folder / "b.parquet")
        rows = watched(detector, folder, log)
    assert rows.name.tolist()[13:] == [f"b.parquet:{i}" for i in range(12)]


def test_of_a_table_written_anew_is_scored_what_differs(detector: Detector, tmp_path: Path) -> None:
    folder, log = tmp_path / "in", tmp_path / "log.csv"
    folder.mkdir()
    table, other = frame(8, 1), frame(8, 2)
    table.loc[2, "b"] = np.nan
    table.to_csv(folder / "a.csv", index=False)
    assert len(watched(detector, folder, log)) == 8
    table.iloc[:3].to_csv(folder / "a.csv", index=False)  # cut: no new row
    assert len(watched(detector, folder, log)) == 8
    other.to_csv(folder / "a.csv", index=False)
    assert watched(detector, folder, log).name.tolist()[8:] == [f"a.csv:{i}" for i in range(8)]
    other.loc[5, "c"] = 9.0
    other.to_csv(folder / "a.csv", index=False)
    assert watched(detector, folder, log).name.tolist()[16:] == [f"a.csv:{i}" for i in (5, 6, 7)]
    with Watch(detector, folder, log) as run:
        assert (run.totals.scored, run.totals.unreadable) == (7 + 8 + 3, 0)


def test_a_number_cut_in_two_waits_for_the_rest(detector: Detector, tmp_path: Path) -> None:
    folder, log = tmp_path / "in", tmp_path / "log.csv"
    folder.mkdir()
    table = frame(6, 1)
    text = table.to_csv(index=False)
    cut = text[:-8]
    assert cut[-1].isdigit()
    (folder / "a.csv").write_text(cut)
    with Watch(detector, folder, log) as run:
        looks = run.batches(interval=0.02, once=True)
        assert list(looks) == []
        (folder / "a.csv").write_text(text)
        (batch,) = run.batches(interval=0.02, until_idle=0)
        assert batch.names == [f"a.csv:{i}" for i in range(6)]
        # One that stays without its end is taken as it is.
        (folder / "b.csv").write_text(text[:-1])
        (batch,) = run.batches(interval=0.02, until_idle=0)
        assert batch.names == [f"b.csv:{i}" for i in range(6)]
    rows = pd.read_csv(log)
    np.testing.assert_allclose(rows.statistic, [*detector.score(table).statistic] * 2)


def test_a_renamed_table_is_not_scored_twice_and_equal_ones_are_two(
    detector: Detector, tmp_path: Path
) -> None:
    folder, log = tmp_path / "in", tmp_path / "log.csv"
    folder.mkdir()
    frame(5, 1).to_csv(folder / "now.csv", index=False)
    assert len(watched(detector, folder, log)) == 5
    (folder / "now.csv").rename(folder / "1.csv")
    assert len(watched(detector, folder, log)) == 5
    (folder / "1.csv").rename(folder / "2.csv")
    frame(5, 2).to_csv(folder / "now.csv", index=False)
    assert watched(detector, folder, log).name.tolist()[5:] == [f"now.csv:{i}" for i in range(5)]
    # As a program that rotates its files: the name is in use again at once.
    (folder / "now.csv").rename(folder / "1.csv")
    (folder / "now.csv").write_text("a,b,c\n")
    assert watched(detector, folder, log).name.tolist()[10:] == ["now.csv"]  # no rows yet
    frame(5, 3).to_csv(folder / "now.csv", index=False)
    assert watched(detector, folder, log).name.tolist()[11:] == [f"now.csv:{i}" for i in range(5)]
    # The same readings at another time are other readings.
    (folder / "now.csv").unlink()
    frame(5, 3).to_csv(folder / "later.csv", index=False)
    rows = watched(detector, folder, log)
    assert rows.name.tolist()[16:] == [f"later.csv:{i}" for i in range(5)]
    assert len(watched(detector, folder, log)) == 21


def test_a_table_whose_copy_pauses_is_scored_when_it_is_whole(
    detector: Detector, tmp_path: Path
) -> None:
    folder, log = tmp_path / "in", tmp_path / "log.csv"
    folder.mkdir()
    frame(5, 1).to_parquet(tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    for length in (0, 40, len(data) - 1):
        (folder / "a.parquet").write_bytes(data[:length])
        for _ in range(2):  # the same bytes are told once
            watched(detector, folder, log)
    (folder / "a.parquet").write_bytes(data)
    rows = watched(detector, folder, log)
    assert rows.name.tolist() == ["a.parquet"] * 3 + [f"a.parquet:{i}" for i in range(5)]
    with Watch(detector, folder, log) as run:
        assert (run.totals.scored, run.totals.unreadable) == (5, 0)
