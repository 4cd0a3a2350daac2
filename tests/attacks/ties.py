"""Does the p-value of an image depend on what it comes with? `python tests/attacks/ties.py FILE`.

Detectors are fitted where usual images repeat: on two, five and ten different ones, on a set of
which a tenth is a white frame, and on different images. Each then scores the same images through
every door, in batches of 1 to 256, in other orders, in one thread and in two, as integers and as
floats. Of every image the p-value and the verdict are compared with those of the whole set at once.
Leaves with 1 where one moves. A few minutes on two cores.
"""

import base64
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from typer.testing import CliRunner

from approxmass import Detector, open_images
from approxmass.cli.main import app
from approxmass.data.png import png_bytes
from approxmass.runtime.machine import machine_facts
from approxmass.serve import create_app

Images = NDArray[np.uint8]
SIZES = (1, 2, 3, 7, 16, 17, 30, 33, 64, 65, 128, 255, 256)
# By name: the arguments of a detector, how many images are asked, and how many go one by one.
DETECTORS: dict[str, tuple[dict[str, Any], int, int]] = {
    "pca": ({"encoder": "pca", "epochs": 2}, 256, 20),
    "pixels": ({"encoder": "pixels", "epochs": 1, "size": 12}, 64, 4),
    "lite0": ({"encoder": "lite0", "epochs": 1, "parts": False, "size": 64}, 48, 4),
    "lite0 with parts": ({"encoder": "lite0", "epochs": 1, "parts": True, "size": 64}, 20, 2),
    "nearest-neighbour": ({"method": "nearest-neighbour"}, 256, 20),
    "gaussian": ({"method": "gaussian"}, 256, 20),
    "gradcon": ({"method": "gradcon", "epochs": 1}, 64, 4),
}
# Which fits the slow ones are attacked on.
SLOW = {
    "pixels": ("two", "white"),
    "lite0": ("two", "white"),
    "lite0 with parts": ("five",),
    "gradcon": ("ten", "white"),
}


def fits(usual: Images) -> dict[str, Images]:
    """What is fitted on, by name."""
    generator = np.random.default_rng(0)
    made = {
        name: usual[np.tile(np.arange(count), -(-240 // count))[:240]]
        for name, count in (("two", 2), ("five", 5), ("ten", 10))
    }
    made["white"] = np.concatenate([usual[:216], np.full((24, *usual.shape[1:]), 255, np.uint8)])
    made["different"] = usual[:240]
    return {name: images[generator.permutation(len(images))] for name, images in made.items()}


def asked(fitted: Images, new: Images, count: int) -> Images:
    """Images of the fit, whose scores may tie, blank frames, and new images."""
    blank = np.stack([np.full(new.shape[1:], grey, np.uint8) for grey in (0, 255)])
    return np.concatenate([fitted[: count // 2], blank, new])[:count]


def doors(
    detector: Detector, folder: Path, images: Images, singles: int
) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.float64]]]:
    """Ways to a p-value: what it is called, places of the images, and their p-values."""
    every = np.arange(len(images))
    for size in SIZES:
        if size > len(images):
            break
        limit = singles if size < 8 else len(images)
        parts = [every[i : i + size] for i in range(0, limit, size)]
        found = [detector.score_pixels(detector.open(images[part]).read()) for part in parts]
        places = np.concatenate(parts)
        yield f"batches of {size}", places, np.concatenate([each.p_value for each in found])
    order = np.random.default_rng(1).permutation(len(images))
    yield "another order", order, detector.score(images[order]).p_value
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield "two threads", every, detector.score(images).p_value
    yield "two threads, 7", every[:7], detector.score(images[:7]).p_value
    torch.set_num_threads(threads)
    yield "floats", every, detector.score((images / 255).astype(np.float32)).p_value
    loaded = Detector.load(folder, device="cpu")
    yield "loaded", every, loaded.score(images).p_value
    chunks = [scores.p_value for _, scores in loaded.score_chunks(images)]
    yield "score_chunks", every, np.concatenate(chunks)
    np.save(folder.parent / "asked.npy", images)
    words = [str(folder), str(folder.parent / "asked.npy"), "-o", str(folder.parent / "s.parquet")]
    done = CliRunner().invoke(app, ["score", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    table = pq.read_table(folder.parent / "s.parquet").column("p_value").to_numpy()
    yield "command", every, table
    with TestClient(create_app(loaded), base_url="http://localhost:8000") as client:
        for size in (1, 5):
            rows: list[float] = []
            for i in range(0, singles, size):
                some = [png_bytes(image) for image in images[i : i + size]]
                sent = {"images": [base64.b64encode(each).decode() for each in some]}
                answer = client.post("/score", json=sent).json()
                rows += [row["p_value"] for row in answer["results"]]
            yield f"server, {size}", every[: len(rows)], np.array(rows)


def attacked(name: str, fit: str, images: Images, new: Images) -> dict[str, Any]:
    """How far p-values and verdicts of one detector move."""
    options, count, singles = DETECTORS[name]
    detector = Detector(device="cpu", **options).fit(images)
    probe = asked(images, new, count)
    whole = detector.score(probe).p_value
    compared = moved = flipped = 0
    largest = 0.0
    worst = ""
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder) / "d")
        for door, places, p in doors(detector, Path(folder) / "d", probe, singles):
            away = np.abs(p - whole[places])
            compared += len(p)
            moved += int((away > 0).sum())
            flipped += int(((p <= 0.05) != (whole[places] <= 0.05)).sum())
            if away.max() > largest:
                largest, worst = float(away.max()), door
    calls = detector.predict(probe)
    flipped += int((calls != (whole <= 0.05)).sum())
    found = {
        "detector": name,
        "fit": fit,
        "different": len(np.unique(images.reshape(len(images), -1), axis=0)),
        "calibration": detector.facts.calibration,
        "different_calibration_scores": len(np.unique(detector.calibration_scores)),
        "compared": compared,
        "moved": moved,
        "largest_move_in_ranks": round(largest * (detector.facts.calibration + 1), 6),
        "by": worst,
        "verdicts_flipped": flipped,
    }
    print(json.dumps(found), flush=True)
    return found


def main(file: Path) -> int:
    """Attack every detector, and write what moved."""
    torch.set_num_threads(1)
    usual = open_images("sample:fashion_mnist/train").read()
    new = open_images("sample:fashion_mnist/test").read()
    rows = []
    for fit, images in fits(usual).items():
        rows += [
            attacked(name, fit, images, new) for name in DETECTORS if fit in SLOW.get(name, (fit,))
        ]
    compared, moved = (sum(row[key] for row in rows) for key in ("compared", "moved"))
    held = {
        "none moves by more than a rank": all(row["largest_move_in_ranks"] <= 1 for row in rows),
        "999 of 1,000 do not move": moved <= compared / 1000,
        "no verdict flips": not any(row["verdicts_flipped"] for row in rows),
    }
    facts = {
        "compared": compared,
        "moved": moved,
        "held": held,
        "rows": rows,
        "machine": machine_facts(),
    }
    file.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{compared:,} p-values, of which {moved} moved; {held}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/ties.json")))
