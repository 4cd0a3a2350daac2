"""Masks of defects, the layout of MVTec AD, and figures of maps against both."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner, Result

from approxmass import Detector, open_images
from approxmass.cli.main import app
from approxmass.data import ImageSource, open_labels
from approxmass.data.masks import open_masks
from approxmass.errors import ApproxMassError
from approxmass.evaluation import assess
from approxmass.explain.attribution import cell_side
from conftest import SHARED, mistake, textures, unsquashed

KINDS = {"hole": 3, "stain": 5}


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)


def defects(n: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Textures with a square of noise each, and where it is."""
    rng = np.random.default_rng(seed)
    images, masks = textures(n, seed=seed), np.zeros((n, 12, 12), bool)
    for image, mask in zip(images, masks, strict=True):
        row, column = rng.integers(0, 12 - side, 2)
        mask[row : row + side, column : column + side] = True
        image[mask] = rng.integers(0, 256, side * side)
    return images, masks


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(epochs=4, seed=1).fit(textures(400))


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of MVTec AD."""
    root = tmp_path_factory.mktemp("mvtec") / "wood"
    for i, image in enumerate(textures(400)):
        write(root / "train" / "good" / f"{i:03}.png", image)
    for i, image in enumerate(textures(60, seed=1)):
        write(root / "test" / "good" / f"{i:03}.png", image)
    for kind, side in KINDS.items():
        for i, (image, mask) in enumerate(zip(*defects(30, side, seed=side), strict=True)):
            write(root / "test" / kind / f"{i:03}.png", image)
            write(root / "ground_truth" / kind / f"{i:03}_mask.png", 255 * mask.astype(np.uint8))
    (root / "license.txt").write_text("free")
    return root


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def by_hand(detector: Detector, good: Any, sets: list[tuple[Any, np.ndarray]]) -> dict[str, float]:
    """Pixel AUROC and hits, from all pixels and one image after the other."""
    values, marks, hits = [], [], []
    for images, masks in [(good, np.zeros((len(good), 12, 12), bool)), *sets]:
        found = detector.explain(images)
        values += [surface.ravel() for surface in found.maps]
        marks += [mask.ravel() for mask in masks]
        for surface, mask in zip(found.maps, masks, strict=True):
            if mask.any():
                row, column = np.unravel_index(surface.argmax(), surface.shape)
                near = [np.hypot(row - r, column - c) <= 1 for r, c in np.argwhere(mask)]
                hits.append((any(near), found.scores.is_outlier[len(hits) % len(images)]))
    called = [hit for hit, flagged in hits if flagged]
    return {
        "pixel_auroc": roc_auc_score(np.concatenate(marks), np.concatenate(values)),
        "hits": float(np.mean([hit for hit, _ in hits])),
        "defects": len(hits),
        "flagged": len(called),
    }


# --- where masks are found


def source_of(folder: Path, *names: str) -> ImageSource:
    for name in names:
        write(folder / name, textures(1)[0])
    return open_images(folder)


def read(where: Any, source: ImageSource, size: tuple[int, int] = (12, 12)) -> list[int]:
    """Pixels marked in each image."""
    masks = open_masks(where, source)
    names = [name for chunk in source.chunks() for name in chunk.names]
    pairs = zip(masks.stream(), names, strict=True)
    return [int(masks.read(kept, name, size).sum()) for kept, name in pairs]


def marked(n: int, size: tuple[int, int] = (12, 12)) -> np.ndarray:
    """A mask of `n` pixels."""
    return (np.arange(size[0] * size[1]) < n).reshape(size).astype(np.uint8) * 255


def test_a_mask_in_a_folder_goes_by_the_name_of_its_image(tmp_path: Path) -> None:
    source = source_of(
        tmp_path / "crack", "a.png", "b.jpg", "deep/er/a.png", "x.y.png", "\N{SNOWMAN} 1.bmp"
    )
    masks = tmp_path / "masks"
    write(masks / "a.png", marked(1))
    write(masks / "b_mask.bmp", marked(2))
    write(masks / "deep" / "er" / "a_mask.png", marked(3))
    write(masks / "crack" / "x.y.tif", marked(4))
    write(masks / "crack" / "\N{SNOWMAN} 1_mask.png", marked(5))
    assert read(masks, source) == [1, 2, 3, 4, 5]
    assert read(str(masks), open_images(f"{tmp_path}/crack/")) == [1, 2, 3, 4, 5]


def test_arrays_have_masks_by_number_or_as_arrays(tmp_path: Path) -> None:
    source = open_images(list(textures(3)))
    for i in range(3):
        write(tmp_path / f"{i}.png", marked(i))
    assert read(tmp_path, source) == [0, 1, 2]
    assert read([None, marked(7) > 0, png(marked(2))], source) == [0, 7, 2]
    with mistake("bad-masks", "2 masks for the 3 images"):
        open_masks([None, None], source)


@pytest.mark.parametrize("as_struct", [True, False])
def test_masks_of_a_column_with_nulls(tmp_path: Path, as_struct: bool) -> None:
    cells: list[Any] = [png(marked(4)), None, png(marked(0)), png(marked(9))]
    if as_struct:
        cells = [None if cell is None else {"bytes": cell, "path": "m.png"} for cell in cells]
    images = [png(image) for image in textures(4)]
    pq.write_table(pa.table({"image": images, "m": cells, "n": [1] * 4}), tmp_path / "x.parquet")
    source = open_images(tmp_path / "x.parquet")
    assert read("m", source) == [4, 0, 0, 9]
    with mistake("bad-masks", "has no column nosuch"):
        open_masks("nosuch", source)
    with mistake("bad-source", "the column n is int64"):
        open_masks("n", source)
    # A folder serves as well.
    for i in range(4):
        write(tmp_path / "f" / f"row {i}.png", marked(i))
    assert read(tmp_path / "f", source) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "mask",
    [
        marked(5) > 0,
        marked(5) // 255,
        (marked(5) // 255).astype(np.uint16) * 300,
        (marked(5) // 255).astype(np.uint16),
        (marked(5) // 255).astype(np.int32) * 70000,
        np.stack([marked(5), *[marked(0)] * 2], 2),
        np.stack([*[marked(5)] * 3, marked(5)], 2),
    ],
    ids=["1 bit", "0 and 1", "16 bits", "16 bits, 0 and 1", "32 bits", "red", "transparent"],
)
def test_what_is_not_zero_is_marked(tmp_path: Path, mask: np.ndarray) -> None:
    source = source_of(tmp_path / "in", "a.png")
    write(tmp_path / "masks" / "a.tif", mask)
    assert read(tmp_path / "masks", source) == [5]


def spoilt(folder: Path, change: Callable[[Path], Any]) -> tuple[ImageSource, Path]:
    source = source_of(folder / "in", "a.png", "b.png", "c.png")
    for name in "abc":
        write(folder / "masks" / f"{name}.png", marked(3))
    change(folder / "masks")
    return source, folder / "masks"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda at: (at / "b.png").unlink(), "no mask for image b.png of the 3 of"),
        (lambda at: [(at / f"{n}.png").unlink() for n in "bc"], "image b.png and 1 more"),
        (lambda at: write(at / "b.png", marked(3, (12, 13))), "of image b.png is 13x12"),
        (lambda at: (at / "b.png").write_bytes(b"no image"), "the mask of image b.png cannot be"),
        (lambda at: (at / "b.png").write_bytes(b""), "the mask of image b.png is empty"),
        (lambda at: [write(at / f"b_mask.{s}", marked(1)) for s in ("bmp", "tif")], "several"),
        (shutil.rmtree, "there is no such folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_masks_is_said_in_a_line(
    tmp_path: Path, change: Callable[[Path], Any], words: str
) -> None:
    source, masks = spoilt(tmp_path, change)
    with mistake("bad-masks", words):
        read(masks, source)


def test_of_several_masks_the_one_called_like_the_image_is_taken(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in", "a.bmp", "a.png")
    write(tmp_path / "masks" / "a.bmp", marked(1))
    write(tmp_path / "masks" / "a.png", marked(2))
    assert read(tmp_path / "masks", source) == [1, 2]


def test_a_turned_photo_has_a_mask_as_it_is_seen(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((10, 20), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "a.png", exif=exif)
    source = open_images(tmp_path / "in")
    (chunk,) = source.chunks()
    assert chunk.sizes == [(20, 10)]
    write(tmp_path / "masks" / "a.png", marked(6, (20, 10)))
    assert read(tmp_path / "masks", source, (20, 10)) == [6]


# --- the layout


def test_of_mvtec_only_good_training_images_are_read(mvtec: Path) -> None:
    source = open_images(mvtec)
    np.testing.assert_array_equal(source.read()[:, 0], textures(400))
    assert open_labels(mvtec) is None
    (remark,) = source.remarks()
    assert "train/good alone is read" in remark
    assert len(open_images(mvtec / "test")) == 120


@pytest.mark.parametrize("other", ["train/bad/a.png", "train/good/a.png"])
def test_other_layouts_are_read_whole(tmp_path: Path, other: str) -> None:
    source_of(tmp_path / "x", "train/good/1.png", other)
    if "bad" in other:
        write(tmp_path / "x" / "test" / "good" / "2.png", textures(1)[0])
    source = open_images(tmp_path / "x")
    assert len(source) == (3 if "bad" in other else 2)
    assert not source.remarks()


def test_an_incomplete_layout_is_said(tmp_path: Path, detector: Detector) -> None:
    source_of(tmp_path / "x", "test/good/a.png")
    (tmp_path / "x" / "train" / "good").mkdir(parents=True)
    with mistake("bad-source", "train/good: no image"):
        open_images(tmp_path / "x")
    detector.save(tmp_path / "d")
    result = run("evaluate", tmp_path / "d", "--id", tmp_path / "x")
    assert isinstance(result.exception, ApproxMassError)
    assert "one for each kind of outlier, and has good" in str(result.exception)


# --- figures


def test_figures_are_those_of_all_pixels_of_each_kind(mvtec: Path, detector: Detector) -> None:
    test = mvtec / "test"
    found = assess(
        detector, test / "good", [test / kind for kind in KINDS], masks=mvtec / "ground_truth"
    )
    assert found.places is not None
    assert found.places.of == "gradient of fused"
    good = textures(60, seed=1)
    sets = {str(test / kind): defects(30, side, seed=side) for kind, side in KINDS.items()}
    expected = {name: by_hand(detector, good, [pair]) for name, pair in sets.items()}
    assert list(found.places.sets) == list(expected)
    cases = [(found.places.sets[name], figures) for name, figures in expected.items()]
    cases.append((found.places.together, by_hand(detector, good, list(sets.values()))))
    for place, figures in cases:
        assert place is not None
        assert place.pixel_auroc.value == pytest.approx(figures["pixel_auroc"], abs=2e-3)
        assert place.hits.value == figures["hits"]
        assert (place.defects, place.flagged) == (figures["defects"], figures["flagged"])
    facts = found.facts()["places"]
    assert facts["together"]["hits"] == asdict(cases[-1][0])["hits"]
    json.dumps(facts)


def test_masks_change_no_score(mvtec: Path, detector: Detector) -> None:
    hole = mvtec / "test" / "hole"
    plain = assess(detector, textures(40, seed=2), [hole])
    found = assess(detector, textures(40, seed=2), [hole], masks=mvtec / "ground_truth")
    assert plain.places is None
    assert "places" not in plain.facts()
    for name, scored in plain.sets.items():
        for kind, values in scored.statistics.items():
            np.testing.assert_allclose(found.sets[name].statistics[kind], values, rtol=1e-5)
        assert found.sets[name].sha256 == scored.sha256


def test_where_nothing_is_marked_there_is_no_figure(detector: Detector) -> None:
    images, masks = defects(20, 4, seed=1)
    found = assess(
        detector,
        textures(30, seed=2),
        [images, textures(10, seed=3)],
        masks=[list(masks), [None] * 10],
    ).places
    assert found is not None
    assert found.sets["array''"] is None
    one, both = found.sets["array'"], found.together
    assert one is not None
    assert both is not None
    assert one.hits == both.hits
    with mistake("bad-masks", "masks of 1 sets, and 2 of outliers"):
        assess(detector, images, [images, images], masks=[list(masks)])


def test_nothing_flagged_is_no_share(detector: Detector) -> None:
    usual = textures(40, seed=8)
    usual = usual[~detector.predict(usual)]
    mask = np.zeros((12, 12), bool)
    mask[4, 4] = True
    found = assess(detector, usual, [usual[:10]], masks=[[mask] * 10]).places
    assert found is not None
    assert found.together is not None
    assert (found.together.flagged, found.together.flagged_hits) == (0, None)


def test_masks_need_maps(mvtec: Path) -> None:
    plain = Detector(method="nearest-neighbour").fit(textures(200))
    hole = mvtec / "test" / "hole"
    with mistake("no-explanation", "fit a detector of the method flow"):
        assess(plain, textures(40), [hole], masks=mvtec / "ground_truth")


def test_a_cell_is_as_large_as_it_is_seen_in_the_image() -> None:
    # 4 x 2 cells of 16 x 32 pixels in a frame; the image has half of its height and all across.
    assert cell_side((4, 2), None, (64, 64), (64, 64)) == 32
    from approxmass.data.frame import Box

    assert cell_side((4, 4), Box(16, 0, 32, 64), (64, 64), (320, 640)) == 160
    assert cell_side((64, 64), Box(16, 0, 32, 64), (64, 64), (32, 64)) == 1


def test_images_in_a_frame_have_masks_of_their_own_size(tmp_path: Path) -> None:
    usual = [Image.fromarray(image).resize((60, 40)) for image in textures(200, seed=1)]
    framed = Detector("pca", epochs=3, size=12).fit([np.asarray(image) for image in usual])
    assert framed.shape == (1, 10, 15)
    new = np.asarray(usual[0])
    found = framed.explain([new])
    assert found.maps[0].shape == (40, 60)
    assert found.cells[0] == 4
    np.testing.assert_array_equal(framed.open([new]).read()[0, 0], unsquashed(usual[0], 10, 15))
    row, column = np.unravel_index(found.maps[0].argmax(), (40, 60))
    for away, hit in ((4, 1.0), (5, 0.0)):
        mask = np.zeros((40, 60), bool)
        mask[row, column + away if column < 50 else column - away] = True
        places = assess(framed, [new] * 3, [[new] * 3], masks=[[mask] * 3]).places
        assert places is not None
        assert places.together is not None
        assert places.together.hits.value == hit


# --- the command


def test_mvtec_from_fit_to_report(mvtec: Path, tmp_path: Path) -> None:
    result = run("fit", mvtec, "-o", tmp_path / "d", "--epochs", 4, "--seed", 1)
    assert result.exit_code == 0, result.output
    fitted = Detector.load(tmp_path / "d")
    assert fitted.facts.images == 400
    assert any("train/good alone" in note for note in fitted.facts.notes)
    page, facts = tmp_path / "r.html", tmp_path / "f.json"
    result = run("evaluate", tmp_path / "d", "--id", mvtec, "-o", page, "--json", facts)
    assert result.exit_code == 0, result.output
    assert "maps of gradient of fused against masks" in result.output
    found = json.loads(facts.read_text())
    assert found["id"] == str(mvtec / "test" / "good")
    assert list(found["places"]["sets"]) == [str(mvtec / "test" / kind) for kind in sorted(KINDS)]
    shown = found["places"]["together"]["pixel_auroc"]["value"]
    assert f"{shown:.3f}" in result.output
    text = page.read_text()
    assert "Maps against masks" in text
    assert f"{shown:.3f}" in text
    # The same by names, of one kind, and without masks.
    words = ["--id", mvtec, "--ood", mvtec / "test" / "hole", "--json", facts]
    where = mvtec / "ground_truth" / "hole"
    result = run("evaluate", tmp_path / "d", *words, "--masks", where)
    assert result.exit_code == 0, result.output
    again = json.loads(facts.read_text())
    assert again["id"] == found["id"]
    hole = str(mvtec / "test" / "hole")
    assert again["places"]["sets"][hole] == found["places"]["sets"][hole]
    assert run("evaluate", tmp_path / "d", *words).exit_code == 0
    assert "places" not in json.loads(facts.read_text())
    result = run("score", tmp_path / "d", mvtec, "-o", tmp_path / "s.csv")
    assert result.exit_code == 0
    assert "train/good alone is read" in result.output


def test_compare_takes_the_test_of_the_layout(
    mvtec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def compared(source: Any, oods: dict[str, Any], *, id_images: Any, **rest: Any) -> None:
        asked.append((source, list(oods), id_images))
        raise ApproxMassError("far enough", code="bad-option")

    monkeypatch.setattr("approxmass.evaluation.compare.compare", compared)
    test, good = mvtec / "test", str(mvtec / "test" / "good")
    kinds = [str(test / kind) for kind in sorted(KINDS)]
    run("compare", mvtec)
    run("compare", mvtec, "--ood", test / "hole")
    run("compare", test / "good", "--ood", test / "hole")
    run("compare", test / "good", "--id", mvtec)
    assert asked == [
        (str(mvtec), kinds, good),
        (str(mvtec), kinds[:1], good),
        (good, kinds[:1], None),
        (good, kinds, good),
    ]
    missing = run("compare", good)
    assert isinstance(missing.exception, ApproxMassError)
    assert "--ood is missing" in str(missing.exception)


def test_a_method_without_maps_leaves_masks_that_nobody_asked_for(
    mvtec: Path, tmp_path: Path
) -> None:
    Detector(method="nearest-neighbour").fit(mvtec).save(tmp_path / "d")
    result = run("evaluate", tmp_path / "d", "--id", mvtec)
    assert result.exit_code == 0, result.output
    assert "is not read: nearest-neighbour has no maps" in result.output.replace("\n", " ")
    asked = run("evaluate", tmp_path / "d", "--id", mvtec, "--masks", mvtec / "ground_truth")
    assert isinstance(asked.exception, ApproxMassError)
    assert asked.exception.code == "no-explanation"


def test_outliers_are_needed(mvtec: Path, detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "d")
    inside = mvtec / "test" / "good"
    for words in (["--id", inside], ["--id", inside, "--ood", mvtec]):
        result = run("evaluate", tmp_path / "d", *words)
        assert isinstance(result.exception, ApproxMassError)
        assert result.exception.code == "bad-option"
        assert "MVTec AD" in str(result.exception)


def test_a_parquet_file_with_a_column_of_masks(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "d")
    images, masks = defects(25, 5, seed=9)
    cells = [png(255 * mask.astype(np.uint8)) for mask in masks[:20]] + [None] * 5
    table = pa.table({"image": [png(image) for image in images], "mask": cells})
    pq.write_table(table, tmp_path / "bad.parquet")
    np.save(tmp_path / "good.npy", textures(50, seed=4))
    words = ["--id", tmp_path / "good.npy", "--ood", tmp_path / "bad.parquet", "--masks", "mask"]
    result = run("evaluate", tmp_path / "d", *words, "--json", "-")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["places"]["together"]
    marks = np.concatenate([masks[:20], np.zeros((5, 12, 12), bool)])
    expected = by_hand(detector, textures(50, seed=4), [(images, marks)])
    assert found["pixel_auroc"]["value"] == pytest.approx(expected["pixel_auroc"], abs=2e-3)
    assert found["defects"] == 20
    result = run("evaluate", tmp_path / "d", *words)
    assert f"{found['hits']['value']:.3f} of 20" in result.output


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs real images")
def test_masks_of_real_photos_are_read() -> None:
    path = SHARED / "magnetic_tile" / "test.parquet"
    source = open_images(path)
    masks = open_masks("mask", source)
    labels = open_labels(source)
    assert labels is not None
    some = []
    for i, (kept, size) in enumerate(zip(masks.stream(), source.sizes(), strict=True)):
        if labels[i] and i % 9 == 0:
            some.append(masks.read(kept, str(i), size).mean())
    assert len(some) > 10
    assert 0 < np.median(some) < 0.3
