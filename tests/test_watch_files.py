"""Which files of a watched folder are new images: paused copies, names written again, renames."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from approxmass import Detector
from approxmass.watch import Watch
from approxmass.watch.identity import digests
from approxmass.watch.names import file_name, log_name
from test_watch import encoded


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 99, (count, 8, 8), np.uint8)


DATA = [encoded(image) for image in pictures(40, 1)]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(method="gaussian").fit(pictures(200, 0))


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    folder = tmp_path / "camera"
    folder.mkdir()
    return folder


Follow = Callable[[], list[str]]


@pytest.fixture(params=["one run", "a run each time"])
def follow(
    request: pytest.FixtureRequest, detector: Detector, camera: Path, tmp_path: Path
) -> Follow:
    """Look until nothing moves; returns the names of new rows, those of errors with a mark.

    Afterwards the log holds to what it said before, and its totals to what a reader counts.
    """
    log = tmp_path / "log.csv"
    kept: list[Watch] = []

    def once() -> list[str]:
        before = log.read_bytes() if log.exists() else b""
        if not kept or request.param != "one run":
            kept[:] = [Watch(detector, camera, log)]
            kept[0].__enter__()
        names = []
        for batch in kept[0].batches(interval=0.02, until_idle=0):
            bad = {name for name, _ in batch.unreadable}
            names += [name + "!" * (name in bad) for name in batch.names]
        totals = kept[0].totals
        if request.param != "one run":
            kept[0].__exit__()
        assert log.read_bytes().startswith(before)
        rows = pd.read_csv(log)
        assert totals.scored == rows.error.isna().sum()
        last = rows.groupby("name").tail(1)
        assert totals.unreadable == last.error.notna().sum()
        return names

    return once


def test_a_copy_that_pauses_ends_as_one_scored_row(follow: Follow, camera: Path) -> None:
    for length in (0, 30, len(DATA[0]) - 4):
        (camera / "a.png").write_bytes(DATA[0][:length])
        assert follow() == ["a.png!"]
        assert follow() == []
    (camera / "a.png").write_bytes(DATA[0])
    assert follow() == ["a.png"]
    with (camera / "a.png").open("ab") as file:
        file.write(b"what comes behind an image is no other image")
    assert follow() == follow() == []


def test_a_name_written_again_is_a_new_row(follow: Follow, camera: Path) -> None:
    latest = camera / "latest.png"
    for data in DATA[:3]:
        latest.write_bytes(data)
        assert follow() == ["latest.png"]
    latest.write_bytes(b"no image")
    assert follow() == ["latest.png!"]
    latest.write_bytes(DATA[0])  # as once before, but later
    assert follow() == ["latest.png"]
    latest.write_bytes(DATA[0])
    os.utime(latest, (1e9, 1e9))
    assert follow() == []


def test_a_file_of_the_same_size_and_time_is_noticed_while_it_is_followed(
    detector: Detector, camera: Path, tmp_path: Path
) -> None:
    latest, images = camera / "latest.bmp", pictures(2, 5)
    with Watch(detector, camera, tmp_path / "log.csv") as run:
        for image in images:
            Image.fromarray(image).save(tmp_path / "new.bmp")
            os.utime(tmp_path / "new.bmp", (1e9, 1e9))
            (tmp_path / "new.bmp").rename(latest)
            found = [batch.names for batch in run.batches(interval=0.02, until_idle=0)]
            assert found == [["latest.bmp"]]


def test_a_renamed_file_is_not_scored_twice(follow: Follow, camera: Path) -> None:
    for i in range(4):
        (camera / f"{i}.png").write_bytes(DATA[i])
    (camera / "bad.png").write_bytes(b"no image")
    assert follow() == ["0.png", "1.png", "2.png", "3.png", "bad.png!"]
    (camera / "0.png").rename(camera / "new.png")
    (camera / "below").mkdir()
    (camera / "1.png").rename(camera / "below" / "1.png")
    (camera / "bad.png").rename(camera / "worse.png")
    (camera / "2.png").rename(camera / "swap")
    (camera / "3.png").rename(camera / "2.png")
    (camera / "swap").rename(camera / "3.png")
    assert follow() == follow() == []
    shutil.copyfile(camera / "new.png", camera / "newer.png")  # moved between disks
    (camera / "new.png").unlink()
    assert follow() == []
    shutil.copy2(camera / "newer.png", camera / "newest.png")
    assert follow() == ["newest.png"]  # both are there


def test_pictures_that_move_on_a_name_when_the_next_comes(follow: Follow, camera: Path) -> None:
    names = [camera / name for name in ("latest.png", "1.png", "2.png", "3.png")]
    for data in DATA[:8]:
        for older, newer in zip(names[::-1], names[-2::-1], strict=False):
            if newer.exists():
                newer.rename(older)
        names[0].write_bytes(data)
        assert follow() == ["latest.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_look_alike_are_told_apart(follow: Follow, camera: Path) -> None:
    for i, name in enumerate([rb"\xff.png", b"\xff.png", rb"\\xff.png", b'a\r\n".png']):
        Path(os.fsdecode(os.fsencode(camera) + b"/" + name)).write_bytes(DATA[i])
        assert follow() == [log_name(os.fsdecode(name))]
        assert follow() == []


@given(st.binary(min_size=1, max_size=20))
def test_a_name_in_the_log_is_that_of_one_file(name: bytes) -> None:
    file = os.fsdecode(name.replace(b"\0", b"x"))
    shown = log_name(file)
    shown.encode()
    parts = file.split("/")
    if all(part and not part.startswith(".") for part in parts):
        assert file_name(shown) == file
    else:
        with pytest.raises(ValueError, match="no file in a folder"):
            file_name(shown)


@pytest.mark.parametrize("name", [r"a\b.png", r"\xFF.png", r"\x41.png", "a\0.png", "", "/a.png"])
def test_a_name_that_no_file_has_in_a_log_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no file in a folder"):
        file_name(name)


def test_what_is_no_file_is_told_once_and_tried_again(follow: Follow, camera: Path) -> None:
    os.mkfifo(camera / "a.png")
    assert follow() == ["a.png!"]
    assert follow() == []
    (camera / "a.png").unlink()
    (camera / "a.png").write_bytes(DATA[0])
    assert follow() == ["a.png"]


def test_a_file_that_changes_while_it_is_read_waits(
    detector: Detector, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (camera / "a.png").write_bytes(DATA[0])
    (camera / "b.png").write_bytes(DATA[1])
    with Watch(detector, camera, tmp_path / "log.csv") as run:
        found = []

        def late(path: str, first: int) -> tuple[bytes, bytes]:
            both = digests(path, first)
            if path.endswith("a.png") and not found:
                time.sleep(0.02)
                (camera / "a.png").write_bytes(DATA[2])
                found.append("a.png was written")
            return both

        monkeypatch.setattr("approxmass.watch.images.digests", late)
        for batch in run.batches(interval=0.02, until_idle=0):
            found += batch.names
    assert found == ["a.png was written", "b.png", "a.png"]
    rows = pd.read_csv(tmp_path / "log.csv").set_index("name")
    (tmp_path / "2.png").write_bytes(DATA[2])
    assert rows.digest["a.png"] == digests(str(tmp_path / "2.png"), 0)[0].hex()
    expected = detector.score(str(tmp_path / "2.png")).statistic
    np.testing.assert_allclose(rows.statistic["a.png"], expected)


def test_a_look_opens_only_what_is_new(
    detector: Detector, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def noted(path: str, first: int) -> tuple[bytes, bytes]:
        opened.append(os.path.basename(path))
        return digests(path, first)

    monkeypatch.setattr("approxmass.watch.images.digests", noted)
    for i in range(30):
        (camera / f"{i:02}.png").write_bytes(DATA[i])
    for wanted in ([f"{i:02}.png" for i in range(30)], ["07.png"], []):
        with Watch(detector, camera, tmp_path / "log.csv") as run:
            for _ in range(3):
                list(run.batches(interval=0.02, until_idle=0))
        assert opened == wanted
        opened.clear()
        if len(wanted) > 1:
            (camera / "07.png").write_bytes(DATA[35])


@pytest.mark.parametrize("kept", range(8))
def test_a_run_goes_on_within_the_pages_of_a_file(camera: Path, tmp_path: Path, kept: int) -> None:
    paged = Detector(method="gaussian", pages=True).fit(pictures(200, 0))
    for i in range(2):
        frames = [Image.fromarray(each) for each in pictures(3, i)]
        frames[0].save(camera / f"{i}.tif", save_all=True, append_images=frames[1:])
    log = tmp_path / "log.csv"
    names = [f"{i}.tif{page}" for i in range(2) for page in ("", "#2", "#3")]

    def follow() -> list[str]:
        with Watch(paged, camera, log) as run:
            found = [batch.names for batch in run.batches(interval=0.02, until_idle=0)]
            assert run.totals.scored == len(names)
        return [name for names in found for name in names]

    assert follow() == names
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:kept]))
    assert follow() == names[max(0, kept - 1) :]
    assert pd.read_csv(log).name.tolist() == names
