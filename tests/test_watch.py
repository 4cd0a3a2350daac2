"""Watching a folder: every image once, in a log that survives anything, and alarms for a drift."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from approxmass import Detector
from approxmass.cli.watch import watch
from approxmass.drift import DriftMonitor, drift_power, power_in_words
from approxmass.errors import Code
from approxmass.watch import Watch
from conftest import mistake, textures

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(watch)
COMMAND = """
import sys, typer
from approxmass.cli.watch import watch
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(watch)
app()
"""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch") / "detector"
    Detector(epochs=3).fit(textures(600)).save(folder)
    return folder


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    folder = tmp_path / "camera"
    folder.mkdir()
    return folder


def encoded(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def add(folder: Path, images: Any, start: int = 0) -> None:
    for i, image in enumerate(images, start):
        (folder / f"{i:04}.png").write_bytes(encoded(image))


def run(*words: object) -> Result:
    """Run in this process until no image comes any more."""
    given = ["--interval", 0.02, "--until-idle", 0, *words]
    return CliRunner().invoke(app, [str(word) for word in given], catch_exceptions=False)


def refused(code: Code, *words: object, named: object = "") -> None:
    with mistake(code, str(named)):
        run(*words)


def process(*words: object) -> subprocess.Popen[str]:
    given = [*words, "--interval", 0.05]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def read(log: Path) -> pd.DataFrame:
    return pd.read_csv(log) if log.suffix == ".csv" else pd.read_parquet(log)


def check_replay(log: pd.DataFrame, detector: Path, every: int = 100_000) -> None:
    """The drift in a log is bit for bit what one monitor finds in the scores of the log."""
    loaded = Detector.load(detector)
    monitor = DriftMonitor(loaded.calibration_scores, every)
    scored = log[log.error.isna()]
    steps = monitor.update(scored.statistic.to_numpy())
    np.testing.assert_array_equal(scored.drift.to_numpy().astype(float), steps.drift)
    np.testing.assert_array_equal(scored.alarm.to_numpy().astype(bool), steps.alarm)
    np.testing.assert_array_equal(scored.direction.to_numpy().astype(str), steps.direction)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_every_image_has_a_row_with_the_scores_of_score(
    suffix: str, detector: Path, camera: Path, tmp_path: Path
) -> None:
    images, log = textures(12, seed=7), tmp_path / f"log.{suffix}"
    add(camera, images[:5])
    (camera / "0002.png").write_bytes(encoded(images[2])[:60])
    (camera / ".hidden.png").write_bytes(b"")
    (camera / "notes.txt").write_text("no image")
    result = run(detector, camera, "-o", log)
    assert result.exit_code == 0, result.exception
    assert result.stderr.count("skipped: image 0002.png cannot be decoded") == 1
    (camera / "below").mkdir()
    add(camera / "below", images[5:])
    assert run(detector, camera, "-o", log, "--json", tmp_path / "facts.json").exit_code == 0
    rows = read(log)
    names = [f"{i:04}.png" for i in range(5)] + [f"below/{i:04}.png" for i in range(7)]
    assert rows.name.tolist() == names
    assert rows.columns.tolist()[-12:] == [
        *("statistic", "p_value", "is_outlier", "drift", "direction", "alarm", "error"),
        *("time", "size", "modified", "digest", "check"),
    ]
    assert rows.error.notna().tolist() == [name == "0002.png" for name in names]
    assert rows[rows.error.notna()].isna().sum(axis=1).item() == len(rows.columns) - 7
    expected = Detector.load(detector).score(np.delete(images, 2, axis=0))
    good = rows[rows.error.isna()]
    np.testing.assert_allclose(good.mass, expected.mass, rtol=1e-4)
    np.testing.assert_allclose(good.statistic, expected.statistic, rtol=1e-3, atol=1e-4)
    check_replay(rows, detector)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert (facts["scored"], facts["skipped"], facts["alarms"]) == (11, 1, [])
    assert facts["drift"] == good.drift.iloc[-1]
    # Nothing new: nothing is written.
    assert run(detector, camera, "-o", log).exit_code == 0
    pd.testing.assert_frame_equal(read(log), rows)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] != ".") == [
        *("camera", "facts.json", log.name)
    ]


def test_a_drift_raises_an_alarm_that_names_the_image_and_another_while_it_stays(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    add(camera, textures(80, seed=7))
    add(camera, textures(40, shift=1.0, seed=8), start=80)
    words = [detector, camera, "-o", tmp_path / "log.csv", "--false-alarm-every", 1000]
    result = run(*words, "--json", "-")
    assert result.exit_code == 0, result.exception
    rows = read(tmp_path / "log.csv")
    alarms = np.flatnonzero(rows.alarm)
    assert len(alarms) >= 2
    assert 80 <= alarms[0] < 95
    assert (rows.drift[rows.alarm] >= 1).all()
    assert (rows.drift[~rows.alarm] < 1).all()
    check_replay(rows, detector, 1000)
    lines = [line for line in result.stderr.splitlines() if line.startswith("drift alarm")]
    assert lines[0].startswith(
        f"drift alarm (out-of-distribution) at image {alarms[0]:04}.png, {alarms[0] + 1} images "
        "since the start; "
    )
    assert lines[0].endswith("images raise the first in 1,000 or more, on average")
    assert f"{alarms[1]:04}.png, {alarms[1] - alarms[0]} images since the last one" in lines[1]
    found = json.loads(result.stdout)["alarms"]
    assert [alarm["image"] for alarm in found] == rows.name[alarms].tolist()
    assert {alarm["direction"] for alarm in found} == {"out-of-distribution"}
    # Earlier alarms are told again in the facts of a later run, and the count goes on.
    assert json.loads(run(*words, "--json", "-").stdout)["alarms"] == found


def test_an_alarm_says_when_images_are_blander_than_the_usual(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    # Of many usual images those with the lowest scores.
    images = textures(400, seed=7)
    scores = Detector.load(detector).score(images).statistic
    add(camera, images[np.argsort(scores)[:60]])
    log = tmp_path / "log.csv"
    result = run(detector, camera, "-o", log, "--json", "-")
    rows = read(log)
    first = int(np.flatnonzero(rows.alarm)[0])
    assert rows.direction[first] == "blander"
    assert f"drift alarm (blander) at image {first:04}.png" in result.stderr
    assert json.loads(result.stdout)["alarms"][0]["direction"] == "blander"
    # A log of before there were directions is refused, and stays.
    rows.drop(columns="direction").to_csv(log, index=False)
    before = log.read_bytes()
    refused("other-run", detector, camera, "-o", log, named="earlier version")
    assert log.read_bytes() == before


def test_files_are_scored_once_nobody_writes_to_them(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    images = [encoded(image) for image in textures(6, seed=7)]
    with Watch(Detector.load(detector), camera, tmp_path / "log.csv") as watching:
        arrivals = watching._arrivals

        def look(still: float | None = None) -> list[str]:
            """A look, after which all that it finds is taken to be in the log."""
            found = arrivals.look(still)
            for file, state in found:
                arrivals.done(file, state)
            return [file for file, _ in found]

        (camera / "b.png").write_bytes(images[0])
        (camera / "a.png").write_bytes(images[1])
        (camera / "half.png").write_bytes(images[2][:50])
        assert look() == []
        with (camera / "half.png").open("ab") as file:
            file.write(images[2][50:80])
        assert look() == ["a.png", "b.png"]  # in the order of their names
        (camera / "d.png").write_bytes(images[3])
        (camera / "c.png").write_bytes(images[4])
        os.utime(camera / "c.png", (time.time() + 9,) * 2)
        with (camera / "half.png").open("ab") as file:
            file.write(images[2][80:])
        assert look() == []
        assert look() == ["d.png", "half.png", "c.png"]  # now in the order of their times
        (camera / "a.png").write_bytes(images[5])  # written over
        (camera / "d.png").unlink()
        assert look() == []
        assert look() == ["a.png"]
        assert look() == look() == []
        assert arrivals.waiting == {}
        # Not changed for so long: one look is enough.
        (camera / "e.png").write_bytes(images[3])
        assert look(60) == []
        (camera / "f.png").write_bytes(images[3])
        time.sleep(0.05)
        assert look(0.02) == ["e.png", "f.png"]


def test_a_file_that_is_copied_slowly_is_not_damaged(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    data = encoded(textures(1, seed=7)[0])

    def copy() -> None:
        with (camera / "slow.png").open("wb", buffering=0) as file:
            for i in range(0, len(data), 8):
                file.write(data[i : i + 8])
                time.sleep(0.02)

    thread = threading.Thread(target=copy)
    thread.start()
    words = [detector, camera, "-o", tmp_path / "log.csv", "--interval", 0.2, "--until-idle", 0.5]
    result = CliRunner().invoke(app, [str(word) for word in words])
    thread.join()
    assert result.exit_code == 0, result.exception
    assert read(tmp_path / "log.csv").error.isna().tolist() == [True]


def test_removed_files_and_folders_are_no_mistake(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    add(camera, textures(3, seed=7))
    (camera / "gone.png").symlink_to(tmp_path / "nowhere.png")
    log = tmp_path / "log.csv"
    assert run(detector, camera, "-o", log).exit_code == 0
    (camera / "0000.png").unlink()
    (camera / "0003.png").write_bytes(encoded(textures(1)[0]))
    assert run(detector, camera, "-o", log).exit_code == 0
    assert read(log).name.tolist() == [f"{i:04}.png" for i in range(4)]
    with Watch(Detector.load(detector), camera, log) as watching:
        batches = watching.batches(interval=0.01)
        add(camera, textures(1, seed=3), start=4)
        assert next(batches).names == ["0004.png"]
        shutil.rmtree(camera)
        with mistake("bad-source", str(camera)):
            next(batches)


def test_sigkill_loses_no_image_and_doubles_none(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    images = np.concatenate([textures(60, seed=7), textures(30, shift=1.0, seed=8)])
    logs = [tmp_path / "log.csv", tmp_path / "log.parquet"]
    words = [detector, camera, "--false-alarm-every", 1000, "-o"]
    running = [process(*words, log) for log in logs]
    try:
        for start in range(0, 90, 10):
            add(camera, images[start : start + 10], start)
            if start < 70:
                for log in logs:
                    wait_for(lambda log=log, n=start: log.exists() and rows(log) > n)  # type: ignore[misc]
        for each in running:  # while the last images are new, being scored or just in the log
            each.kill()
            assert each.wait() == -signal.SIGKILL
    finally:
        for each in running:
            each.kill()
            each.communicate()
    with logs[0].open("ab") as file:  # whether or not a row was cut in two
        file.write(b'"0089.p')
    undisturbed = tmp_path / "undisturbed.csv"
    for log in [undisturbed, *logs]:
        assert run(*words, log).exit_code == 0
        found, expected = read(log), read(undisturbed)
        assert found.name.tolist() == expected.name.tolist() == [f"{i:04}.png" for i in range(90)]
        check_replay(found, detector, 1000)
        np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(found.alarm, expected.alarm)
        assert found.alarm.sum() >= 2


def rows(log: Path) -> int:
    if log.suffix == ".csv":
        return log.read_bytes().count(b"\n") - 1
    return len(pd.read_parquet(log)) if any(log.glob("part*")) else 0


def test_a_log_cut_anywhere_goes_on_to_the_same_log(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    add(camera, textures(5, seed=7))
    (camera / "0003.png").rename(camera / '0003,"\n".png')
    (camera / "0004.png").write_bytes(b"")
    log = tmp_path / "log.csv"
    loaded = Detector.load(detector)

    def follow() -> None:
        with Watch(loaded, camera, log) as watching:
            for _ in watching.batches(interval=0.001, until_idle=0):
                pass

    follow()
    whole = log.read_bytes()
    expected = read(log)
    assert expected.name.tolist()[3] == '0003,"\n".png'
    header = whole.index(b"\n")
    for cut in [0, 1, header, header + 1, *range(header + 2, len(whole), 23)]:
        log.write_bytes(whole[:cut])
        follow()
        found = read(log)
        assert found.name.tolist() == expected.name.tolist(), cut
        np.testing.assert_allclose(found.drift, expected.drift, rtol=1e-2)
    log.write_bytes(whole + b"\0" * 99)
    follow()
    assert log.read_bytes() == whole


def test_ctrl_c_ends_with_130_and_the_log_is_whole(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    add(camera, textures(8, seed=7))
    log = tmp_path / "log.csv"
    running = process(detector, camera, "-o", log, "--json", "-")
    wait_for(lambda: log.exists() and rows(log) > 0)
    (tmp_path / "link.csv").symlink_to(log)
    for name in (log, tmp_path / "link.csv"):
        refused("in-use", detector, camera, "-o", name, named=name)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate()
    assert running.returncode == 130
    said, *rest = stderr.splitlines()
    count = len(Detector.load(detector).calibration_scores)
    assert said == f"drift: {power_in_words(count)}"
    assert json.loads(stdout)["drift_power"] == [asdict(each) for each in drift_power(count)]
    assert rest == [f"stopped; all that was scored is in {log}: repeat the command to go on"]
    assert json.loads(stdout)["scored"] == len(read(log)) == 8
    assert "8 images: going on" in run(detector, camera, "-o", log).stderr


def test_a_request_to_stop_waits_for_the_batch_under_way_and_no_longer(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    data = encoded(textures(1, seed=7)[0])
    for i in range(2100):
        (camera / f"{i:04}.png").write_bytes(data)
    log, stop = tmp_path / "log.csv", list[bool]()
    with Watch(Detector.load(detector), camera, log) as watching:
        for batch in watching.batches(interval=0.01, until_idle=0, stop=stop):
            assert rows(log) == len(batch.names) == 2048  # on the disk, whatever happens now
            stop.append(True)
        rest = watching.batches(interval=0.01, until_idle=0)
        assert [len(batch.names) for batch in rest] == [52]
    assert read(log).name.tolist() == [f"{i:04}.png" for i in range(2100)]


def test_a_parquet_log_stays_in_few_files(
    detector: Path, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("approxmass.watch.log._PART_ROWS", 10)
    log = tmp_path / "log.parquet"
    loaded = Detector.load(detector)
    for i in range(7):
        add(camera, textures(4, seed=i), start=4 * i)
        with Watch(loaded, camera, log) as watching:
            assert not any(log.glob(".*"))
            (log / ".part-000000.parquet.x1").write_bytes(b"cut")  # as after SIGKILL
            assert sum(len(b.names) for b in watching.batches(interval=0.01, until_idle=0)) == 4
    assert sorted(p.name for p in log.glob("part*")) == [f"part-00000{i}.parquet" for i in range(3)]
    check_replay(read(log), detector)
    assert len(read(log)) == 28


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_log_of_another_run_is_refused_and_stays_as_it_is(
    suffix: str, detector: Path, camera: Path, tmp_path: Path
) -> None:
    add(camera, textures(20, seed=7))
    log = tmp_path / f"log.{suffix}"
    assert run(detector, camera, "-o", log).exit_code == 0
    files = [log] if suffix == "csv" else sorted(log.iterdir())
    if suffix == "csv":
        log.write_bytes(log.read_bytes() + b"half a row")
    before = [file.read_bytes() for file in files]
    Detector(epochs=3, seed=1).fit(textures(600)).save(tmp_path / "other")
    Detector(method="gaussian").fit(textures(600)).save(tmp_path / "gaussian")
    refused("other-run", tmp_path / "other", camera, "-o", log, named=log)
    refused("other-run", detector, camera, "-o", log, "--false-alarm-every", 99_000, named=log)
    refused("other-run", tmp_path / "gaussian", camera, "-o", log, named=log)
    assert [file.read_bytes() for file in files] == before
    assert run(detector, camera, "-o", log).exit_code == 0
    if suffix == "csv":
        log.write_bytes(log.read_bytes().replace(b",false,,", b",true,,", 1))
        refused("damaged", detector, camera, "-o", log, named="edited, at row 1 (0000.png)")


def test_a_stray_quotation_mark_does_not_cut_off_the_rest_of_the_log(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    add(camera, textures(30, seed=7))
    log = tmp_path / "log.csv"
    assert run(detector, camera, "-o", log).exit_code == 0
    lines = log.read_bytes().splitlines(keepends=True)
    lines[4] = b'"' + lines[4]
    log.write_bytes(b"".join(lines))
    refused("damaged", detector, camera, "-o", log, named=log)
    assert log.read_bytes() == b"".join(lines)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_files_whose_names_are_no_text_are_told_apart(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.csv"
    for i, name in enumerate((b"\xff.png", b"\xfe.png")):
        Path(os.fsdecode(os.fsencode(camera) + b"/" + name)).write_bytes(
            encoded(textures(2, seed=7)[i])
        )
        assert run(detector, camera, "-o", log).exit_code == 0
    assert read(log).name.tolist() == [r"\xff.png", r"\xfe.png"]


def test_what_cannot_be_a_log_or_a_folder_is_named(
    detector: Path, camera: Path, tmp_path: Path
) -> None:
    add(camera, textures(3, seed=7))
    (tmp_path / "mine.csv").write_text("name,value\na,1\n")
    (tmp_path / "line.csv").write_text("no line end")
    (tmp_path / "mine.parquet").mkdir()
    (tmp_path / "mine.parquet" / "precious.txt").write_text("mine")
    (tmp_path / "bad.parquet").mkdir()
    (tmp_path / "bad.parquet" / "part-000000.parquet").write_bytes(b"PAR1")
    (tmp_path / "file.parquet").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    refusals: list[tuple[str, Code, str]] = [
        ("camera/log.csv", "would-overwrite", "camera/log.csv"),
        ("camera", "bad-option", "camera"),
        ("log.txt", "bad-option", "log.txt"),
        ("mine.csv", "other-run", "mine.csv"),
        ("line.csv", "other-run", "line.csv"),
        ("mine.parquet", "would-overwrite", "precious.txt"),
        ("bad.parquet", "damaged", "part-000000.parquet"),
        ("file.parquet", "would-overwrite", "file.parquet"),
        ("folder.csv", "would-overwrite", "folder.csv"),
        ("mine.csv/log.csv", "cannot-write", "mine.csv/log.csv"),
    ]
    for log, code, named in refusals:
        refused(code, detector, camera, "-o", tmp_path / log, named=named)
    log_to = ["-o", tmp_path / "l.csv"]
    refused("bad-source", detector, tmp_path / "absent", *log_to, named=tmp_path / "absent")
    refused("not-a-detector", camera, camera, *log_to, named=camera)
    refused("bad-option", detector, camera, *log_to, "--interval", "nan", named="interval")
    refused("bad-option", detector, camera, *log_to, "--until-idle", "nan", named="idle time")
    assert {p: p.read_bytes() for p in before} == before


def test_a_full_disk_is_one_line_and_the_log_goes_on(
    detector: Path, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(camera, textures(3, seed=7))
    log = tmp_path / "log.csv"
    assert run(detector, camera, "-o", log).exit_code == 0
    add(camera, textures(3, seed=8), start=3)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused("cannot-write", detector, camera, "-o", log, named="no space left on device")
    assert run(detector, camera, "-o", log).exit_code == 0
    assert read(log).name.tolist() == [f"{i:04}.png" for i in range(6)]
    with Watch(Detector.load(detector), camera, log) as watching:
        add(camera, textures(1, seed=9), start=6)
        log.unlink()
        with mistake("damaged", str(log)):
            next(watching.batches(interval=0.01))
    assert not log.exists()
