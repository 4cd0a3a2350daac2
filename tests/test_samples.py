"""The shipped samples are what their names and licences say."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from approxmass import data
from approxmass.data import open_images
from conftest import SHARED

FOLDER = Path(data.__file__).parent / "samples"
# As tools/make_samples.py prints them.
SUMS = {
    "fashion_mnist/train": "2929ae1c7b89e0ee6587bbe4911fd5f0a5dafe21ae6ed9b737173cbfe20c12c9",
    "fashion_mnist/test": "09bbac78738f0229a68f7ca74e62665d7fb34f45ea7a3509ab5c4a202c1370de",
    "mnist": "116e38628d265ffed73662d9cc3a372f44bf93768974645b2bf75758f7d2a2d8",
}
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared/data, with the whole datasets, is not here"
)


@pytest.mark.parametrize(
    ("name", "count"),
    [("fashion_mnist/train", 10_000), ("fashion_mnist/test", 2_000), ("mnist", 1_000)],
)
def test_pixels_are_the_known_ones(name: str, count: int) -> None:
    images = open_images(f"sample:{name}").read()
    assert (images.shape, images.dtype) == ((count, 1, 28, 28), np.uint8)
    assert hashlib.sha256(images.tobytes()).hexdigest() == SUMS[name]


def test_they_are_small_and_carry_their_licences() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 7e6
    mit = (FOLDER / "LICENSE-fashion_mnist.txt").read_text()
    assert "Copyright (c) 2017 Zalando SE" in mit
    assert "Permission is hereby granted, free of charge" in mit
    mnist = (FOLDER / "ATTRIBUTION-mnist.txt").read_text()
    assert all(
        word in mnist
        for word in ("LeCun", "Cortes", "Burges", "CC BY-SA 3.0", "Raschka", "Changes")
    )


@needs_shared
@pytest.mark.parametrize("split", ["train", "test"])
def test_fashion_mnist_is_the_first_rows_of_the_whole(split: str) -> None:
    sample = open_images(f"sample:fashion_mnist/{split}").read()
    whole = open_images(SHARED / "fashion_mnist" / f"{split}.parquet")
    done = 0
    for chunk in whole.chunks():
        part = sample[done : done + len(chunk.images)]
        np.testing.assert_array_equal(chunk.images[: len(part)], part)
        done += len(part)
        if done == len(sample):
            break
    assert done == len(sample)


@needs_shared
def test_mnist_comes_from_the_training_set_in_turns() -> None:
    import pyarrow.parquet as pq

    labels = pq.read_table(SHARED / "mnist" / "train.parquet", columns=["label"])["label"]
    known: dict[bytes, int] = {}
    for chunk in open_images(SHARED / "mnist" / "train.parquet").chunks():
        for image in chunk.images:
            known[image.tobytes()] = labels[len(known)].as_py()
        if len(known) > 10_000:
            break
    found = [known[image.tobytes()] for image in open_images("sample:mnist").read()]
    assert found == [*range(10)] * 100
