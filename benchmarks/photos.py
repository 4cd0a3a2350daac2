"""Photos, whole process: a fit, a scoring and maps of a folder of JPEG, and how memory grows.

    python benchmarks/photos.py benchmarks/results/photos.json [network] [speed] [memory] ...

Photos are made (smooth noise of two scales, JPEG quality 85). `approxmass fit`, `score` and
`explain` run as processes of their own, with an empty cache, so that everything counts: start,
decoding, network, training, writing (of the pictures, too). Beside them the network alone, and the
rate of the machine's convolutions.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from approxmass.encoders import PooledEncoder, network
from timing import alternate, rate, write

SPEED = (500, (533, 400))  # images, height and width
FEW = 100
MEMORY = ((2000, (1000, 750)), (8000, (1000, 750)))
COMMAND = [sys.executable, "-m", "approxmass"]


def photo(generator: np.random.Generator, height: int, width: int) -> Image.Image:
    """Smooth noise of two scales, in colour."""
    parts = []
    for scale in (12, 100):
        shape = (height // scale + 2, width // scale + 2, 3)
        noise = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        parts.append(noise.resize((width, height), Image.Resampling.BILINEAR))
    return Image.blend(*parts, 0.6)


def folder(at: Path, count: int, size: tuple[int, int]) -> Path:
    """Photos in a new folder."""
    at.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        photo(generator, *size).save(at / f"{i:05}.jpg", quality=85)
    return at


def process(*words: str, cache: Path) -> dict[str, float]:
    """Seconds and peak memory of one run of the command."""
    started = time.perf_counter()
    run = subprocess.Popen(
        [*COMMAND, *words],
        env=os.environ | {"APPROXMASS_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(run.pid, 0)
    if status:
        raise RuntimeError(f"approxmass {' '.join(words)} failed")
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def flops(images: torch.Tensor) -> float:
    """Of the convolutions of one image."""
    counted = 0.0

    def count(module: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal counted
        counted += 2 * module.weight[0].numel() * output[0].numel()

    net = network("lite0")
    hooks = [
        module.register_forward_hook(count) for module in net.modules() if hasattr(module, "weight")
    ]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return counted


def alone() -> dict[str, Any]:
    """The network without decoding, and dense convolutions as a floor."""
    encoder = PooledEncoder(network("lite0"))
    images = torch.randint(0, 256, (64, 3, 256, 256), dtype=torch.uint8)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.rand(8, 64, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        found = alternate({"network": lambda: encoder.view(images), "dense": lambda: layer(x)}, 5)
    dense = 2 * 64 * 64 * 9 * x[:, 0].numel() / np.median(found["dense"])
    per_image = flops(images[:1].float() / 255)
    reached = len(images) * per_image / np.median(found["network"])
    return {
        "images_per_second": rate(len(images), found["network"]),
        "gigaflop_per_image": round(per_image / 1e9, 3),
        "share_of_convolution_rate": round(float(reached / dense), 3),
        "dense_gigaflop_per_second": round(float(dense / 1e9)),
    }


def speed(place: Path, *more: str) -> dict[str, Any]:
    """A fit with these options, the same again, a scoring, and pictures with maps of all."""
    count, size = SPEED
    photos, cache = folder(place / "photos", count, size), place / "cache"
    fit = process("fit", str(photos), "-o", str(place / "detector"), *more, cache=cache)
    again = process("fit", str(photos), "-o", str(place / "again"), *more, cache=cache)
    few = place / "few"
    few.mkdir()
    for path in sorted(photos.iterdir())[:FEW]:
        (few / path.name).hardlink_to(path)
    score, rate = rate_of("score", few, photos, ".csv", cache)
    explain, with_maps = rate_of("explain", few, photos, ".maps", cache)
    return {
        "images": count,
        "height_width": size,
        "fit": fit,
        "fit_again": again,
        "score": score,
        "scored_images_per_second": rate,
        "explain": explain,
        "explained_images_per_second": with_maps,
    }


def rate_of(
    command: str, few: Path, photos: Path, suffix: str, cache: Path
) -> tuple[dict[str, float], float]:
    """A command on all photos, and images a second but for those of few."""
    detector = str(photos.parent / "detector")
    runs = [
        process(command, detector, str(of), "-o", f"{of}{suffix}", cache=cache)
        for of in (few, photos)
    ]
    # What the others took, so that neither the start nor the end counts.
    others = SPEED[0] - FEW
    return runs[1], round(others / (runs[1]["seconds"] - runs[0]["seconds"]), 1)


def memory(place: Path) -> list[dict[str, Any]]:
    """Fits of few and of many photos."""
    found = []
    for count, size in MEMORY:
        photos = folder(place / f"{count}", count, size)
        detector = str(place / f"d{count}")
        run = process("fit", str(photos), "-o", detector, cache=place / f"c{count}")
        found.append({"images": count, "height_width": size, **run})
    return found


def main(target: Path, parts: list[str]) -> None:
    """Measure what is asked for, or all, and put it into the file."""
    facts = json.loads(target.read_text()) if target.exists() else {}
    facts.pop("machine", None)
    for name in parts or ["network", "speed", "speed_without_parts", "memory"]:
        with tempfile.TemporaryDirectory() as folder_name:
            place = Path(folder_name)
            made = {
                "network": lambda _: alone(),
                "speed": speed,
                "speed_without_parts": lambda place: speed(place, "--no-parts"),
                "memory": memory,
            }[name]
            facts[name] = made(place)
            write(target, facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
