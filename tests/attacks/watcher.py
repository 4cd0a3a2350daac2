"""Attacks on `watch`: files that pause, come again and move, logs cut and damaged, kills.

    python tests/attacks/watcher.py FILE.json [REPETITIONS]

After each repetition every image that came must be in the log as scored once: that is counted by
the digests of what was written, not by names. A log that another program has changed must not be
written to, and one that is damaged must be refused in one line, or gone on with to a log in which
every image is once. 100 repetitions of each attack, fewer of those that take long. Runs add up in
the file, each with the next seeds; one that finds something leaves with 1.
"""

__all__: list[str] = []

import contextlib
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from PIL import Image
from watcher_alarms import alarms_told

from approxmass import Detector
from approxmass.errors import ApproxMassError
from approxmass.storage.atomic import write_json
from approxmass.watch import Watch
from approxmass.watch.names import file_name, log_name

REPETITIONS, MANY = 100, 20_000
INTERVAL = 0.02


class Place:
    """A folder with a log beside it, what was written there, and what is wrong with it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.camera, self.log = folder / "camera", folder / "log.csv"
        self.camera.mkdir()
        self.written: list[bytes] = []  # every image, in bytes
        self.wrong: list[str] = []
        self.kept: Watch | None = None

    def picture(self, kind: str = "png") -> bytes:
        """Another image, which is to be scored once."""
        image = Image.fromarray(self.noise.integers(0, 99, (8, 8), np.uint8))
        file = io.BytesIO()
        image.save(file, kind)
        self.written.append(file.getvalue())
        return file.getvalue()

    def follow(self, detector: Detector) -> None:
        """Look until nothing moves: in the run that is open, or in another, by chance."""
        if self.kept is not None and self.chance.random() < 0.5:
            self.end()
        if self.kept is None:
            self.kept = Watch(detector, self.camera, self.log)
            self.kept.__enter__()
        for _ in self.kept.batches(interval=INTERVAL, until_idle=0):
            pass

    def end(self) -> None:
        if self.kept is not None:
            self.kept.__exit__()
        self.kept = None

    def account(self) -> None:
        """What is not in the log as scored once."""
        self.end()
        rows = [row for row in read(self.log) if row["error"] is None]
        found = Counter(row["digest"] for row in rows)
        wanted = Counter(digest(data) for data in self.written)
        for each in found | wanted:
            if found[each] != wanted[each]:
                names = [row["name"] for row in rows if row["digest"] == each]
                self.wrong.append(f"scored {found[each]} times, not {wanted[each]}: {names}")


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read(log: Path) -> list[dict[str, Any]]:
    data = log.read_bytes()
    if b"\0" in data:
        return [{"error": None, "digest": "NUL", "name": "NUL"}]
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    nothing = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    rows: list[dict[str, Any]] = pyarrow.csv.read_csv(
        pa.BufferReader(data), parse_options=options, convert_options=nothing
    ).to_pylist()
    return rows


def paused(place: Place, detector: Detector) -> None:
    """A copy that pauses for longer than the interval, up to three times."""
    data = place.picture(place.chance.choice(["png", "jpeg", "tiff"]))
    for cut in sorted(place.chance.choices(range(len(data)), k=place.chance.randint(1, 3))):
        (place.camera / "a.png").write_bytes(data[:cut])
        place.follow(detector)
    (place.camera / "a.png").write_bytes(data)
    place.follow(detector)


def overwritten(place: Place, detector: Detector) -> None:
    """A camera's latest.jpg, written over in place or by a rename."""
    latest = place.camera / "latest.jpg"
    for _ in range(4):
        data = place.picture("jpeg")
        if place.chance.random() < 0.5:
            latest.write_bytes(data)
        else:
            (place.camera / ".new").write_bytes(data)
            (place.camera / ".new").rename(latest)
        place.follow(detector)


def renamed(place: Place, detector: Detector) -> None:
    """Files that move: to another name or folder, in a circle, on by one when the next comes."""
    folders = [place.camera, place.camera / "old"]
    folders[1].mkdir()
    files = [place.camera / f"{i}.png" for i in range(5)]
    for file in files:
        file.write_bytes(place.picture())
    place.follow(detector)
    for step in range(4):
        what = place.chance.choice(["one", "circle", "on"])
        if what == "one":
            number = place.chance.randrange(len(files))
            target = place.chance.choice(folders) / f"new{step}.png"
            files[number] = files[number].rename(target)
        elif what == "circle":
            beside = [file.rename(file.with_suffix(".moved")) for file in files]
            for moved, file in zip(beside, [*files[1:], files[0]], strict=True):
                moved.rename(file)
        else:
            shutil.move(files[-1], place.camera / f"last{step}.png")
            for older, newer in zip(files[::-1], files[-2::-1], strict=False):
                newer.rename(older)
            files[0].write_bytes(place.picture())
        place.follow(detector)


def twins(place: Place, detector: Detector) -> None:
    """Names of bytes that are no text, and the names that these are shown by."""
    odd = bytes(place.chance.choices([0xFF, 0x80, 0xC3, 0x5C, 0x78, 0x0A, 0x22, 0x2C], k=4))
    shown = odd.decode(errors="backslashreplace").encode()
    names = {name + b".png" for name in (odd, shown, log_name(os.fsdecode(odd)).encode())}
    came = sorted(names)
    place.chance.shuffle(came)
    for name in came:
        with open(os.fsencode(place.camera) + b"/" + name, "wb") as file:
            file.write(place.picture())
        if place.chance.random() < 0.5:
            place.follow(detector)
    place.follow(detector)
    told = {os.fsencode(file_name(row["name"])) for row in read(place.log)}
    if told != names:
        place.wrong.append(f"names {names} are told as {told}")


def cut_to_zero(place: Place, detector: Detector) -> None:
    """A log that is emptied, cut, removed or replaced while the folder is followed."""
    for i in range(3):
        (place.camera / f"{i}.png").write_bytes(place.picture())
    place.follow(detector)
    how = place.chance.choice(["emptied", "emptied", "cut", "removed", "replaced"])
    if how in ("emptied", "cut"):
        size = place.log.stat().st_size
        os.truncate(place.log, 0 if how == "emptied" else place.chance.randrange(size))
    elif how == "removed":
        place.log.unlink()
    else:
        (place.log.parent / "new").write_bytes(b"of another program")
        (place.log.parent / "new").rename(place.log)
    before = place.log.read_bytes() if place.log.exists() else None
    (place.camera / "3.png").write_bytes(place.picture())
    assert place.kept is not None
    try:
        list(place.kept.batches(interval=INTERVAL, until_idle=0))
        place.wrong.append(f"a log that was {how} was written to")
    except ApproxMassError as error:
        if (place.log.read_bytes() if place.log.exists() else None) != before or "\n" in str(error):
            place.wrong.append(f"a log that was {how}: {error}")
    place.end()
    if how == "replaced":
        place.log.unlink()
    place.follow(detector)


def damage(data: bytes, chance: random.Random) -> bytes:
    """A log damaged in one of several ways, one of which changes nothing of it."""
    lines = data.splitlines(keepends=True)
    i, j = chance.randrange(len(lines)), chance.randrange(len(lines))
    place = chance.randrange(len(data))
    edited = [
        b"".join([*lines[:i], lines[j], *lines[i:]]),
        b"".join([*lines[:i], *lines[i + 1 :]]),
        b"".join([*lines[:i], lines[j], *lines[i + 1 :]]),
        data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :],
        data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :],
        data[:place] + b"\0" * chance.randrange(1, 40) + data[place:],
        data[:place],
        data + chance.randbytes(chance.randrange(1, 99)),
        data[:place] + data[place + chance.randrange(1, 60) :],
    ]
    return chance.choice(edited)


def damaged(place: Place, detector: Detector) -> None:
    """A log that is damaged between two runs, up to ten times, each from what was whole."""
    for i in range(5):
        (place.camera / f"{i}.png").write_bytes(place.picture())
    (place.camera / "bad.png").write_bytes(b"no image")
    place.follow(detector)
    place.end()
    whole = place.log.read_bytes()
    for _ in range(10):
        broken = damage(whole, place.chance)
        place.log.write_bytes(broken)
        try:
            place.follow(detector)
        except ApproxMassError as error:
            place.kept = None
            if place.log.read_bytes() != broken or "\n" in str(error):
                place.wrong.append(f"a damaged log: {error}")
            place.log.write_bytes(whole)
        else:
            place.account()


def killed(place: Place, detector: Detector) -> None:
    """A run that is killed at random moments while files come, pause, come again and move."""
    writer = busy(place, 30)
    for _ in range(4):
        with child(place, detector) as pid:
            end = time.monotonic() + place.chance.uniform(0.02, 0.3)
            while time.monotonic() < end:
                next(writer, None)
            os.kill(pid, signal.SIGKILL)
    for _ in writer:
        pass
    place.follow(detector)


def many(place: Place, detector: Detector) -> dict[str, float]:
    """20,000 files while the run that follows is killed now and then, and started again."""
    writer = busy(place, MANY)
    done = False
    while not done:
        with child(place, detector) as pid:
            end = time.monotonic() + place.chance.uniform(4, 12)
            while time.monotonic() < end and not done:
                done = next(writer, None) is None
            os.kill(pid, signal.SIGKILL)
    before, began = memory(), time.monotonic()
    with Watch(detector, place.camera, place.log) as run:
        opened = time.monotonic() - began
        list(run.batches(interval=INTERVAL, until_idle=0))
        looks = []
        for _ in range(5):
            began = time.monotonic()
            run._arrivals.look()
            looks.append(time.monotonic() - began)
    return {
        "seconds to open the log": round(opened, 2),
        "seconds of a look": round(min(looks), 3),
        "MiB of what is known": memory() - before,
    }


def memory() -> int:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def busy(place: Place, count: int) -> Iterator[int]:
    """So many images, as a camera and its programs may leave them, step by step."""
    cameras = [place.camera / f"latest{i}.png" for i in range(3)]
    paused: list[tuple[Path, bytes, float]] = []
    written: list[Path] = []
    for number in range(count):
        data, what = place.picture(), place.chance.random()
        file = place.camera / f"{number:05}.png"
        if what < 0.02:  # its copy pauses
            cut = place.chance.randrange(len(data))
            file.write_bytes(data[:cut])
            paused.append((file, data, time.monotonic() + place.chance.uniform(0, 0.3)))
        elif what < 0.03:  # once the one before is in the log, or there is none
            latest = place.chance.choice(cameras)
            before = digest(latest.read_bytes()) if latest.exists() else ""
            while before and before.encode() not in logged(place.log):
                yield number
                time.sleep(0.01)
            latest.write_bytes(data)
        else:
            file.write_bytes(data)
            written.append(file)
        if what > 0.99 and written:
            older = place.chance.choice(written)
            older.rename(place.camera / f"moved{number:05}.png")
            written.remove(older)
        while paused and (paused[0][2] < time.monotonic() or number == count - 1):
            file, data, _ = paused.pop(0)
            file.write_bytes(data)
        yield number


def logged(log: Path) -> bytes:
    """The last of what is in a log."""
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(-min(1 << 23, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return file.read()


@contextlib.contextmanager
def child(place: Place, detector: Detector) -> Iterator[int]:
    """A process that follows the folder until it is killed."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException), Watch(detector, place.camera, place.log) as run:
            for _ in run.batches(interval=INTERVAL):
                pass
        os._exit(1)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            place.wrong.append("the run ended by itself")


def tables(place: Place, detector: Detector) -> None:
    """A table that grows, cut anywhere for a while, and is renamed when the next begins."""
    wanted, waited = [], 0
    for day in range(2):
        now = place.camera / "now.csv"
        values = place.noise.normal(size=(9, 3))
        text = "a,b,c\n" + "".join(",".join(map(str, row)) + "\n" for row in values.tolist())
        for cut in sorted(place.chance.sample(range(6, len(text)), 3)):
            now.write_text(text[:cut])
            waits = place.chance.random() < 0.5
            if text[cut - 1] == "\n" or waits:  # a number cut in two is waited for, ten looks long
                waited += text[cut - 1] != "\n"
                place.follow(detector)
        now.write_text(text)
        place.follow(detector)
        wanted += [digest(values[: i + 1].tobytes()) for i in range(len(values))]
        now.rename(place.camera / f"day{day}.csv")
        place.follow(detector)
    place.end()
    found = Counter(row["digest"] for row in read(place.log) if row["error"] is None)
    if any(found[each] != 1 for each in wanted) or found.total() > len(wanted) + waited:
        place.wrong.append(f"{found.total()} rows of {len(wanted)} and {waited} that were cut")


ATTACKS: dict[str, Callable[[Place, Detector], Any]] = {
    "a copy that pauses": paused,
    "latest.jpg written over": overwritten,
    "renames": renamed,
    "names that look alike": twins,
    "a log cut to zero, cut, removed or replaced": cut_to_zero,
    "damaged logs, ten each": damaged,
    "killed while files come": killed,
    "tables that grow and are renamed": tables,
    "alarms, a receiver that fails and kills": alarms_told,
    "20,000 files, pauses, overwrites, renames and kills": many,
}
# Those that take longer, in a run.
AT_MOST = dict(zip([*ATTACKS][-4:], (40, 30, 15, 1), strict=True))


def main() -> int:
    target = Path(sys.argv[1])
    repetitions = int(sys.argv[2]) if len(sys.argv) > 2 else REPETITIONS
    facts = json.loads(target.read_text()) if target.exists() else {"attacks": {}}
    facts["command"] = "python tests/attacks/watcher.py FILE.json"
    images = np.random.default_rng(0).integers(0, 99, (200, 8, 8), np.uint8)
    of_images = Detector(method="gaussian").fit(images)
    rows = pa.table(dict(zip("abc", np.random.default_rng(0).normal(size=(3, 200)), strict=True)))
    of_rows = Detector(calibration="holdout").fit(rows)
    for name, attack in ATTACKS.items():
        entry = facts["attacks"].setdefault(
            name, {"repetitions": 0, "images": 0, "seconds": 0.0, "findings": 0, "found": []}
        )
        began = time.monotonic()
        for _ in range(min(repetitions, AT_MOST.get(name, repetitions))):
            once(attack, of_rows if attack is tables else of_images, entry)
        entry["seconds"] = round(entry["seconds"] + time.monotonic() - began, 1)
        for key in ("repetitions", "findings"):
            facts[key] = sum(each[key] for each in facts["attacks"].values())
        write_json(target, facts)
        print(name, {key: entry[key] for key in ("repetitions", "images", "findings")}, flush=True)
    print(f"{facts['repetitions']:,} repetitions in all, {facts['findings']} findings")
    return 1 if facts["findings"] else 0


def once(
    attack: Callable[[Place, Detector], Any], detector: Detector, entry: dict[str, Any]
) -> None:
    """One repetition, whose seed is how many there were."""
    seed = entry["repetitions"]
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), seed)
        try:
            measured = attack(place, detector)
            if place.written:
                place.account()
        except Exception as error:
            place.wrong.append(f"{type(error).__name__}: {error}")
            place.kept = None
        entry["repetitions"] += 1
        entry["images"] += len(place.written)
        entry["findings"] += len(place.wrong)
        entry["found"] = [*entry["found"], *(f"seed {seed}: {each}" for each in place.wrong)][:20]
        if measured:
            entry["last"] = measured


if __name__ == "__main__":
    sys.exit(main())
