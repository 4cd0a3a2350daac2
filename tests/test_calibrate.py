"""New calibrations of a fitted detector: for all images, or for each group of them."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from approxmass import Detector
from approxmass.calibration import p_values
from approxmass.data import open_images
from conftest import mistake, textures
from test_cli import refused, run

Images = NDArray[np.uint8]


def camera(n: int, *, darker: int, seed: int) -> Images:
    """Textures as a camera of its own sees them."""
    return (textures(n, seed=seed).astype(int) - darker).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector fitted on images of one camera."""
    folder = tmp_path_factory.mktemp("fitted") / "detector"
    Detector(epochs=3).fit(textures(400)).save(folder)
    return folder


def write(folder: Path, images: Images) -> None:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.png")


def table(path: Path, images: Images, cameras: list[str | None]) -> None:
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(pa.table({"image": encoded, "camera": pa.array(cameras, pa.string())}), path)


def test_another_camera_is_called_until_it_is_calibrated_for(fitted: Path) -> None:
    detector = Detector.load(fitted)
    new = camera(600, darker=40, seed=3)
    assert detector.predict(new).mean() > 0.3
    detector.calibrate(camera(199, darker=40, seed=2))
    flagged = int(detector.predict(new).sum())
    low, high = stats.betabinom(600, 10, 190).ppf([0.001, 0.999])
    assert low <= flagged <= high
    # All by the new images alone.
    scores = detector.score(new[:50])
    expected = p_values(detector.calibration_scores, scores.statistic)
    np.testing.assert_array_equal(scores.p_value, expected)
    assert len(detector.calibration_scores) == 199
    found = detector.explain(new[:20])
    assert len(found.usual) == 199
    np.testing.assert_array_equal(found.p_value, p_values(found.usual, found.peaks))


def test_each_group_is_compared_with_itself(fitted: Path) -> None:
    detector = Detector.load(fitted)
    cameras = {"east": 0, "west": 60}
    images = np.concatenate([camera(60, darker=d, seed=5) for d in cameras.values()])
    names = [name for name in cameras for _ in range(60)]
    order = np.random.default_rng(0).permutation(120)
    detector.calibrate(images[order], per=[names[i] for i in order])
    alone = {
        name: Detector.load(fitted).calibrate(images[60 * i : 60 * i + 60])
        for i, name in enumerate(cameras)
    }
    new = np.concatenate([camera(40, darker=d, seed=6) for d in cameras.values()])
    own = ["east"] * 40 + ["west"] * 40
    mixed = np.random.default_rng(1).permutation(80)
    scores = detector.score(new[mixed], per=[own[i] for i in mixed])
    assert scores.group is not None
    assert scores.group.tolist() == [own[i] for i in mixed]
    found = detector.explain(new[mixed], per=[own[i] for i in mixed])
    for name in cameras:
        rows = scores.group == name
        expected = alone[name].score(new[mixed][rows])
        np.testing.assert_array_equal(scores.p_value[rows], expected.p_value)
        maps = alone[name].explain(new[mixed][rows])
        np.testing.assert_array_equal(found.p_value[rows], maps.p_value)
        assert found.threshold(0.05, int(np.flatnonzero(rows)[0])) == maps.threshold(0.05)
        one = detector.calibrated_for(name)
        np.testing.assert_array_equal(one.score(new).p_value, alone[name].score(new).p_value)
        shift = detector.group_p_value(new[mixed][rows], per=[name] * 40)
        assert shift == alone[name].group_p_value(new[mixed][rows])
    # West by the images of east would nearly all be outliers.
    assert scores.is_outlier[scores.group == "west"].mean() < 0.3
    assert detector.calibrated_for("east").predict(new[40:]).mean() > 0.6
    with mistake("bad-group", "several groups"):
        detector.group_p_value(new, per=own)
    with mistake("bad-group", "of which image"):
        found.threshold()


def test_calibrations_are_kept_with_their_dates(fitted: Path, tmp_path: Path) -> None:
    detector = Detector.load(fitted)
    first = detector.calibration_scores
    detector.calibrate(camera(30, darker=9, seed=2))
    detector.calibrate(camera(40, darker=9, seed=4), per=["a", "b"] * 20)
    detector.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    runs = loaded.fitted.calibrations
    assert [(run.count, run.per) for run in runs] == [(30, None), (30, None), (40, "given")]
    assert runs[0].made <= runs[1].made <= runs[2].made
    np.testing.assert_array_equal(runs[0].only.scores["fused"], first)
    new = textures(10, seed=9)
    again = loaded.score(new, per=["b"] * 10)
    np.testing.assert_array_equal(again.p_value, detector.score(new, per=["b"] * 10).p_value)
    shown = run("inspect", tmp_path / "d")
    assert shown.exit_code == 0, shown.output
    for words in ("earlier calibrations", runs[1].made[:10], "threshold at 5%, a"):
        assert words in " ".join(shown.output.split()), words
    facts = json.loads(run("inspect", tmp_path / "d", "--json", "-").stdout)
    assert [each["groups"] for each in facts["calibrations"]][2] == {
        "a": {"images": 20, "folds": 1},
        "b": {"images": 20, "folds": 1},
    }
    assert facts["realised_rate"]["a"]["average"] == pytest.approx(1 / 21)


def test_cameras_in_subfolders(fitted: Path, tmp_path: Path) -> None:
    for name, darker in (("east", 0), ("west", 50)):
        write(tmp_path / "usual" / name, camera(25, darker=darker, seed=7))
        write(tmp_path / "new" / name, camera(5, darker=darker, seed=8))
    target = tmp_path / "two cameras"
    words = ["calibrate", fitted, tmp_path / "usual", "--per", "subfolder", "-o", target]
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert Detector.load(fitted).fitted.in_use.per is None  # as it was
    write(tmp_path / "new" / "north", camera(2, darker=0, seed=8))
    scored = run("score", target, tmp_path / "new", "-o", tmp_path / "s.csv", "--json", "-")
    assert scored.exit_code == 0, scored.output
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert [row["group"] for row in rows] == ["east"] * 5 + [""] * 2 + ["west"] * 5
    for row in rows:
        strange = row["name"].startswith("north")
        assert ("calibrate with usual ones of it" in row["error"]) == strange
        assert (row["p_value"] == "") == strange
    facts = json.loads(scored.stdout)
    assert (facts["scored"], facts["skipped"]) == (10, 2)
    assert set(facts["group_p_value"]) == {"east", "west"}
    expected = Detector.load(target).calibrated_for("west").score(tmp_path / "new" / "west")
    assert [float(row["p_value"]) for row in rows[7:]] == expected.p_value.tolist()
    # One camera's images, in no subfolder.
    refused("bad-group", "score", target, tmp_path / "new" / "west", "-o", tmp_path / "w.csv")
    words = ["score", target, tmp_path / "new" / "west", "-o", tmp_path / "w.csv"]
    assert run(*words, "--for", "west").exit_code == 0
    assert "group" not in (tmp_path / "w.csv").read_text().splitlines()[0]
    refused("bad-group", *words, "--for", "north", naming="'east', 'west'")
    pictures = ["explain", target, tmp_path / "new", "-o", tmp_path / "why", "--json", "-"]
    explained = json.loads(run(*pictures).stdout)
    assert [row["group"] for row in explained["images"]] == ["east"] * 5 + ["west"] * 5
    assert len(explained["skipped"]) == 2


def test_cameras_in_a_column_and_in_place(fitted: Path, tmp_path: Path) -> None:
    place = tmp_path / "detector"
    Detector.load(fitted).save(place)
    images = camera(50, darker=20, seed=7)
    table(tmp_path / "usual.parquet", images, ["1", "2"] * 25)
    done = run("calibrate", place, tmp_path / "usual.parquet", "--per", "camera")
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["detector"]
    table(tmp_path / "new.parquet", images[:3], ["2", None, "1"])
    assert (
        run("score", place, tmp_path / "new.parquet", "-o", tmp_path / "s.parquet").exit_code == 0
    )
    rows = pq.read_table(tmp_path / "s.parquet").to_pydict()
    assert rows["group"] == ["2", None, "1"]
    assert "it has no value for camera" in rows["error"][1]
    np.save(tmp_path / "none.npy", images)
    words = ["score", place, tmp_path / "none.npy", "-o", tmp_path / "n.csv"]
    refused("bad-group", *words, naming="is no Parquet file with a column camera")
    refused("bad-group", "calibrate", place, tmp_path / "usual.parquet", "--per", "line")
    table(tmp_path / "gap.parquet", images, ["1", None] * 25)
    words = ["calibrate", place, tmp_path / "gap.parquet", "--per", "camera"]
    refused("bad-group", *words, naming="image 1 is in no group")
    table(tmp_path / "few.parquet", images, ["1"] * 32 + ["2"] * 18)
    words = ["calibrate", place, tmp_path / "few.parquet", "--per", "camera"]
    refused("too-few", *words, naming="group '2'")


def test_doors_that_need_one_calibration_say_so(fitted: Path, tmp_path: Path) -> None:
    place = tmp_path / "detector"
    detector = Detector.load(fitted).calibrate(camera(40, darker=0, seed=2), per=["a", "b"] * 20)
    detector.save(place)
    np.save(tmp_path / "x.npy", textures(30, seed=3))
    words = [place, "--id", tmp_path / "x.npy", "--ood", tmp_path / "x.npy"]
    refused("bad-group", "evaluate", *words, naming="--for NAME")
    assert run("evaluate", *words, "--for", "a").exit_code == 0
    (tmp_path / "in").mkdir()
    words = ["watch", place, tmp_path / "in", "-o", tmp_path / "log.csv", "--until-idle", 0]
    refused("bad-group", *words, naming="--for NAME")
    assert run(*words, "--for", "b").exit_code == 0
    for mistaken in (
        lambda: detector.score(textures(2)),
        lambda: detector.score(textures(2), per=["a"]),
        lambda: detector.score(textures(2), per=["a", "c"]),
        lambda: detector.calibration_scores,
        lambda: detector.realised_rate(),
        lambda: detector.calibrated_for("c"),
        lambda: Detector.load(fitted).score(textures(2), per=["a", "a"]),
        lambda: Detector.load(fitted).calibrated_for("a"),
    ):
        with mistake("bad-group"):
            mistaken()
    with mistake("too-few", "at least 19"):
        detector.calibrate(textures(18, seed=4))
    with mistake("too-few", "0 images besides copies of others and images of the fit"):
        detector.calibrate(textures(400))
    # What cannot be resolved in the group with the fewest images.
    with mistake("rate"):
        detector.predict(textures(2), 0.01, per=["a", "b"])


def test_a_part_of_a_folder_keeps_its_groups(fitted: Path, tmp_path: Path) -> None:
    from approxmass.data.groups import groups_of
    from approxmass.data.part import part_of

    write(tmp_path / "a", textures(3))
    write(tmp_path / "b", textures(3))
    source = open_images(tmp_path)
    some = part_of(source, np.array([1, 0, 0, 0, 1, 1], bool), "some")
    assert groups_of(some, "subfolder") == ["a", "b", "b"]
