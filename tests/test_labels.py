"""Labels from wherever they are kept, in the order of the images."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from approxmass import ApproxMassError, open_images
from approxmass.data import open_labels

LABELS = np.array([2, 0, 1, 1, 0])


@pytest.mark.parametrize("given", [LABELS, LABELS.tolist(), torch.from_numpy(LABELS)])
def test_from_memory(given: object) -> None:
    np.testing.assert_array_equal(open_labels(given), LABELS)


def test_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", LABELS)
    np.savez(tmp_path / "both.npz", images=np.zeros((5, 4, 4), np.uint8), labels=LABELS)
    pq.write_table(pa.table({"image": [b""] * 5, "label": LABELS}), tmp_path / "both.parquet")
    idx = struct.pack(">HBBI", 0, 8, 1, 5) + LABELS.astype(np.uint8).tobytes()
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx)
    (tmp_path / "zipped-idx1-ubyte.gz").write_bytes(gzip.compress(idx))
    for name in (
        "labels.npy",
        "both.npz",
        "both.parquet",
        "labels-idx1-ubyte",
        "zipped-idx1-ubyte.gz",
    ):
        np.testing.assert_array_equal(open_labels(tmp_path / name), LABELS, err_msg=name)


def test_a_subfolder_for_each_class_in_the_order_of_the_images(tmp_path: Path) -> None:
    for i, name in enumerate(["dog/1", "cat/deep/2", "cat/0", "dog/0", "ant/9"]):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 10 * i).save(path)
    (chunk,) = open_images(tmp_path).chunks()
    numbers = {"ant": 0, "cat": 1, "dog": 2}
    expected = [numbers[name.split("/")[0]] for name in chunk.names]
    assert open_labels(tmp_path) is not None
    np.testing.assert_array_equal(open_labels(tmp_path), expected)
    # An image beside the folders belongs to no class.
    Image.new("L", (4, 4)).save(tmp_path / "loose.png")
    assert open_labels(tmp_path) is None


def test_a_source_may_have_none(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((5, 4, 4), np.uint8))
    np.savez(tmp_path / "images.npz", images=np.zeros((5, 4, 4), np.uint8))
    pq.write_table(pa.table({"image": [b""] * 5}), tmp_path / "images.parquet")
    Image.new("L", (4, 4)).save(tmp_path / "one.png")
    for source in ("images.npy", "images.npz", "images.parquet", "one.png"):
        assert open_labels(tmp_path / source) is None
    assert open_labels("sample:mnist") is None


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ApproxMassError, match="no such file of labels"):
        open_labels(tmp_path / "absent.npy")
    idx = struct.pack(">HBBI", 0, 8, 1, 50) + LABELS.astype(np.uint8).tobytes()
    (tmp_path / "short-idx1-ubyte").write_bytes(idx)
    with pytest.raises(ApproxMassError, match="truncated"):
        open_labels(tmp_path / "short-idx1-ubyte")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ApproxMassError, match=r"broken.parquet: is truncated or not"):
        open_labels(tmp_path / "broken.parquet")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ApproxMassError, match="truncated or not a file of labels"):
        open_labels(tmp_path / "objects.npy")


def test_from_a_hub_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.new("L", (4, 4), i) for i in range(5)]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b", "c"])
    )
    data = datasets.Dataset.from_dict({"image": images, "label": LABELS.tolist()}, features)
    data.to_parquet(tmp_path / "train.parquet")
    np.testing.assert_array_equal(open_labels(f"hf:{tmp_path}"), LABELS)
