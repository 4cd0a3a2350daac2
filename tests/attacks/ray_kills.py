"""Kills the driver of `approxmass score --engine ray` at six places, and runs it again.

    python tests/attacks/ray_kills.py results/ray_kills.json

Each time the second run must give every row once, with the values of the plain command, and
finished blocks must not be scored again. 2,000 images, two of which cannot be read, in ten blocks.
"""

__all__: list[str] = []

import functools
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

BLOCK, COUNT = 200, 2000
PLACES = (
    "before the first block is kept",
    "within the writing of the fourth block",
    "between the sixth block and the seventh",
    "after the last block, before any is joined",
    "while the blocks are joined",
    "before the blocks are removed, the output written",
)


def main() -> None:
    if sys.argv[1] == "--child":
        child(int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
        return
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector, source = prepared(folder)
        command = [sys.executable, "-m", "approxmass", "score", detector, source]
        output = folder / "plain.parquet"
        subprocess.run([*command, "-o", str(output)], check=True, capture_output=True)
        plain = pq.read_table(output)
        found = [attacked(folder, place, detector, source, plain) for place in range(len(PLACES))]
    import ray

    facts = {
        "command": "python tests/attacks/ray_kills.py results/ray_kills.json",
        "ray": ray.__version__,
        "images": COUNT,
        "images of a block": BLOCK,
        "kills": found,
        "held": all(each["held"] for each in found),
    }
    target.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"held: {facts['held']}")
    sys.exit(0 if facts["held"] else 1)


def prepared(folder: Path) -> tuple[str, str]:
    """A detector and a Parquet file of images, two of which cannot be read."""
    from approxmass import Detector
    from approxmass.data import open_images

    images = open_images("sample:fashion_mnist/test").read()[:COUNT]
    detector = Detector("pca", components=16, epochs=1, calibration="holdout").fit(images[:400])
    detector.save(folder / "detector")
    rows: list[dict[str, Any]] = []
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(np.asarray(image[0])).save(file, "png")
        data = b"no image" if i in (250, 1999) else file.getvalue()
        rows.append({"bytes": data, "path": f"{i}.png"})
    source = folder / "images.parquet"
    pq.write_table(pa.table({"image": rows}), source, row_group_size=330)
    return str(folder / "detector"), str(source)


def attacked(folder: Path, place: int, detector: str, source: str, plain: Any) -> dict[str, Any]:
    """What became of a run that was killed at a place, and run again."""
    output = folder / f"{place}.parquet"
    log = folder / f"{place}.json"
    command = [sys.executable, __file__, "--child"]
    arguments = [str(log), "score", detector, source, "-o", str(output), "--engine", "ray"]
    killed = subprocess.run([*command, str(place), *arguments], capture_output=True, check=False)
    left = leftovers()
    kept = folder / f"{output.name}.blocks"
    finished = sorted(int(each.stem) for each in kept.glob("[0-9]*.parquet"))
    again = subprocess.run([*command, "-1", *arguments], capture_output=True, check=False)
    assert again.returncode == 0, again.stderr.decode()[-3000:]
    runs = [json.loads(line) for line in log.read_text().splitlines()]
    scored = [number for run in runs[1:] for number in run]
    anew = sorted(set(range(COUNT // BLOCK)) - set(finished))
    table = pq.read_table(output)
    facts = {
        "killed": PLACES[place],
        "signal": -killed.returncode,
        "blocks finished before": len(finished),
        "blocks scored by the second run": len(scored),
        "finished blocks scored again": len(set(finished) & set(scored)),
        "rows": len(table),
        "different names": len(set(table["name"].to_pylist())),
        "equal to the plain command, in its order": table.equals(plain),
        "left beside the output": sorted(
            each.name for each in folder.glob(f"*{output.name}*") if each != output
        ),
        "processes of Ray left after 3 minutes": left,
    }
    facts["held"] = (
        facts["signal"] == signal.SIGKILL
        and sorted(scored) == anew
        and facts["rows"] == facts["different names"] == COUNT
        and facts["equal to the plain command, in its order"]
        and left == 0
    )
    print(json.dumps(facts), flush=True)
    return facts


def leftovers() -> int:
    """Processes of a local Ray that outlive their driver."""
    for _ in range(360):
        # One that has ended and that nobody waits for is none.
        found = [each.info for each in psutil.process_iter(["name", "status"])]
        names = [each["name"] for each in found if each["status"] != psutil.STATUS_ZOMBIE]
        count = sum(name in ("raylet", "gcs_server") or "ray::" in name for name in names)
        if not count:
            break
        time.sleep(0.5)
    return count


def child(place: int, log: Path, arguments: list[str]) -> None:
    """The command, in blocks of 200, which kills itself at a place."""
    from approxmass.cli.main import main as command
    from approxmass.integrations import ray as door
    from approxmass.storage import blocks, score_file

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    calls: dict[str, int] = {}

    def counted(owner: Any, name: str, before: Any, after: Any) -> None:
        """At each call of a function, what is to be done before and after its n-th."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*args: Any, **more: Any) -> Any:
            n = calls[name] = calls.get(name, 0) + 1
            before(n, *args)
            result = function(*args, **more)
            after(n, *args)
            return result

        setattr(owner, name, wrapped)

    def nothing(*_: Any) -> None:
        pass

    def half_written(n: int, table: Any, path: Path) -> None:
        if n == 4:
            whole = io.BytesIO()
            write_table(table, whole)
            path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
            die()

    def submitted(n: int, run: Any, missing: list[int], *_: Any) -> None:
        with log.open("a") as file:
            file.write(json.dumps(missing) + "\n")

    def at(number: int) -> Any:
        return lambda n, *_: die() if n == number else None

    write_table = pq.write_table
    counted(door, "_score", submitted, nothing)
    if place == 0:
        counted(blocks.Blocks, "keep", at(1), nothing)
    elif place == 1:
        counted(blocks.pq, "write_table", half_written, nothing)
    elif place == 2:
        counted(blocks.Blocks, "keep", nothing, at(6))
    elif place == 3:
        counted(blocks.Blocks, "keep", nothing, at(COUNT // BLOCK))
    elif place == 4:
        counted(score_file.ScoreFile, "append", nothing, at(5))
    elif place == 5:
        counted(blocks.Blocks, "remove", at(1), nothing)
    door.scored_blocks = functools.partial(door.scored_blocks, block=BLOCK)
    sys.argv = ["approxmass", *arguments]
    command()


if __name__ == "__main__":
    main()
