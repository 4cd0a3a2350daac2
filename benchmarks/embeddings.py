"""Embeddings of small photos by a frozen network, for what is measured on rows of numbers.

    python benchmarks/embeddings.py ../shared/data embeddings.npz

CIFAR-10 as JPEG: 10,000 training photos, 1,000 test photos, and four sets of outliers, 500 photos
each, brought to the same JPEG. Enlarged to 256 x 256 they go through EfficientNet-Lite0; a row is
the means of its maps, 2,208 numbers. A few minutes, once.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from approxmass import open_images
from approxmass.encoders import PooledEncoder, network
from approxmass.storage.atomic import write_atomic

SIDE = 256
TRAIN, TEST, OUT = 10_000, 1000, 500
OUTLIERS = ("gtsrb", "dtd", "street_characters", "flowers")


def jpegs(path: Path, count: int) -> list[bytes]:
    """The first photos of a set as JPEG at 32 x 32; those that are JPEG already as they are."""
    found = []
    for row in pq.read_table(path, columns=["image"])["image"].slice(0, count).to_pylist():
        data = row["bytes"] if isinstance(row, dict) else row
        image = Image.open(io.BytesIO(data))
        if image.format != "JPEG":
            kept = io.BytesIO()
            image.convert("RGB").save(kept, "JPEG")
            data = kept.getvalue()
        found.append(data)
    return found


def embedded(photos: list[bytes]) -> NDArray[np.float32]:
    """A row a photo, `(N, 2208)`."""
    encoder = PooledEncoder(network("lite0"))
    chunks = open_images(photos, size=SIDE, mode="rgb").chunks(64)
    views = [encoder.view(torch.from_numpy(chunk.images)).numpy() for chunk in chunks]
    return np.concatenate(views)


def main(data: Path, target: Path) -> None:
    """Make and keep them."""
    sets = {
        "train": (data / "cifar10_jpeg" / "train.parquet", TRAIN),
        "test": (data / "cifar10_jpeg" / "test.parquet", TEST),
        **{name: (data / name / "test.parquet", OUT) for name in OUTLIERS},
    }
    rows = {name: embedded(jpegs(*of)) for name, of in sets.items()}
    with write_atomic(target) as place, place.open("wb") as file:
        np.savez(file, allow_pickle=False, **rows)
    print({name: each.shape for name, each in rows.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
