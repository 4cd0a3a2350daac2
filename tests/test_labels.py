"""Labels from wherever they are kept, in the order of the images."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from approxmass.data import check_labels, open_images, open_labels
from approxmass.errors import Code
from conftest import mistake, write_images

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
    with mistake("bad-labels"):
        open_labels(tmp_path / "absent.npy")
    idx = struct.pack(">HBBI", 0, 8, 1, 50) + LABELS.astype(np.uint8).tobytes()
    (tmp_path / "short-idx1-ubyte").write_bytes(idx)
    with mistake("damaged"):
        open_labels(tmp_path / "short-idx1-ubyte")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with mistake("damaged"):
        open_labels(tmp_path / "broken.parquet")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with mistake("damaged"):
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
    np.testing.assert_array_equal(open_images(f"hf:{tmp_path}").labels(), LABELS)


def test_a_source_knows_its_labels(tmp_path: Path) -> None:
    images = np.zeros((5, 4, 4), np.uint8)
    np.savez(tmp_path / "both.npz", images=images, y=LABELS)
    write_images(tmp_path / "both.parquet", images, LABELS)
    for i, label in enumerate(LABELS):
        (tmp_path / "folder" / f"class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(tmp_path / "folder" / f"class {label}" / f"{i}.png")
    sources = {
        tmp_path / "both.npz": LABELS,
        tmp_path / "both.parquet": LABELS,
        tmp_path / "folder": np.sort(LABELS),
    }
    for given, expected in sources.items():
        source = open_images(given, size=3)
        for labels in (source.labels(), open_labels(source), open_labels(given)):
            np.testing.assert_array_equal(labels, expected, err_msg=str(given))
    for none in ("sample:mnist", images, list(images)):
        assert open_images(none).labels() is None
        assert open_labels(open_images(none)) is None


def test_labels_of_an_idx_file_of_images_or_of_nothing(tmp_path: Path) -> None:
    header = struct.pack(">HBB3I", 0, 8, 3, 1, 4, 4)
    (tmp_path / "images-idx3-ubyte").write_bytes(header + bytes(16))
    assert open_labels(tmp_path / "images-idx3-ubyte") is None
    (tmp_path / "labels-idx1-ubyte").write_bytes(b"no IDX file")
    with mistake("bad-source"):
        open_labels(tmp_path / "labels-idx1-ubyte")
    with mistake("bad-labels"):
        open_labels([[1], [2, 3]])


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (None, "bad-labels"),
        ([0, 1], "bad-labels"),
        ([[0, 0], [1, 1], [1, 1]], "bad-labels"),
        ([0.0, 1.0, 1.0], "bad-labels"),
        (["a", "b", "b"], "bad-labels"),
        ([1, 1, 1], "bad-labels"),
        ([1, 2, 2], "bad-labels"),
        ([0, 2, 2], "bad-labels"),
        ([0, 1, 1], "too-few"),
    ],
)
def test_labels_that_are_no_classes(labels: Any, code: Code) -> None:
    with mistake(code):
        check_labels(labels, 3, "energy", each=2)
    found = check_labels(np.array([0, 1, 1], np.uint8), 3, "energy", each=1)
    assert found.dtype == np.int64
