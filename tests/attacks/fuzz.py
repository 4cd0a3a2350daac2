"""Spoilt inputs for every reader of files and of request bodies, counted over many runs.

    python tests/attacks/fuzz.py FILE.json --inputs 1000000
    python tests/attacks/fuzz.py FILE.json --only png,csv --seconds 60
    python tests/attacks/fuzz.py --replay png:12:345 FILE      writes that input, and reads it

An input may be read or refused (`ApproxMassError`, in the server `RequestRefused`). A finding is
any other exception, more than 5 s of processor time (or 60 s in all), a peak of more than 512 MiB
above the start, or the end of the process. Each block of inputs has its seed and a process of its
own; the file is written after each, and a later run goes on from there.

Why not a fuzzer of others: see docs/security.md.
"""

__all__: list[str] = []

import argparse
import contextlib
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

# Before NumPy is there.
sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fuzz_corpus
import fuzz_readers

BLOCK = 2000
SECONDS, WALL, PEAK = 5, 60, 512 << 20
# Beyond this the machine would suffer: what asks for more is told that there is none.
MOST = 3 << 30
# Findings of one kind and place are counted, and so many of their inputs named.
NAMED = 5


class Progress:
    """What a worker has done, where its parent sees it even if it is killed."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 32)

    def tell(self, *numbers: int) -> None:
        self._shared[:32] = struct.pack("4q", *numbers)

    def told(self) -> tuple[int, int, int, int]:
        """The input at work, how many were read, how many were refused, the peak in bytes."""
        found: tuple[int, int, int, int] = struct.unpack("4q", self._shared[:32])
        return found


def input_of(reader: fuzz_corpus.Reader, block: int, place: int) -> tuple[bytes, random.Random]:
    """The input that these numbers stand for, and what else is drawn for it."""
    r = random.Random(f"{reader.name}:{block}:{place}")
    data = reader.corpus[r.randrange(len(reader.corpus))]
    return reader.spoil(data, reader.corpus, r), r


def work(
    reader: fuzz_corpus.Reader, block: int, first: int, last: int, progress: Progress, pipe: int
) -> None:
    """Read inputs; what is found goes to the pipe, a line each."""
    read = refused = 0
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST, limit))
    start = peak()
    with tempfile.TemporaryDirectory(dir=_fast()) as folder, open(pipe, "w") as found:
        for place in range(first, last):
            progress.tell(place, read, refused, peak() - start)
            data, r = input_of(reader, block, place)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WALL)
            try:
                if reader.read(data, r, Path(folder)):
                    read += 1
                else:
                    refused += 1
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)
                ours = [f for f in where if "approxmass" in f.filename] or where
                line = {
                    "place": place,
                    "kind": type(error).__name__,
                    "at": f"{Path(ours[-1].filename).name}:{ours[-1].name}",
                    "says": " ".join(str(error).split())[:200],
                }
                found.write(json.dumps(line) + "\n")
                found.flush()
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
            if peak() - start > PEAK:
                progress.tell(place, read, refused, peak() - start)
                os._exit(77)
        progress.tell(last, read, refused, peak() - start)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _fast() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def block_of(reader: fuzz_corpus.Reader, block: int, count: int) -> tuple[Counter[str], list[Any]]:
    """A block of inputs in processes of its own; its counts and findings."""
    counts: Counter[str] = Counter()
    findings, first = [], 0
    while first < count:
        progress = Progress()
        progress.tell(first, 0, 0, 0)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            status = 1
            try:
                for each in (signal.SIGPROF, signal.SIGALRM):
                    signal.signal(each, signal.SIG_DFL)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff says what it thinks
                with contextlib.redirect_stdout(None):
                    work(reader, block, first, count, progress, writing)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        with open(reading) as lines:
            findings += [json.loads(line) for line in lines]
        status = os.waitpid(child, 0)[1]
        place, read, refused, above = progress.told()
        counts.update({"read": read, "refused": refused})
        counts["peak"] = max(counts["peak"], above)
        if status == 0:
            break
        kind = {signal.SIGPROF: "hang", signal.SIGALRM: "wait"}.get(status & 127, "crash")
        kind = "peak" if os.waitstatus_to_exitcode(status) == 77 else kind
        says = f"{above >> 20} MiB" if kind == "peak" else f"status {status}"
        findings.append({"place": place, "kind": kind, "at": "", "says": says})
        first = place + 1
    return counts, findings


def add(
    facts: dict[str, Any], name: str, block: int, counts: Counter[str], found: list[Any]
) -> None:
    """Into what is known of all runs."""
    of = facts["readers"].setdefault(
        name, {"inputs": 0, "read": 0, "refused": 0, "blocks": 0, "peak_mib": 0}
    )
    of["read"] += counts["read"]
    of["refused"] += counts["refused"]
    of["inputs"] += counts["read"] + counts["refused"]
    of["inputs"] += sum(each["kind"] != "peak" for each in found)  # which was read all the same
    of["blocks"] = block + 1
    of["peak_mib"] = max(of["peak_mib"], counts["peak"] >> 20)
    for each in found:
        key = f"{name}: {each['kind']} {each['at']}".strip()
        known = facts["findings"].setdefault(key, {"count": 0, "says": each["says"], "inputs": []})
        known["count"] += 1
        if len(known["inputs"]) < NAMED:
            known["inputs"].append(f"{name}:{block}:{each['place']}")


def run(target: Path, only: list[str], inputs: int | None, seconds: float | None) -> None:
    started, facts = time.monotonic(), {"readers": {}, "findings": {}, "seconds": 0.0}
    if target.exists():
        facts = json.loads(target.read_text())
    before = facts["seconds"]
    with tempfile.TemporaryDirectory() as folder:
        known = [each for each in fuzz_readers.readers(Path(folder)) if each.corpus]
        known = [each for each in known if not only or each.name in only]
        while True:
            total = sum(of["inputs"] for of in facts["readers"].values())
            took = time.monotonic() - started
            if (inputs and total >= inputs) or (seconds and took > seconds):
                break
            # By turns: the one that is behind its share.
            reader = min(
                known, key=lambda r: facts["readers"].get(r.name, {"inputs": 0})["inputs"] / r.share
            )
            block = facts["readers"].get(reader.name, {"blocks": 0})["blocks"]
            count = min(BLOCK, reader.block)
            add(facts, reader.name, block, *block_of(reader, block, count))
            facts["inputs"] = sum(of["inputs"] for of in facts["readers"].values())
            facts["seconds"] = round(before + time.monotonic() - started, 1)
            facts["versions"] = fuzz_readers.versions()
            facts["command"] = "python tests/attacks/fuzz.py FILE.json --inputs 1000000"
            written = target.with_name(f".{target.name}.part")
            written.write_text(json.dumps(facts, indent=1) + "\n")
            os.replace(written, target)
    print(f"{facts.get('inputs', 0):,} inputs, {len(facts['findings'])} kinds of findings")


def replay(word: str, target: Path) -> None:
    name, block, place = word.split(":")
    with tempfile.TemporaryDirectory() as folder:
        (reader,) = (r for r in fuzz_readers.readers(Path(folder)) if r.name == name)
        data, r = input_of(reader, int(block), int(place))
        target.write_bytes(data)
        started = time.process_time()
        begun = peak()
        print("read" if reader.read(data, r, Path(folder)) else "refused")
        print(f"{time.process_time() - started:.2f} s, {(peak() - begun) >> 20} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "target", type=Path, help="JSON that counts add up in; of --replay, a file."
    )
    parser.add_argument("--inputs", type=int, help="In all, earlier runs included.")
    parser.add_argument("--seconds", type=float, help="Of this run.")
    parser.add_argument("--only", default="", help="Readers, with commas between.")
    parser.add_argument("--replay", metavar="READER:BLOCK:PLACE")
    given = parser.parse_args()
    if given.replay:
        replay(given.replay, given.target)
        return
    only = [each for each in given.only.split(",") if each]
    run(given.target, only, given.inputs, given.seconds)


if __name__ == "__main__":
    main()
