"""Attacks on the server: `python tests/attacks/server.py FILE.json [--seconds 300]`.

The command `serve` as its own process, with a token and 200 descriptors, under clients who are
slow, many, wrong or do not listen. A finding is whatever must not be: another client who waits for
more than a second, a wrong body that costs time or memory, an answer of status 500, one that
differs from offline scoring, descriptors or memory that are not given back. Counts add up over runs
in FILE, which is written after each attack; a run that is stopped loses one attack, and the next
one goes on with other random numbers. Leaves with 1 where FILE holds a finding. Linux only.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from approxmass import Detector, open_images
from approxmass.runtime.machine import machine_facts
from approxmass.storage.atomic import write_json

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from server_bodies import damaged_bodies, headers, wrong_json
from server_slow import flood, slow_of_all_kinds, slow_with_token, slow_without_token
from server_target import DESCRIPTORS, TOKEN, Attack, Found, Target

import serve
from serving import FORM, JSON, form, started

# MiB and descriptors that may be kept after so many requests.
KEPT_MIB, KEPT_FILES, REQUESTS = 24.0, 8, 20_000


async def hostile_half(
    target: Target, seconds: float, rng: np.random.Generator, found: Found
) -> None:
    """32 clients, half of them hostile; every valid answer as offline."""
    try:
        load = await serve.clients(
            target.url, target.expected, seconds, 16, int(rng.integers(2**31)), token=TOKEN
        )
    except* Exception as group:
        found.findings += [f"hostile half: {each}"[:200] for each in group.exceptions]
    else:
        found.requests += load.valid + load.busy + load.hostile.total()
        found.most("hostile_half_p99_ms", load.facts(seconds)["score_p99_ms"])


async def flat(target: Target, seconds: float, rng: np.random.Generator, found: Found) -> None:
    """20,000 requests, valid and wrong: afterwards as much memory and as many descriptors."""
    images = target.expected.images
    wrong = [b"", b'{"images":[1]}', b'{"images":' + b"[" * 2000, b'{"images":["aaaa"]}']

    async def some(count: int, rng: np.random.Generator) -> None:
        link = target.link()
        for i in range(count):
            if i % 5 == 0:
                link.close()
            image = images[rng.integers(0, len(images))]
            if i % 4 == 0:
                expected, got = 200, await link.post("/score", FORM, form(image, rng.bytes(500)))
            elif i % 4 == 1:
                async with target.link(token=False) as other:
                    expected, got = 401, await other.post("/score", FORM, form(image))
            elif i % 4 == 2:
                expected, got = 200, await link.get("/metrics")
            else:
                expected, got = 422, await link.post("/score", JSON, wrong[i // 4 % len(wrong)])
            found.requests += 1
            if got[0] != expected:
                found.findings.append(f"flat: {got[0]} {got[1][:100]!r}")
        link.close()

    async def all_of(count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for i in range(16):
                rng_of = np.random.default_rng([int(rng.integers(2**31)), i])
                group.create_task(some(count // 16, rng_of))

    await all_of(REQUESTS // 4)  # what grows at first: threads, what is kept of the page
    before, files = target.memory("VmRSS"), target.files()
    await all_of(REQUESTS)
    await asyncio.sleep(1)
    found.most("kept_mib", target.memory("VmRSS") - before, KEPT_MIB)
    found.most("kept_descriptors", target.files() - files, KEPT_FILES)


# Each with its share of the time; None: as long as it takes.
ATTACKS: dict[str, tuple[Attack, float | None]] = {
    "slow without token": (slow_without_token, 0.2),
    "slow of all kinds": (slow_of_all_kinds, 0.15),
    "slow with token": (slow_with_token, 0.1),
    "flood": (flood, 0.05),
    "wrong JSON": (wrong_json, 0.05),
    "headers": (headers, 0.03),
    "damaged bodies": (damaged_bodies, 0.1),
    "hostile half": (hostile_half, 0.1),
    "flat": (flat, None),
}


def _add(file: Path, name: str, seconds: float, found: Found) -> None:
    """Add what came of an attack to what the file has."""
    facts = json.loads(file.read_text()) if file.exists() else {"attacks": {}}
    entry = facts["attacks"].setdefault(
        name, {"runs": 0, "requests": 0, "seconds": 0.0, "findings": 0, "worst": {}, "found": []}
    )
    entry["runs"] += 1
    entry["requests"] += found.requests
    entry["seconds"] = round(entry["seconds"] + seconds, 1)
    entry["findings"] += len(found.findings)
    entry["found"] = [*entry["found"], *found.findings][:20]
    for key, value in found.worst.items():
        entry["worst"][key] = max(value, entry["worst"].get(key, 0.0))
    for key in ("requests", "findings"):
        facts[key] = sum(each[key] for each in facts["attacks"].values())
    facts["machine"] = machine_facts()
    write_json(file, facts)
    worst = ", ".join(f"{key} {value:g}" for key, value in found.worst.items())
    print(
        f"{name}: {found.requests:,} requests, {len(found.findings)} findings; {worst}", flush=True
    )


def main(file: Path, seconds: float) -> int:
    """Attack a server by everything there is, and add to what is known."""
    train = open_images("sample:fashion_mnist/train").read()[:1500]
    detector = Detector(epochs=2).fit(train)
    names = ("fashion_mnist/test", "mnist")
    images = [open_images(f"sample:{name}").read()[:60, 0] for name in names]
    expected = serve.expected_of(detector, np.concatenate(images))
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder) / "d")
        for name, (attack, share) in ATTACKS.items():
            known = json.loads(file.read_text())["attacks"] if file.exists() else {}
            run = known.get(name, {}).get("runs", 0)
            rng = np.random.default_rng([run, *name.encode()])
            found, begun = Found(), time.monotonic()
            with started(Path(folder) / "d", descriptors=DESCRIPTORS, APPROXMASS_TOKEN=TOKEN) as (
                url,
                process,
            ):
                target = Target(url, process, expected)
                asyncio.run(attack(target, seconds * (share or 0), rng, found))
            _add(file, name, time.monotonic() - begun, found)
    total = json.loads(file.read_text())
    print(f"{total['requests']:,} requests in all, {total['findings']} findings")
    return 1 if total["findings"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    given = parser.parse_args()
    sys.exit(main(given.file, given.seconds))
