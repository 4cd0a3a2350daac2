"""`--on-alarm` tells every alarm at least once, whatever its receiver does; `--once` ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from approxmass import Detector
from approxmass.watch import AlarmSender, Watch
from conftest import mistake
from test_watch import app, encoded, run, wait_for
from test_watch_files import DATA, pictures

KEEP = """
import sys
with open(sys.argv[1], "ab") as file:
    file.write(sys.stdin.buffer.read())
sys.exit(int(sys.argv[2]))
"""


class Receiver:
    """Answers each alarm as it is told: a status, "hang", "close" or "drip"; then with 200."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.got: list[dict[str, Any]] = []  # that were answered with 200
        self.asked = 0
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked += 1
                answer = outer.answers.pop(0) if outer.answers else 200
                if answer == "hang":
                    outer.over.wait(60)
                if answer == "drip":
                    for _ in range(600):
                        self.wfile.write(b"H")
                        if outer.over.wait(0.1):
                            break
                if isinstance(answer, str):
                    return
                if answer == 200:
                    assert self.headers["Content-Type"] == "application/json"
                    outer.got.append(json.loads(body))
                self.send_response(answer)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}/alarms?to=me"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("alarms") / "detector"
    Detector(method="gaussian").fit(pictures(200, 0)).save(place)
    return place


@pytest.fixture(scope="module")
def detector(saved: Path) -> Detector:
    return Detector.load(saved)


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    folder = tmp_path / "camera"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_POST", 0.5), ("_FIRST_WAIT", 0.05), ("_COMMAND", 2.0), ("_LAST", 3.0)):
        monkeypatch.setattr(f"approxmass.watch.alarms.{name}", seconds)


def outliers(camera: Path, count: int, start: int = 0) -> None:
    for i in range(start, start + count):
        image = np.random.default_rng(i).integers(150, 256, (8, 8), np.uint8)
        (camera / f"out{i:03}.png").write_bytes(encoded(image))


def follow(detector: Detector, camera: Path, log: Path, target: str | None, **times: Any) -> Watch:
    facts = {"detector": "d", "folder": str(camera)}
    sender = None if target is None else AlarmSender(target, facts)
    with Watch(detector, camera, log, 100, sender) as watching:
        for _ in watching.batches(interval=0.02, **(times or {"until_idle": 0})):
            pass
    return watching


def test_each_alarm_is_told_with_what_there_is_to_know(
    detector: Detector, camera: Path, tmp_path: Path, receiver: Receiver
) -> None:
    outliers(camera, 30)
    log = tmp_path / "log.csv"
    watching = follow(detector, camera, log, receiver.address)
    assert watching.unsent == 0
    alarms = watching.totals.alarms
    assert len(alarms) >= 3
    same = {"detector": "d", "folder": str(camera)}
    assert receiver.got == [same | asdict(alarm) for alarm in alarms]
    rows = pd.read_csv(log)
    raised = rows[rows.alarm.astype(bool)]
    for column, key in (("name", "image"), ("drift", "drift"), ("time", "time"), ("check", "id")):
        assert [alarm[key] for alarm in receiver.got] == raised[column].tolist()
    assert {alarm["direction"] for alarm in receiver.got} == {"out-of-distribution"}
    images = [alarm["images"] for alarm in receiver.got]
    assert np.cumsum(images).tolist() == (np.flatnonzero(rows.alarm) + 1).tolist()
    # None of them again, and those that come.
    outliers(camera, 10, start=30)
    again = follow(detector, camera, log, receiver.address)
    assert again.totals.alarms[: len(alarms)] == alarms
    assert receiver.got == [same | asdict(alarm) for alarm in again.totals.alarms]


@pytest.mark.parametrize("trouble", [500, 404, 302, "hang", "close", "drip"])
def test_a_receiver_that_fails_is_tried_again(
    detector: Detector, camera: Path, tmp_path: Path, receiver: Receiver, trouble: Any
) -> None:
    outliers(camera, 30)
    receiver.answers = [trouble, 200, trouble, trouble]
    sender = AlarmSender(receiver.address, {})
    with Watch(detector, camera, tmp_path / "log.csv", 100, sender) as watching:
        list(watching.batches(interval=0.02, until_idle=0))
        wait_for(lambda: len(receiver.got) == len(watching.totals.alarms))
    assert watching.unsent == 0
    assert [each["id"] for each in receiver.got] == [a.id for a in watching.totals.alarms]
    assert receiver.asked == len(receiver.got) + 3


def test_what_is_not_sent_is_sent_by_the_next_run(
    detector: Detector, camera: Path, tmp_path: Path, receiver: Receiver
) -> None:
    outliers(camera, 30)
    log = tmp_path / "log.csv"
    receiver.answers = [200, *[503] * 99]
    watching = follow(detector, camera, log, receiver.address)
    alarms = [alarm.id for alarm in watching.totals.alarms]
    assert watching.unsent == len(alarms) - 1 >= 2
    assert follow(detector, camera, log, None).unsent == 0  # asked for nothing, sent nothing
    assert [each["id"] for each in receiver.got] == alarms[:1]
    receiver.answers = []
    follow(detector, camera, log, receiver.address)
    assert [each["id"] for each in receiver.got] == alarms
    follow(detector, camera, log, receiver.address)
    assert [each["id"] for each in receiver.got] == alarms


def test_scoring_does_not_wait_for_the_receiver(
    detector: Detector, camera: Path, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answers = ["hang"] * 99
    outliers(camera, 30)
    log = tmp_path / "log.csv"
    sender = AlarmSender(receiver.address, {})
    with Watch(detector, camera, log, 100, sender) as watching:
        looks = watching.batches(interval=0.02)
        assert len(next(looks).alarms) >= 3
        wait_for(lambda: receiver.asked > 0)
        asked = receiver.asked
        for i in range(5):  # each is in the log while the first alarm hangs
            (camera / f"in{i}.png").write_bytes(DATA[i])
            assert next(looks).names == [f"in{i}.png"]
        assert receiver.asked <= asked + 2
        assert receiver.got == []


def test_alarms_of_before_anybody_asked_are_not_sent(
    detector: Detector, camera: Path, tmp_path: Path, receiver: Receiver
) -> None:
    outliers(camera, 30)
    log = tmp_path / "log.csv"
    before = len(follow(detector, camera, log, None).totals.alarms)
    follow(detector, camera, log, receiver.address)
    assert receiver.got == []
    outliers(camera, 30, start=30)
    alarms = follow(detector, camera, log, receiver.address).totals.alarms
    assert [each["id"] for each in receiver.got] == [alarm.id for alarm in alarms[before:]] != []
    # Of a log begun anew all are.
    log.unlink()
    alarms = follow(detector, camera, log, receiver.address).totals.alarms
    assert [each["id"] for each in receiver.got[-len(alarms) :]] == [each.id for each in alarms]
    (tmp_path / ".log.csv.alarms.json").write_text("{")
    with mistake("damaged", ".log.csv.alarms.json"):
        follow(detector, camera, log, receiver.address)


def test_sigkill_between_an_alarm_and_its_sending_loses_none(
    saved: Path, camera: Path, tmp_path: Path, receiver: Receiver
) -> None:
    log = tmp_path / "log.csv"
    words = ["watch", saved, camera, "-o", log, "--interval", "0.05", "--false-alarm-every", "100"]
    command = [sys.executable, "-m", "approxmass", *map(str, words), "--on-alarm", receiver.address]
    receiver.answers = [200, 200, "hang"]
    outliers(camera, 30)
    running = subprocess.Popen(command, stdout=-1, stderr=-1)
    try:
        wait_for(lambda: receiver.asked == 3)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == -signal.SIGKILL
    rows = pd.read_csv(log)
    alarms = rows.check[rows.alarm.astype(bool)].tolist()
    told = [each["id"] for each in receiver.got]
    assert told == alarms[:2] != alarms
    done = subprocess.run([*command, "--once"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [each["id"] for each in receiver.got]
    assert list(dict.fromkeys(told)) == alarms
    assert len(told) <= len(alarms) + 1  # one may have come twice


def test_a_command_gets_the_alarm_on_its_standard_input_and_no_shell(
    detector: Detector, camera: Path, tmp_path: Path
) -> None:
    (tmp_path / "keep.py").write_text(KEEP)
    outliers(camera, 30)
    log, got = tmp_path / "log.csv", tmp_path / "a file; touch here"
    keep = f"{sys.executable} '{tmp_path / 'keep.py'}' '{got}'"
    watching = follow(detector, camera, log, f"{keep} 3 && touch {tmp_path / 'there'} $(date)")
    alarms = [alarm.id for alarm in watching.totals.alarms]
    assert watching.unsent == len(alarms)
    got.unlink()
    assert follow(detector, camera, log, f"{keep} 0").unsent == 0
    assert [json.loads(line)["id"] for line in got.read_text().splitlines()] == alarms
    assert not (tmp_path / "there").exists()
    assert {each.name for each in tmp_path.iterdir() if each.name[0] != "."} == {
        *("camera", "keep.py", "log.csv", "a file; touch here")
    }


def test_a_command_that_does_not_end_is_ended_with_what_it_started(
    detector: Detector, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("approxmass.watch.alarms._COMMAND", 0.5)
    outliers(camera, 10)
    pids = tmp_path / "pids"
    script = tmp_path / "slow.sh"
    script.write_text(f"sleep 600 & echo $! >> {pids}; wait\n")
    watching = follow(detector, camera, tmp_path / "log.csv", f"sh {script}", until_idle=1)
    assert watching.unsent > 0

    def gone(pid: int) -> bool:
        status = Path(f"/proc/{pid}/status")
        return not status.exists() or "zombie" in status.read_text()

    for pid in map(int, pids.read_text().split()):
        wait_for(lambda pid=pid: gone(pid))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("no-such-command --at-all", "no-such-command"),
        ("", "without a name"),
        ("sh -c 'unclosed", "quotation"),
        ("http://", "is no web address"),
        ("https://host:99999/", "is no web address"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_anything_is_done(
    saved: Path, camera: Path, tmp_path: Path, target: str, named: str
) -> None:
    with mistake("bad-option", named):
        run(saved, camera, "-o", tmp_path / "log.csv", "--on-alarm", target)
    assert not (tmp_path / "log.csv").exists()


def once(saved: Path, camera: Path, log: Path, *more: object) -> Result:
    words = [saved, camera, "-o", log, "--once", "--false-alarm-every", 100, "--json", "-", *more]
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_once_scores_what_is_complete_and_ends(saved: Path, camera: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    outliers(camera, 30)
    (camera / "slow.png").write_bytes(b"")
    growing = threading.Event()

    def grow() -> None:
        while not growing.wait(0.01):
            with (camera / "slow.png").open("ab") as file:
                file.write(b"x")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        done = once(saved, camera, log, "--interval", 0.3)
    finally:
        growing.set()
        thread.join()
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["scored"], facts["skipped"], facts["alarms_not_sent"]) == (30, 0, 0)
    assert len(facts["alarms"]) >= 3  # which change nothing of the exit code
    (camera / "slow.png").write_bytes(DATA[0])
    done = once(saved, camera, log, "--interval", 0.3)
    assert json.loads(done.stdout)["scored"] == 31
    # Nothing is new, and what is old needs no second look.
    (camera / "old.png").write_bytes(DATA[1])
    time.sleep(0.05)
    done = once(saved, camera, log, "--interval", 0.02)
    assert json.loads(done.stdout)["scored"] == 32
    log.write_bytes(b"damaged")
    with mistake("other-run"):
        once(saved, camera, log)
    assert log.read_bytes() == b"damaged"


def test_once_says_what_was_not_sent_and_ends_with_0(
    saved: Path, camera: Path, tmp_path: Path
) -> None:
    outliers(camera, 30)
    closed = "http://127.0.0.1:9/"
    done = once(saved, camera, tmp_path / "log.csv", "--interval", 0.1, "--on-alarm", closed)
    count = len(json.loads(done.stdout)["alarms"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["alarms_not_sent"] == count >= 3
    lines = done.stderr.splitlines()
    assert sum("was not sent, 127.0.0.1 does not answer" in line for line in lines) == 1
    assert lines[-1].startswith(f"alarms not sent: {count}; ")


def test_once_and_an_idle_time_are_refused_together(
    saved: Path, camera: Path, tmp_path: Path
) -> None:
    with mistake("bad-option", "once ends by itself"):
        run(saved, camera, "-o", tmp_path / "log.csv", "--once")
    assert os.listdir(camera) == []
