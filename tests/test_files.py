"""Files and processes: what is written keeps its mode and leaves nothing behind, two processes do
not undo each other's work, and what cannot be read twice is refused."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from approxmass import Detector, open_images
from approxmass.cli.main import app
from approxmass.data.vectors import open_vectors
from approxmass.storage import atomic, leftovers
from approxmass.storage.atomic import replace_folder, write_atomic, write_json
from approxmass.storage.leftovers import beside, remove_leftovers
from approxmass.storage.locks import alone
from conftest import mistake

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")


@pytest.fixture(autouse=True)
def _looked() -> None:
    """A folder is looked at by each test as by a new process."""
    leftovers._LOOKED.clear()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    return generator.normal(120, 30, (count, 8, 8)).clip(0, 255).astype(np.uint8)


# --- modes and owners


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_an_output_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "x.json"
    place.write_text("old")
    place.chmod(mode)
    with write_atomic(place) as path:
        assert mode_of(path) & 0o077 & ~mode == 0  # never more open than that, while it grows
        path.write_text("new")
    assert (place.read_text(), mode_of(place)) == ("new", mode)


def test_a_folder_and_its_files_keep_their_modes(tmp_path: Path) -> None:
    place = tmp_path / "d"
    place.mkdir(mode=0o700)
    (place / "secret").write_text("old")
    (place / "secret").chmod(0o600)
    before = os.umask(0o022)
    try:
        with replace_folder(place) as fresh:
            (fresh / "secret").write_text("new")
            (fresh / "more").write_text("new")
    finally:
        os.umask(before)
    assert mode_of(place) == 0o700
    assert mode_of(place / "secret") == 0o600
    assert mode_of(place / "more") == 0o644


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_what_is_new_goes_by_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "x.json", {})
        with replace_folder(tmp_path / "d") as fresh:
            (fresh / "file").write_text("x")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "x.json") == mode_of(tmp_path / "d" / "file") == mode
    assert mode_of(tmp_path / "d") == 0o777 & ~umask


@AS_ROOT
def test_an_output_of_another_user_stays_theirs(tmp_path: Path) -> None:
    place = tmp_path / "x.json"
    place.write_text("old")
    place.chmod(0o640)
    os.chown(place, 65534, 65534)
    write_json(place, {})
    known = place.stat()
    assert (known.st_uid, known.st_gid, mode_of(place)) == (65534, 65534, 0o640)


def test_another_group_gets_no_more_than_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "x.json"
    place.write_text("old")
    place.chmod(0o664)

    def refused(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    known = os.stat_result((*place.stat()[:5], 12345, *place.stat()[6:]))
    new = tmp_path / "new"
    new.write_text("x")
    monkeypatch.setattr(os, "chown", refused)

    class Other(type(place)):  # type: ignore[misc]
        def stat(self, **_: Any) -> os.stat_result:
            return known

    atomic._like(new, Other(place))
    assert mode_of(new) == 0o644


# --- on the disk before it has its name


def test_files_and_names_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def told(what: str, function: Any) -> Any:
        def wrapped(*args: Any, **more: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{args[0]}") if what == "sync" else args[1]
            name = Path(path).name
            done.append(f"{what} {'new' if name.startswith('.') else name}")
            return function(*args, **more)

        return wrapped

    monkeypatch.setattr(os, "fsync", told("sync", os.fsync))
    monkeypatch.setattr(os, "replace", told("rename to", os.replace))
    write_json(tmp_path / "x.json", {})
    assert done == ["sync new", "rename to x.json", f"sync {tmp_path.name}"]
    done.clear()
    with replace_folder(tmp_path / "d") as fresh:
        (fresh / "a").write_text("x")
    assert done == ["sync a", "sync new", "rename to d", f"sync {tmp_path.name}"]


def test_a_disk_that_fails_at_the_last_moment_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.json").write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with mistake("cannot-write", "no space left"):
        write_json(tmp_path / "x.json", {})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.json": "old"}


# --- what killed processes leave

DIES = """
import os, sys
from pathlib import Path
from approxmass.storage.atomic import replace_folder, write_atomic
place = Path(sys.argv[1])
how = replace_folder if sys.argv[2] == "folder" else write_atomic
with how(place) as path:
    (path / "half" if path.is_dir() else path).write_text("half")
    print("written", flush=True)
    sys.stdin.read() if sys.argv[3] == "waits" else os.kill(os.getpid(), 9)
"""


def writer(place: Path, what: str, then: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", DIES, str(place), what, then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ONE_THREAD,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path, what: str) -> None:
    place = tmp_path / ("out" if what == "folder" else "out.csv")
    killed = writer(place, what, "dies")
    # Also while nobody has asked how it ended.
    time.sleep(0.1)
    assert len(hidden(tmp_path)) == 1
    if what == "folder":
        with replace_folder(place) as fresh:
            (fresh / "whole").write_text("whole")
    else:
        write_json(place, {})
    assert hidden(tmp_path) == []
    killed.communicate()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_live_process_writes_is_left_alone(tmp_path: Path, what: str) -> None:
    place = tmp_path / "out"
    living = writer(place, what, "waits")
    remove_leftovers(place)
    assert len(hidden(tmp_path)) == 1
    living.communicate("")
    assert living.returncode == 0
    assert hidden(tmp_path) == []
    assert ((place / "half") if what == "folder" else place).read_text() == "half"


def test_of_another_machine_only_what_is_old_is_removed(tmp_path: Path) -> None:
    own = beside(tmp_path / "x").name
    other = own.replace(leftovers._machine(), "00000000")
    reused = own.replace(f"-{leftovers._began(os.getpid())}-", "-1-")  # the number, not the process
    for name in (other, reused, ".x.mine", f"{own}.txt", "x"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [other, ".x.mine", f"{own}.txt", "x"]
    )
    yesterday = time.time() - 2 * 86400
    os.utime(tmp_path / other, (yesterday, yesterday))
    leftovers._LOOKED.clear()
    remove_leftovers(tmp_path / "x")
    assert not (tmp_path / other).exists()


def test_an_older_folder_that_was_put_aside_comes_back(tmp_path: Path) -> None:
    name = beside(tmp_path / "d").name.replace(f"-{os.getpid()}-", "-999999999-")
    (tmp_path / name / "old").mkdir(parents=True)
    (tmp_path / name / "old" / "file").write_text("old")
    remove_leftovers(tmp_path / "other")  # whose it is not
    assert (tmp_path / name).exists()
    leftovers._LOOKED.clear()
    remove_leftovers(tmp_path / "d")
    assert (tmp_path / "d" / "file").read_text() == "old"
    assert hidden(tmp_path) == []


def test_a_name_as_long_as_may_be(tmp_path: Path) -> None:
    place = tmp_path / ("é" * 125 + ".json")
    write_json(place, {"x": 1})
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


# --- one process at a time


def test_a_lock_of_a_killed_process_is_none(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom approxmass.storage.locks import alone\n"
        "with alone(Path(sys.argv[1]), 'fits into'):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    place = tmp_path / "d"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ONE_THREAD,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with mistake("in-use", f"another process fits into {place}"), alone(place, "fits into"):
        pass
    holder.kill()
    holder.communicate()
    assert hidden(tmp_path) == [".d.lock"]
    with alone(place, "fits into"):
        pass
    assert hidden(tmp_path) == []


def test_whoever_waits_for_a_lock_has_it_alone(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with alone(tmp_path / "d", "trains", wait=True):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert hidden(tmp_path) == []


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("inputs")
    np.save(place / "x.npy", pixels(150))
    detector = Detector("pca", components=4, epochs=1, calibration="holdout")
    detector.fit(pixels(150)).save(place / "d")
    return place


def fit_words(inputs: Path, output: Path, epochs: int) -> list[str]:
    words = ["fit", inputs / "x.npy", "-o", output, "--encoder", "pca", "--components", 4]
    return [*map(str, words), "--epochs", str(epochs), "--calibration", "holdout"]


def fitting(inputs: Path, output: Path) -> subprocess.Popen[str]:
    """A fit that goes on for long, begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "approxmass", *fit_words(inputs, output, 1000)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ONE_THREAD,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("training"):
            break
    return process


def test_two_fits_into_one_folder(inputs: Path, tmp_path: Path) -> None:
    first = fitting(inputs, tmp_path / "d")
    second = CliRunner().invoke(app, fit_words(inputs, tmp_path / "d", 1))
    assert f"another process fits into {tmp_path / 'd'}" in str(second.exception)
    assert getattr(second.exception, "code", "") == "in-use"
    calibrated = ["calibrate", str(inputs / "d"), str(inputs / "x.npy"), "-o", str(tmp_path / "d")]
    assert getattr(CliRunner().invoke(app, calibrated).exception, "code", "") == "in-use"
    first.kill()
    first.communicate()
    assert CliRunner().invoke(app, fit_words(inputs, tmp_path / "d", 1)).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]


def test_two_fits_with_one_checkpoint(inputs: Path, tmp_path: Path) -> None:
    made = Detector("pca", components=4, epochs=1, calibration="holdout")
    with alone(tmp_path / "c", "fits"), mistake("in-use", "keeps its training in"):
        made.fit(pixels(150), checkpoint=tmp_path / "c")


# --- signals


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGHUP, 129),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_a_checkpoint(
    inputs: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    running = fitting(inputs, tmp_path / "d")
    running.send_signal(number)
    _, errors = running.communicate()
    assert running.returncode == code
    assert "--resume" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["d.checkpoint.safetensors"]


@pytest.mark.slow
def test_a_hangup_that_is_ignored_stays_ignored(inputs: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        running = fitting(inputs, tmp_path / "d")
    finally:
        signal.signal(signal.SIGHUP, before)
    running.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1)
    running.kill()
    running.communicate()


# --- what cannot be read twice


@pytest.mark.parametrize("suffix", ["parquet", "npy", "npz", "csv", "png", "idx", "txt", "gz", ""])
def test_a_pipe_is_refused(inputs: Path, tmp_path: Path, suffix: str) -> None:
    pipe = tmp_path / f"pipe.{suffix}"
    os.mkfifo(pipe)
    with mistake("bad-source", "is a pipe"):
        open_images(pipe)
    with mistake("bad-source", "is a pipe"):
        open_vectors(pipe)
    for words in (
        ["score", str(inputs / "d"), str(pipe), "-o", str(tmp_path / "s.csv")],
        ["fit", str(inputs / "x.npy"), "--labels", str(pipe), "-o", str(tmp_path / "e"),
         "--method", "energy"],
    ):  # fmt: skip
        found = CliRunner().invoke(app, words)
        assert getattr(found.exception, "code", "") == "bad-source", words
        assert "is a pipe" in str(found.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == [pipe.name]


def test_a_socket_and_a_device_are_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        with mistake("bad-source", "is a socket"):
            open_images(tmp_path / "s.png")
    for device in ("/dev/zero", "/dev/null"):
        with mistake("bad-source", "is a device"):
            open_images(device)


def test_pipes_in_a_folder_a_list_and_a_table_wait_for_nobody(tmp_path: Path) -> None:
    from PIL import Image

    place = tmp_path / "in"
    place.mkdir()
    for i, image in enumerate(pixels(40)):
        Image.fromarray(image).save(place / f"{i:02}.png")
    for name in ("98.png", "99.png"):  # of one length, as copies have
        os.mkfifo(place / name)
    for source in (place, [place / f"{i}.png" for i in ("00", 98, 99)], f"{place}/*.png"):
        opened = open_images(source)
        opened.sizes()
        bad = [each for chunk in opened.chunks() for each in chunk.unreadable]
        assert all("is not a file" in reason for _, reason in bad)
        assert len(bad) == (0 if isinstance(source, str) else 2)
    assert Detector(method="gaussian").fit(place).facts.images == 40
    os.mkfifo(tmp_path / "rows.parquet")
    with mistake("bad-source", "is a pipe"):
        open_images(f"{tmp_path}/*.parquet")


def test_a_detector_of_pipes_waits_for_nobody(inputs: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("d").mkdir()
    os.mkfifo(tmp_path / "d" / "detector.json")
    with mistake("damaged"):
        Detector.load(tmp_path / "d")


@pytest.mark.parametrize("name", ["images.npy", "labels-idx1-ubyte"])
def test_no_room_is_made_for_what_a_header_only_says(tmp_path: Path, name: str) -> None:
    """A gigabyte by its header, in a process that may not have one."""
    far = b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little")
    (tmp_path / name).write_bytes(
        far if name.endswith("npy") else b"\x00\x00\x08\x01" + (2**31).to_bytes(4, "big") + b"12"
    )
    script = (
        "import resource, sys\n"
        "from approxmass import ApproxMassError, open_images\n"
        "from approxmass.data.labels import open_labels\n"
        "from approxmass.data.readers import idx, npy\n"
        "import numpy, PIL.Image\n"
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + 2**29, held + 2**29))\n"
        "for opened in (open_images, open_labels):\n"
        "    try:\n"
        "        opened(sys.argv[1])\n"
        "    except ApproxMassError as error:\n"
        "        print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / name)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"damaged", "bad-source", "bad-labels"}
    assert len(done.stdout.split()) == 2
