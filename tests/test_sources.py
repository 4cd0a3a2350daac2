"""Whatever people hold images in: the same images, the same scores, and names that stay."""

import gc
import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

from approxmass import Detector
from approxmass.data import open_images, open_labels
from approxmass.data.groups import groups_of
from approxmass.data.readers.once import open_once
from approxmass.data.vectors import holds_vectors, open_vectors
from approxmass.settings import Settings
from conftest import mistake, textures

IMAGES = textures(9, seed=3)
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2]
NUMBERS = [str(i) for i in range(9)]
FILES = [f"{'ab'[i % 2]}/{i}.png" for i in range(9)]
TEXT = (Path(__file__).parents[1] / "docs" / "images.md").read_text()


def png(image: NDArray[Any], kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def files(folder: Path, images: NDArray[Any] = IMAGES) -> list[str]:
    """PNG files in two subfolders, in the order of the images."""
    for name, image in zip(FILES, images, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(image))
    return [os.fspath(folder / name) for name in FILES[: len(images)]]


def rows_of(images: NDArray[Any], names: list[str] | None = None) -> list[dict[str, Any]]:
    paths = names or [None] * len(images)
    return [{"bytes": png(x), "path": path} for x, path in zip(images, paths, strict=True)]


def parquet(path: Path, images: NDArray[Any] = IMAGES, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": rows_of(images), **more}), path, row_group_size=2)
    return path


def shards(tmp: Path) -> Path:
    """In the order of names, which is neither that of writing nor of the folders alone."""
    parquet(tmp / "shards" / "more" / "3.parquet", IMAGES[7:], label=LABELS[7:])
    parquet(tmp / "shards" / "00.parquet", IMAGES[:4], label=LABELS[:4])
    parquet(tmp / "shards" / "01.parquet", IMAGES[4:7], label=LABELS[4:7])
    return tmp / "shards"


def hub(**more: Any) -> Any:
    import datasets

    columns = {"image": rows_of(IMAGES), "label": LABELS, **more}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


class Torch(Dataset[Any]):
    """What torch calls a data set: it has a length, and no end of its own."""

    def __init__(self, item: Callable[[int], Any]) -> None:
        self._item = item

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, place: int) -> Any:
        return self._item(place % len(IMAGES))


class Stream(IterableDataset[Any]):
    """One that cannot be indexed, though it has what that takes."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __iter__(self) -> Iterator[Any]:
        return ((tensor(i), LABELS[i]) for i in range(len(IMAGES)))


def tensor(place: int) -> torch.Tensor:
    return torch.from_numpy(IMAGES[place])[None].float() / 255


def opened_in_turn() -> Iterator[Image.Image]:
    for image in IMAGES:
        with Image.open(io.BytesIO(png(image))) as found:
            yield found


Made = tuple[Any, list[str]]
# A row of the table in docs/images.md, and sources of its kind with the names of their images.
KINDS: dict[str, Callable[[Path], list[Made]]] = {
    "an array or a tensor": lambda tmp: [
        (IMAGES, NUMBERS),
        (torch.from_numpy(IMAGES)[:, None], NUMBERS),
        (torch.from_numpy(IMAGES / 255).requires_grad_(), NUMBERS),
        (torch.stack([tensor(i) for i in range(9)]).requires_grad_() * 1, NUMBERS),
        (Elsewhere(torch.from_numpy(IMAGES)), NUMBERS),
    ],
    "a list of arrays or tensors": lambda tmp: [
        (list(IMAGES), NUMBERS),
        ([tensor(i).requires_grad_() for i in range(9)], NUMBERS),
        (tuple(IMAGES[..., None]), NUMBERS),
    ],
    "a list of paths": lambda tmp: [
        (paths := files(tmp / "f"), paths),
        ([Path(path) for path in paths], paths),
        (np.array(paths), paths),
        (pd.Series(paths, index=range(9, 0, -1)), paths),
        (pa.chunked_array([paths[:4], paths[4:]]), paths),
    ],
    "a list of Pillow images": lambda tmp: [([Image.fromarray(x) for x in IMAGES], NUMBERS)],
    "bytes of an image file": lambda tmp: [
        ([png(x) for x in IMAGES], NUMBERS),
        ([memoryview(png(x, "bmp")) for x in IMAGES], NUMBERS),
        (pd.Series([png(x) for x in IMAGES]), NUMBERS),
        (rows_of(IMAGES, FILES), FILES),
    ],
    "a folder": lambda tmp: [
        (files(tmp / "f") and str(tmp / "f"), sorted(FILES)),
    ],
    "a pattern": lambda tmp: [
        (files(tmp / "f") and f"{tmp}/f/**/*.png", sorted(FILES)),
        (f"{tmp}/f/?/[0-9].png", sorted(FILES)),
        (tmp / "f" / "*" / "*", sorted(FILES)),
    ],
    "Parquet": lambda tmp: [
        (parquet(tmp / "x.parquet"), [f"row {i}" for i in range(9)]),
        (shards(tmp), [f"row {i}" for i in range(9)]),
        (f"{tmp}/shards/**/*.parquet", [f"row {i}" for i in range(9)]),
        (f"{tmp}/x.parquet:image", [f"row {i}" for i in range(9)]),
    ],
    "a frame or a table": lambda tmp: [
        (pd.DataFrame({"image": files(tmp / "f"), "n": 1}), files(tmp / "f")),
        (pa.table({"image": rows_of(IMAGES, FILES), "n": LABELS}), FILES),
        (pd.DataFrame({"image": list(IMAGES)}), NUMBERS),
    ],
    "`.npz`, as of MedMNIST": lambda tmp: [
        (medmnist(tmp / "blood.npz") and f"{tmp}/blood.npz:val", NUMBERS),
        (tmp / "blood.npz:val", NUMBERS),
        (f"{tmp}/blood.npz:val_images", NUMBERS),
    ],
    "a `datasets.Dataset`": lambda tmp: [
        (hub(), [f"row {i}" for i in range(9)]),
        (hub().with_format("torch"), [f"row {i}" for i in range(9)]),
        (hub(other=["x"] * 9)["image"], [f"row {i}" for i in range(9)]),
    ],
    "a `datasets.IterableDataset`": lambda tmp: [
        (hub().to_iterable_dataset(), NUMBERS),
        (hub().to_iterable_dataset()["image"], NUMBERS),
    ],
    "a torch `Dataset`": lambda tmp: [
        (Torch(tensor), NUMBERS),
        (Torch(lambda i: (tensor(i), LABELS[i])), NUMBERS),
        (Torch(lambda i: (Image.fromarray(IMAGES[i]), LABELS[i])), NUMBERS),
        (Torch(lambda i: {"label": LABELS[i], "image": IMAGES[i]}), NUMBERS),
        (Stream(), NUMBERS),
        ([(tensor(i), LABELS[i]) for i in range(9)], NUMBERS),
    ],
    "a torch `DataLoader`": lambda tmp: [
        (DataLoader(Torch(tensor), batch_size=4), NUMBERS),
        (DataLoader(Torch(lambda i: (tensor(i), LABELS[i])), batch_size=4), NUMBERS),
        (DataLoader(Torch(lambda i: (IMAGES[i], LABELS[i])), batch_size=3), NUMBERS),
        (DataLoader(Torch(lambda i: {"image": tensor(i), "n": i}), batch_size=4), NUMBERS),
        (DataLoader(Torch(lambda i: (tensor(i), 0)), batch_size=None), NUMBERS),
        (DataLoader(Torch(lambda i: (tensor(i), tensor(i) * 0)), batch_size=4), NUMBERS),
        (DataLoader(Torch(lambda i: (tensor(i), i)), batch_size=4, collate_fn=list), NUMBERS),
        (DataLoader(Torch(lambda i: (paths[i], i)), batch_size=4), paths := files(tmp / "f")),
        (
            DataLoader(Torch(lambda i: Image.fromarray(IMAGES[i])), batch_size=2, collate_fn=list),
            NUMBERS,
        ),
    ],
    "a generator": lambda tmp: [
        (iter(IMAGES.tolist()), NUMBERS),
        ((x.tolist() for x in IMAGES[:, None].repeat(3, 1)), NUMBERS),
        ((x for x in IMAGES), NUMBERS),
        ((x / 255 for x in IMAGES), NUMBERS),
        ((x for x in np.split(IMAGES[:, None], [2, 5])), NUMBERS),
        (opened_in_turn(), NUMBERS),
        ((png(x) for x in IMAGES), NUMBERS),
        (map(Path, paths := files(tmp / "g")), paths),
        (iter(rows_of(IMAGES, FILES)), FILES),
    ],
}


class Elsewhere:
    """A tensor on another device, as far as NumPy can see."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def __array__(self, *_: Any, **__: Any) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def detach(self) -> "Elsewhere":
        return self

    def cpu(self) -> torch.Tensor:
        return self._values


def medmnist(path: Path) -> Path:
    others = {f"{split}_images": IMAGES[:2] for split in ("train", "test")}
    np.savez(path, val_images=IMAGES, val_labels=np.array(LABELS)[:, None], **others)
    return path


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(method="gaussian", seed=0).fit(textures(120))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_scores_from_every_kind(kind: str, detector: Detector, tmp_path: Path) -> None:
    by_name = dict(zip(sorted(FILES), [int(f[2]) for f in sorted(FILES)], strict=True))
    plain = detector.score(IMAGES)
    for source, names in KINDS[kind](tmp_path):
        found = detector.score(source)
        order = [by_name[name] for name in names] if names == sorted(FILES) else range(9)
        for of in ("statistic", "p_value"):
            expected = getattr(plain, of)[list(order)]
            np.testing.assert_array_equal(getattr(found, of), expected, err_msg=repr(source))
        assert found.names.tolist() == names, source


def test_the_table_in_the_docs_has_every_kind() -> None:
    table = TEXT.split("## What you may hand over")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    others = {"handed over", "`.npy`, IDX, `hf:NAME`, `sample:NAME`"}  # test_data.py has these
    assert set(rows) == {*KINDS, *others}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_what_its_numbers_are(dtype: torch.dtype) -> None:
    values = torch.rand(4, 1, 9, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = np.rint(values.float().numpy() * 255).astype(np.uint8)
    for source in (values, list(values), (x for x in values.requires_grad_())):
        # float16 is multiplied as it is: half a level is what its 11 bits may be off.
        found = open_images(source).read().astype(int)
        assert abs(found - expected).max() <= (dtype == torch.float16)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_read_once_is_what_it_is_as_an_array(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.uint8, bool, np.float16, np.float32, np.float64, int]))
    shape = (data.draw(st.integers(1, 7)), *data.draw(st.sampled_from([(9, 7), (3, 5, 9)])))
    whole = st.integers(0, 255)
    elements = {"b": st.booleans(), "f": st.floats(0, 1, width=16)}.get(np.dtype(dtype).kind, whole)
    values = data.draw(arrays.arrays(dtype, shape, elements=elements))
    expected, once = open_images(list(values)), open_images(iter(values))
    for _ in range(2):  # two passes
        np.testing.assert_array_equal(once.read(), expected.read())
    assert once.shape == expected.shape


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=50) | st.none(), min_size=1, max_size=9))
def test_bytes_that_are_read_once_come_back(data: list[bytes | None]) -> None:
    rows = [{"bytes": each, "path": None} for each in data]
    batches, some, _, _ = open_once("generator", iter(rows)).parts()
    kept = [item for _, items in batches(2) for item in items]
    assert kept == [each or b"" for each in data]
    assert some is not None
    assert dict(some([len(data) - 1])) == {len(data) - 1: data[-1] or b""}


def test_a_loader_that_shuffles_is_the_same_at_each_pass_and_carries_its_labels() -> None:
    torch.manual_seed(0)
    loader = DataLoader(Torch(lambda i: (tensor(i), LABELS[i])), batch_size=4, shuffle=True)
    source = open_images(loader)
    first = source.read()
    np.testing.assert_array_equal(source.read(), first)
    places = [int(np.flatnonzero((x[0] == IMAGES).all((1, 2)))[0]) for x in first]
    assert places != sorted(places)
    assert source.labels().tolist() == [LABELS[i] for i in places]  # type: ignore[union-attr]
    flipped = Torch(lambda i: tensor(i) if torch.rand(()) < 0.5 else tensor(i).flip(-1))
    source = open_images(flipped)  # each pass of its own would differ
    np.testing.assert_array_equal(source.read(), source.read())


def test_labels_come_along(tmp_path: Path) -> None:
    files(tmp_path / "f")
    for source in (
        shards(tmp_path),
        hub(),
        hub().to_iterable_dataset(),
        pd.DataFrame({"image": [png(x) for x in IMAGES], "label": LABELS}),
        Torch(lambda i: (tensor(i), torch.tensor(LABELS[i]))),
        DataLoader(Torch(lambda i: {"image": tensor(i), "label": LABELS[i]}), batch_size=4),
        f"{medmnist(tmp_path / 'm.npz')}:val",
    ):
        assert open_images(source).labels().tolist() == LABELS, source  # type: ignore[union-attr]
    expected = [int(name[0] == "b") for name in sorted(FILES)]
    assert open_labels(f"{tmp_path}/f/**/*.png").tolist() == expected  # type: ignore[union-attr]
    assert open_images(Torch(lambda i: (tensor(i), tensor(i)))).labels() is None  # no class
    pairs = [(png(x), label) for x, label in zip(IMAGES, LABELS, strict=True)]
    assert Settings().open(pairs).labels().tolist() == LABELS  # type: ignore[union-attr]
    paths = [f"{tmp_path}/f/{name}" for name in sorted(FILES)]
    for kind in (str, int):
        named = [(path, kind(place)) for place, path in enumerate(paths)]
        found = open_images(named).labels()
        assert found.tolist() == [label for _, label in named]  # type: ignore[union-attr]


def test_a_fit_reads_a_generator_once(detector: Detector) -> None:
    again = Detector(method="gaussian", seed=0).fit(x for x in textures(120))
    np.testing.assert_array_equal(again.calibration_scores, detector.calibration_scores)
    assert again.facts.sha256 == detector.facts.sha256
    assert again.facts.source == "generator"
    used = iter(IMAGES)
    detector.score(used)
    with mistake("bad-source", "can be read only once, so make it anew"):
        detector.score(used)


def test_a_flow_learns_the_same_from_paths_as_from_the_array(tmp_path: Path) -> None:
    images = textures(110, seed=8)
    for i, image in enumerate(images):
        (tmp_path / f"{i:03}.png").write_bytes(png(image))
    options: dict[str, Any] = {"epochs": 1, "seed": 2}
    plain = Detector(**options).fit(images)
    paths = Detector(**options).fit(sorted(tmp_path.iterdir()))
    for name, scores in plain.calibration.items():
        np.testing.assert_array_equal(paths.calibration[name], scores)


def test_which_column_holds_the_images(tmp_path: Path) -> None:
    import datasets

    two = {"left": rows_of(IMAGES), "right": rows_of(255 - IMAGES), "label": LABELS}
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table(two), tmp_path / "set" / "train.parquet")
    data = datasets.Dataset.from_dict(two)
    data = data.cast_column("left", datasets.Image()).cast_column("right", datasets.Image())
    file, named = f"{tmp_path}/set/train.parquet", f"hf:{tmp_path}/set"
    data.to_parquet(file)  # which says which columns are images
    for source, cure in (
        (file, f"{file}:left"),
        (f"{tmp_path}/set", f"{tmp_path}/set:left"),
        (data, "data['left']"),
        (data.to_iterable_dataset(), "data['left']"),
        (named, f"{named}:default:train:left"),
    ):
        with mistake(
            "bad-source", f"has several columns of images, left, right: choose one, as in {cure}"
        ):
            open_images(source)
        assert not holds_vectors(source)
    for source in (
        f"{file}:right",
        f"{tmp_path}/set:right",
        data["right"],
        data.to_iterable_dataset()["right"],
        f"{named}:default:train:right",
        f"{named}:default:train[:100%]:right",
    ):
        np.testing.assert_array_equal(open_images(source).read()[:, 0], 255 - IMAGES)
    assert open_images(f"{file}:right").labels().tolist() == LABELS  # type: ignore[union-attr]
    with mistake("bad-source", "has no column middle, only left, right, label"):
        open_images(f"{file}:middle")
    with mistake("bad-source", "has no column middle, only left, right, label"):
        open_images(f"{named}:default:train:middle")
    # The only column of images needs no name, whatever it is called.
    np.testing.assert_array_equal(
        open_images(data.select_columns(["right", "label"])).read()[:, 0], 255 - IMAGES
    )


def test_case_12_of_columns_of_a_table(tmp_path: Path) -> None:
    encoded = [png(x) for x in IMAGES]
    twice = pa.Table.from_arrays([pa.array(encoded)] * 2, names=["image", "image"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with mistake("bad-source", "has several columns image: name them apart"):
        open_images(tmp_path / "twice.parquet")
    with mistake("bad-source", "has several columns image: name them apart"):
        Detector().fit(tmp_path / "twice.parquet")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    paths = [{"bytes": None, "path": path} for path in files(tmp_path / "f")]
    pq.write_table(pa.table({"image": pa.array(paths, kind)}), tmp_path / "paths.parquet")
    np.testing.assert_array_equal(open_images(tmp_path / "paths.parquet").read()[:, 0], IMAGES)
    (tmp_path / "plain").mkdir()
    pq.write_table(pa.table({"image": encoded}), tmp_path / "plain" / "train-0.parquet")
    np.testing.assert_array_equal(open_images(f"hf:{tmp_path}/plain").read()[:, 0], IMAGES)


def test_groups_and_a_look_at_some_images_reach_across_shards(tmp_path: Path) -> None:
    for k, start in enumerate((0, 40, 80)):
        part = textures(40, seed=k)
        parquet(
            tmp_path / "s" / f"{k}.parquet",
            part,
            camera=[f"c{i % 3}" for i in range(start, start + 40)],
        )
    source = open_images(tmp_path / "s")
    assert groups_of(source, "camera") == [f"c{i % 3}" for i in range(120)]
    assert source.remarks() == ["table: 3 Parquet files are read as one, in the order of names"]
    _, some, _, _ = source.parts()
    assert some is not None
    whole = source.read()
    for place, item in some([0, 39, 40, 79, 80, 119]):
        np.testing.assert_array_equal(open_images(item).read()[0], whole[place])


def test_a_folder_of_images_is_one_whatever_tables_lie_in_it(tmp_path: Path) -> None:
    files(tmp_path)
    parquet(tmp_path / "scores.parquet", IMAGES[:2])
    source = open_images(tmp_path)
    assert len(source) == 9
    assert ".parquet 1" in source.remarks()[0]


class NoLength:
    pass


MIXED = "give only one kind"
IMAGE = Image.fromarray(IMAGES[0])
BAD: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "paths and arrays": (lambda tmp: ["a.png", IMAGES[0]], "bad-source", MIXED),
    "Pillow and arrays": (lambda tmp: [IMAGE, IMAGES[0]], "bad-source", MIXED),
    "arrays, then bytes, once": (
        lambda tmp: iter([IMAGES[0], png(IMAGES[0])]),
        "bad-source",
        MIXED,
    ),
    "a hole in a list": (lambda tmp: [png(IMAGES[0]), None], "bad-image", "item 1 is None"),
    "a hole in a Series": (
        lambda tmp: pd.Series(["a.png", None], dtype=object),
        "bad-image",
        "item 1 is None",
    ),
    "numbers": (lambda tmp: [3, 4], "bad-image", "item 0 is 3, and no image"),
    "a list without an image": (lambda tmp: [], "bad-source", "holds no images"),
    "a missing file of a list": (
        lambda tmp: [*files(tmp / "f"), tmp / "gone.png"],
        "bad-image",
        "gone.png cannot be opened (No such file or directory): put the file there, or leave it",
    ),
    "an empty pattern": (lambda tmp: f"{tmp}/*.jpg", "bad-source", "no file matches: look at"),
    "a pattern of folders": (
        lambda tmp: files(tmp / "f") and f"{tmp}/f/*",
        "bad-source",
        "put ** for folders in between",
    ),
    "an empty generator": (lambda tmp: iter(()), "bad-source", "can be read only once"),
    "floats up to 255, once": (
        lambda tmp: (x.astype(float) for x in IMAGES),
        "bad-image",
        "generator: image 0 has the value",
    ),
    "sizes that differ, once": (
        lambda tmp: iter([IMAGES[0], IMAGES[1][1:]]),
        "wrong-shape",
        "image 1 is uint8 (11, 12), but the first is uint8 (12, 12)",
    ),
    "text, once": (lambda tmp: iter([np.array(["x"])]), "bad-image", "holds <U1 values"),
    "dicts without an image": (
        lambda tmp: Torch(lambda i: {"pixel_values": tensor(i)}),
        "bad-source",
        'item 0 is a dict of pixel_values: call the image "image", or give the images alone',
    ),
    "a list of arrays, an item": (
        lambda tmp: DataLoader(Torch(tensor), batch_size=4, collate_fn=list),
        "bad-source",
        "item 0 is a list of several arrays: give them as one, or give the images alone",
    ),
    "a dict of splits": (
        lambda tmp: {"train": IMAGES, "test": IMAGES},
        "bad-source",
        "a dict of train, test is not a source of images: give one of them, such as data['train']",
    ),
    "a set of splits": (
        lambda tmp: __import__("datasets").DatasetDict({"train": hub(), "test": hub()}),
        "bad-source",
        "a dict of train, test is not a source of images: give one of them, such as data['train']",
    ),
    "no source": (lambda tmp: NoLength(), "bad-source", "NoLength: not a source of images"),
    "a frame without images": (
        lambda tmp: pd.DataFrame({"photo": ["a.png"]}),
        "bad-source",
        "has no column image, only photo: choose the one of the images, as in frame['photo']",
    ),
    "a frame with two": (
        lambda tmp: pd.DataFrame([["a", "b"]], columns=["image", "image"]),
        "bad-source",
        "several columns image",
    ),
    "a tensor of no device": (
        lambda tmp: torch.ones(2, 9, 7, device="meta"),
        "bad-source",
        "array",
    ),
    "a split that is not there": (
        lambda tmp: f"{medmnist(tmp / 'm.npz')}:all",
        "bad-source",
        "there is no split all, only the arrays",
    ),
    "several splits": (
        lambda tmp: medmnist(tmp / "m.npz"),
        "bad-source",
        "choose a split, as in",
    ),
    "shards of other types": (
        lambda tmp: (
            pq.write_table(pa.table({"image": ["text"]}), shards(tmp) / "02.parquet"),
            tmp / "shards",
        )[1],
        "bad-source",
        "02.parquet: the column image is string, but in",
    ),
    "a shard that is none": (
        lambda tmp: ((shards(tmp) / "02.parquet").write_text("x"), tmp / "shards")[1],
        "damaged",
        "02.parquet: is truncated or not a Parquet file",
    ),
    "a name that is too long": (lambda tmp: "a" * 5000, "bad-source", "there is no such file"),
    "a pattern that is too long": (lambda tmp: f"{tmp}/{'*' * 5000}", "bad-source", "no file"),
    "a path that none can be": (lambda tmp: ["a\0b"], "bad-image", "and no image"),
    "flat rows, once": (
        lambda tmp: iter([np.ones(3)]),
        "wrong-shape",
        "image 0 is a row of 3 numbers: for embeddings and tables give encoder='vectors'",
    ),
    "a path and a text as a list": (
        lambda tmp: [["a.png", "cat"]] * 2,
        "bad-image",
        "item 0 is ['a.png', 'cat'], and no image: give paths, or pairs (path, label) as tuples",
    ),
    "pairs of images": (
        lambda tmp: [("a.png", "b.png")] * 2,
        "bad-image",
        "item 0 is ['a.png', 'b.png'], and no image",
    ),
    "one text as an array": (
        lambda tmp: np.array("a.png"),
        "bad-image",
        "array: holds <U5 values",
    ),
    "an array of pairs": (
        lambda tmp: np.array([["a.png", "cat"]] * 2),
        "bad-image",
        "item 0 is ['a.png', 'cat'], and no image",
    ),
}


@pytest.mark.parametrize("mistaken", BAD)
def test_a_mistake_is_one_line(mistaken: str, tmp_path: Path) -> None:
    make, code, words = BAD[mistaken]
    with mistake(code, words):  # type: ignore[arg-type]
        open_images(make(tmp_path)).read()


def test_nothing_is_left_open(tmp_path: Path) -> None:
    """Neither what was read once, nor what broke off, nor files of which the size is read."""
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")

    def breaks_off() -> Iterator[Any]:
        yield from IMAGES
        raise LookupError

    gc.collect()  # what other tests have left open is theirs
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        source = open_images(iter(IMAGES))
        with pytest.raises(LookupError):
            open_images(breaks_off())
        assert open_images(tmp_path).sizes() == [IMAGES.shape[1:]]
        gc.collect()
        assert not caught
    np.testing.assert_array_equal(source.read()[:, 0], IMAGES)


def test_an_array_of_an_npz_file_may_be_called_anything(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"a b": IMAGES, "c/d": IMAGES[::-1]})
    with mistake("bad-source", f"choose an array, as in {tmp_path}/x.npz:a b"):
        open_images(tmp_path / "x.npz")
    np.testing.assert_array_equal(open_images(f"{tmp_path}/x.npz:a b").read()[:, 0], IMAGES)
    np.testing.assert_array_equal(open_images(f"{tmp_path}/x.npz:c/d").read()[:, 0], IMAGES[::-1])


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with mistake("cannot-write", "(No space left on device): make room, or set TMPDIR"):
        open_images(iter(IMAGES))


# --- rows of numbers


def test_rows_of_numbers_in_npz_and_in_shards(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(9, 4))
    np.savez(tmp_path / "one.npz", embeddings=values)
    np.savez_compressed(tmp_path / "two.npz", train=values, other=np.zeros((3, 2, 2)))
    frame = pd.DataFrame(values, columns=list("abcd"))
    (tmp_path / "s" / "more").mkdir(parents=True)
    frame[:5].to_parquet(tmp_path / "s" / "0.parquet")
    frame[5:].to_parquet(tmp_path / "s" / "more" / "1.parquet")
    for source in (
        tmp_path / "one.npz",
        f"{tmp_path}/one.npz:embeddings",
        f"{tmp_path}/two.npz:train",
        tmp_path / "s",
        f"{tmp_path}/s/**/*.parquet",
    ):
        assert holds_vectors(source), source
        np.testing.assert_array_equal(open_vectors(source).read()[:, 0, 0], values)
    assert open_vectors(tmp_path / "s").columns == list("abcd")
    assert "2 Parquet files are read as one" in open_vectors(tmp_path / "s").remarks()[0]
    assert not holds_vectors(f"{tmp_path}/two.npz:other")
    with mistake("bad-source", "two.npz: holds the arrays train, other: choose an array, as in"):
        Detector().fit(tmp_path / "two.npz")
    with mistake("bad-source", "rows of numbers are an array (N, D)"):
        open_vectors(f"{tmp_path}/two.npz:other")
