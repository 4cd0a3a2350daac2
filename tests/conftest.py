"""What several test files share."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

SHARED = Path(__file__).parents[2] / "shared" / "data"


# The tensors of the tests are small: more threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Networks trained by the tests are not those of the user."""
    before = os.environ.get("APPROXMASS_CACHE")
    os.environ["APPROXMASS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["APPROXMASS_CACHE"]
    else:
        os.environ["APPROXMASS_CACHE"] = before


def textures(n: int, side: int = 12, *, shift: float = 0.0, seed: int = 0) -> NDArray[np.uint8]:
    """Grey images `(n, side, side)` with smooth structure; `shift` > 0 makes them another kind."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    phase = generator.uniform(0, 2 * np.pi, (n, 1, 1))
    angle = generator.normal(0.3 + shift, 0.2, (n, 1, 1))
    wave = np.sin(4 * np.pi * (np.cos(angle) * rows + np.sin(angle) * columns) + phase)
    noisy = 128 + 70 * wave + generator.normal(0, 8, (n, side, side))
    return noisy.clip(0, 255).astype(np.uint8)


def two_classes(n: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images `(n, 12, 12)` of two directions of stripes, and which is which."""
    images = [textures(n // 2, shift=shift, seed=seed + i) for i, shift in enumerate((0.0, 1.5))]
    order = np.random.default_rng(seed).permutation(n)
    return np.concatenate(images)[order], np.repeat([0, 1], n // 2)[order]


def write_images(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """A Parquet file as the sets of the catalogue are: PNGs in `image`, and `label`."""
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": encoded, "label": labels}), path)
