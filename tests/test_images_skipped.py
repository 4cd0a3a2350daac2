"""Every image is accounted for: scored, skipped with its reason, or left out by its kind."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from approxmass import Detector, open_images
from approxmass.cli.main import app
from approxmass.data.skipping import Skips, readable_part
from approxmass.evaluation.assess import assess
from approxmass.evaluation.compare import compare
from conftest import mistake, textures

BROKEN = (3, 50, 99)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def folder_of(folder: Path, images: Any, broken: tuple[int, ...] = ()) -> Path:
    """PNG files, and among them, at these places, some that cannot be read."""
    folder.mkdir()
    names = [f"{i:03}.png" for i in range(len(images) + len(broken))]
    rest = iter(images)
    for i, name in enumerate(names):
        if i in broken:
            (folder / name).write_bytes(b"\x89PNG\r\n\x1a\nand no more")
        else:
            Image.fromarray(next(rest)).save(folder / name)
    return folder


def bad_names(broken: tuple[int, ...] = BROKEN) -> list[str]:
    return [f"{i:03}.png" for i in broken]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors' worth of folders: with some images that cannot be read, and without."""
    folder = tmp_path_factory.mktemp("place")
    folder_of(folder / "whole", textures(120))
    folder_of(folder / "some", textures(120), BROKEN)
    folder_of(folder / "new", textures(60, seed=5))
    folder_of(folder / "new-some", textures(60, seed=5), (2,))
    folder_of(folder / "out", textures(40, shift=1.0, seed=6))
    folder_of(folder / "out-some", textures(40, shift=1.0, seed=6), (0, 7))
    Detector(method="gaussian").fit(folder / "whole").save(folder / "detector")
    return folder


# --- a fit


@pytest.mark.parametrize(
    "options",
    [{}, {"trim": 0.1}, {"calibration": "folds"}, {"method": "gaussian"}, {"size": 9}],
    ids=str,
)
def test_a_fit_is_that_without_the_images_that_cannot_be_read(
    place: Path, options: dict[str, Any]
) -> None:
    options = {"epochs": 1, **options} if options.get("method") is None else options
    plain = Detector(**options).fit(place / "whole")
    found = Detector(**options).fit(place / "some")
    new = textures(30, seed=9)
    assert found.score(new).p_value.tolist() == plain.score(new).p_value.tolist()
    assert found.score(new).statistic.tolist() == plain.score(new).statistic.tolist()
    assert found.facts.sha256 == plain.facts.sha256
    assert [line.split()[0] for line in found.facts.skipped] == bad_names()
    assert found.skipped == found.facts.skipped
    assert all("cannot be decoded" in line for line in found.skipped)
    assert any("3 of 123 images cannot be read" in note for note in found.facts.notes)
    assert plain.skipped == ()
    assert found.facts.images + len(found.facts.skipped) + len(found.facts.trimmed) == 123


def test_what_goes_with_the_images_goes_with_those_that_are_left(place: Path) -> None:
    labels, groups = np.arange(123) % 2, np.arange(123) // 3
    keep = np.delete(np.arange(123), BROKEN)
    found = Detector("pixels", method="flow", epochs=1)
    plain = Detector("pixels", method="flow", epochs=1)
    found.fit(place / "some", groups=groups)
    plain.fit(place / "whole", groups=groups[keep])
    assert (
        found.score(textures(9)).statistic.tolist() == plain.score(textures(9)).statistic.tolist()
    )
    new = textures(9)
    with_labels = Detector(method="mahalanobis", epochs=1).fit(place / "some", labels)
    same = Detector(method="mahalanobis", epochs=1).fit(place / "whole", labels[keep])
    assert with_labels.score(new).statistic.tolist() == same.score(new).statistic.tolist()


def test_what_was_skipped_is_kept_with_the_detector(place: Path, tmp_path: Path) -> None:
    made = Detector(method="gaussian").fit(place / "some")
    made.save(tmp_path / "d")
    assert Detector.load(tmp_path / "d").facts.skipped == made.facts.skipped
    facts = json.loads(run("inspect", tmp_path / "d", "--json", "-").output)
    assert [line.split()[0] for line in facts["skipped_names"]] == bad_names()


def test_images_of_another_size_are_skipped_too(place: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", textures(60))
    Image.fromarray(textures(1, side=7)[0]).save(folder / "999.png")
    detector = Detector.load(place / "detector")
    found = assess(detector, folder, [place / "out"]).sets[str(folder)]
    assert found.skipped[0][0] == "999.png"
    assert found.skipped[0][1].startswith("is 7x7 grey, but what is needed is 12x12 grey")
    (line,) = detector.calibrate(folder).skipped
    assert line.startswith("999.png is 7x7 grey")


def test_rows_of_numbers(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(80, 3))
    holed = np.insert(rows, 5, np.nan, axis=0)
    one, other = Detector(epochs=1).fit(holed), Detector(epochs=1).fit(rows)
    assert one.score(rows).statistic.tolist() == other.score(rows).statistic.tolist()
    assert one.skipped[0].startswith("5 has no value")
    with mistake("bad-image", "row 5 has no value"):
        Detector(epochs=1).fit(holed, skip_limit=0)


# --- the limit


@pytest.mark.parametrize("limit", [0.02, 0])
def test_more_than_the_limit_stop_everything(place: Path, limit: float, tmp_path: Path) -> None:
    words = "003.png cannot be decoded" if limit else "some: image 003.png cannot be decoded"
    detector = Detector.load(place / "detector")
    with mistake("bad-image", words):
        Detector(method="gaussian").fit(place / "some", skip_limit=limit)
    with mistake("bad-image", words):
        detector.calibrate(place / "some", skip_limit=limit)
    with mistake("bad-image", words):
        assess(detector, place / "some", [place / "out"], skip_limit=limit)
    with mistake("bad-image", words):
        compare(place / "some", {"out": place / "out"}, skip_limit=limit)
    target = tmp_path / "s.csv"
    for line in (
        ["fit", place / "some", "-o", tmp_path / "d", "--method", "gaussian"],
        ["score", place / "detector", place / "some", "-o", target],
        ["evaluate", place / "detector", "--id", place / "some", "--ood", place / "out"],
        ["calibrate", place / "detector", place / "some", "-o", tmp_path / "d"],
        ["compare", place / "some", "--ood", place / "out"],
    ):
        with mistake("bad-image", "003.png cannot be decoded"):
            result = run(*line, "--skip-limit", limit)
            assert result.exception is not None, line
            raise result.exception
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [-0.1, 1.5, True, "5%", float("nan")])
def test_a_limit_is_a_share(limit: Any) -> None:
    with mistake("bad-option", "a share from 0 to 1"):
        Detector(method="gaussian").fit(textures(60), skip_limit=limit)


def test_a_share_of_all_is_counted_exactly(tmp_path: Path) -> None:
    source = open_images(folder_of(tmp_path / "x", textures(95), tuple(range(0, 50, 10))))
    kept, skips = readable_part(source, 0.05)
    assert (len(kept), len(skips.found)) == (95, 5)
    with mistake("bad-image", "more than 4.9% of its 100 images cannot be read (the skip limit)"):
        readable_part(source, 0.049)
    assert Skips(source, 0.05).said == ""


def test_not_one_image_is_left(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", [], tuple(range(40)))
    with mistake("bad-image", "no image can be read"):
        Detector(method="gaussian").fit(folder, skip_limit=1)


# --- the other commands


def test_evaluate_and_report(place: Path, tmp_path: Path) -> None:
    words = ["evaluate", place / "detector", "--id", place / "new", "--ood", place / "out"]
    some = [*words[:3], place / "new-some", "--ood", place / "out-some"]
    assert run(*words, "--json", tmp_path / "1.json").exit_code == 0
    page = tmp_path / "page.html"
    result = run(*some, "--json", tmp_path / "2.json", "-o", page)
    assert result.exit_code == 0, result.output
    plain, found = (json.loads((tmp_path / f"{k}.json").read_text()) for k in (1, 2))
    assert [r["metrics"] for r in plain["rows"]] == [r["metrics"] for r in found["rows"]]
    inside, outside = found["images"].values()
    assert [each["name"] for each in inside["skipped"]] == ["002.png"]
    assert [each["name"] for each in outside["skipped"]] == ["000.png", "007.png"]
    assert "cannot be decoded" in inside["skipped"][0]["reason"]
    assert (inside["count"], outside["count"]) == (60, 40)
    assert "002.png cannot be decoded" in result.output
    text = page.read_text()
    assert "1 of 61 images cannot be read and are skipped: 002.png" in text
    # Pictures stand beside their own names: both pages show the same images.
    assert run("report", *words[1:], "-o", tmp_path / "plain.html").exit_code == 0
    pictures = [
        set(re.findall(r"data:image/png;base64,[^\"]+", each))
        for each in (text, (tmp_path / "plain.html").read_text())
    ]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) > 20


def test_masks_stay_with_their_images(tmp_path: Path) -> None:
    usual, bad = textures(120, side=16), textures(30, side=16, seed=3)
    masks = [np.zeros((16, 16), bool) for _ in bad]
    for i, image in enumerate(bad):
        masks[i][i % 8 : i % 8 + 6, 4:9] = True
        image[masks[i]] = 255
    detector = Detector(epochs=2).fit(usual)
    inside = textures(40, side=16, seed=4)
    plain = assess(detector, inside, [folder_of(tmp_path / "a", bad)], masks=[masks])
    given = [*masks[:4], np.ones((3, 3), bool), *masks[4:]]
    found = assess(detector, inside, [folder_of(tmp_path / "b", bad, (4,))], masks=[given])
    assert plain.places is not None
    assert found.places is not None
    assert plain.places.together == found.places.together


def test_calibrate_compare_and_explain(place: Path, tmp_path: Path) -> None:
    for name in ("new", "new-some"):
        target = tmp_path / name
        words = ["calibrate", place / "detector", place / name, "-o", target]
        assert run(*words, "--json", tmp_path / f"{name}.json").exit_code == 0
    one, other = (Detector.load(tmp_path / name) for name in ("new", "new-some"))
    assert one.calibration_scores.tolist() == other.calibration_scores.tolist()
    facts = json.loads((tmp_path / "new-some.json").read_text())
    assert [line.split()[0] for line in facts["skipped"]] == ["002.png"]
    assert facts["calibrations"][-1]["left_out"] == 0  # which are copies

    words = ["--ood", place / "out-some", "--id", place / "new-some", "--size", 12]
    result = run("compare", place / "some", *words, "--json", tmp_path / "c.json")
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "c.json").read_text())
    assert [len(found) for found in facts["skipped"].values()] == [3, 1, 2]
    assert set(facts["counts"].values()) == {60, 40}
    assert "050.png cannot be decoded" in result.output

    Detector(epochs=1).fit(place / "whole").save(tmp_path / "flow")
    words = ["explain", tmp_path / "flow", place / "out-some", "-o", tmp_path / "p"]
    facts = json.loads(run(*words, "--json", "-").stdout)
    assert len(facts["images"]) == 40
    assert [line.split()[1] for line in facts["skipped"]] == ["000.png", "007.png"]


def test_calibrating_groups_with_some_unreadable(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cameras"
    folder.mkdir()
    folder_of(folder / "east", textures(30, seed=1), (0,))
    folder_of(folder / "west", textures(30, seed=2), (29,))
    detector = Detector.load(place / "detector").calibrate(folder, per="subfolder")
    plain = Detector.load(place / "detector").calibrate(
        np.concatenate([textures(30, seed=1), textures(30, seed=2)]),
        per=["east"] * 30 + ["west"] * 30,
    )
    for name in ("east", "west"):
        one, other = (each.fitted.in_use.of(name).scores for each in (detector, plain))
        assert one[detector.statistic].tolist() == other[detector.statistic].tolist()
    assert [line.split()[0] for line in detector.skipped] == ["east/000.png", "west/029.png"]


def test_score_gives_a_row_to_each_unless_told_to_stop(place: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", textures(20), tuple(range(0, 26, 2)))
    target = tmp_path / "s.parquet"
    words = ["score", place / "detector", folder, "-o", target, "--json", tmp_path / "f.json"]
    assert run(*words).exit_code == 0
    facts = json.loads((tmp_path / "f.json").read_text())
    assert (facts["scored"], facts["skipped"], len(facts["unreadable"])) == (20, 13, 13)
    assert pq.read_table(target).num_rows == 33
    target.unlink()
    with mistake("bad-image", "more images cannot be read than --skip-limit lets pass"):
        raise run(*words, "--skip-limit", 0.2).exception  # type: ignore[misc]
    assert not target.exists()


# --- what is left out


def png() -> bytes:
    data = io.BytesIO()
    Image.fromarray(textures(1)[0]).save(data, "png")
    return data.getvalue()


def attic(folder: Path) -> Path:
    """A folder as people have them."""
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.PNG", "c.jpeg"):
        (folder / name).write_bytes(png())
    for name in ("scan.pdf.jpg", "d.heic"):
        (folder / name).write_bytes(b"%PDF-1.7")
    for name in ("e.dcm", "f.DCM", "sub/g.dcm", "h", "notes.txt", "movie.mpg", "drawing.eps"):
        (folder / name).write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "1.png").write_bytes(png())
    (folder / "link").symlink_to(folder / "sub", target_is_directory=True)
    return folder


def left(remarks: list[str]) -> int:
    found = [re.match(r"left out: ([\d,]+) files? of", line) for line in remarks]
    return sum(int(match[1]) for match in found if match)


def test_each_file_of_a_folder_is_read_or_counted(tmp_path: Path) -> None:
    source = open_images(attic(tmp_path / "x"))
    (line,) = source.remarks()
    assert line == (
        "left out: 10 files of other kinds (.dcm 3, hidden 2, .eps 1, .mpg 1, .txt 1, "
        "links to folders 1, no suffix 1)"
    )
    # 12 files, a hidden folder, a link to a folder, and a hidden file.
    there = [p for p in (tmp_path / "x").rglob("*") if p.is_file() or p.is_symlink()]
    assert len(source) + left(source.remarks()) == len(there)
    names = [name for chunk in source.chunks() for name in chunk.names]
    errors = {n: e for chunk in source.chunks() for n, e in chunk.unreadable}
    assert len(names) == 5
    assert set(errors) == {"scan.pdf.jpg", "d.heic"}
    assert errors["scan.pdf.jpg"].startswith("is a PDF document, not an image")


def test_every_command_says_what_is_left_out(place: Path, tmp_path: Path) -> None:
    line = "left out: 1 file of another kind (.txt 1)"
    for name in ("whole", "new", "out"):
        shutil.copytree(place / name, tmp_path / name)
        (tmp_path / name / "notes.txt").write_text("x")
    json_file = tmp_path / "f.json"
    commands: list[tuple[list[Any], int, Callable[[Any], list[Any]]]] = [
        (
            ["fit", tmp_path / "whole", "-o", tmp_path / "d", "--epochs", 1],
            1,
            lambda facts: [facts["notes"]],
        ),
        (
            ["score", tmp_path / "d", tmp_path / "new", "-o", tmp_path / "s.csv"],
            1,
            lambda facts: list(facts["remarks"].values()),
        ),
        (
            ["evaluate", tmp_path / "d", "--id", tmp_path / "new", "--ood", tmp_path / "out"],
            2,
            lambda facts: [each["remarks"] for each in facts["images"].values()],
        ),
        (
            ["calibrate", tmp_path / "d", tmp_path / "new", "-o", tmp_path / "e"],
            1,
            lambda facts: [facts["remarks"]],
        ),
        (
            ["explain", tmp_path / "d", tmp_path / "new", "-o", tmp_path / "p"],
            1,
            lambda facts: list(facts["remarks"].values()),
        ),
        (
            ["compare", tmp_path / "whole", "--id", tmp_path / "new", "--ood", tmp_path / "out"],
            3,
            lambda facts: list(facts["remarks"].values()),
        ),
    ]
    for words, sets, remarks in commands:
        result = run(*words, "--json", json_file)
        assert result.exit_code == 0, result.output
        facts = json.loads(json_file.read_text())
        assert [line in str(each) for each in remarks(facts)] == [True] * sets, words
        shown = " ".join(re.sub(r"[│┃]", " ", result.output).split())
        assert shown.count("left out: 1 file of another kind") >= sets, result.output
    page = tmp_path / "page.html"
    words = ["report", tmp_path / "d", "--id", tmp_path / "new", "--ood", tmp_path / "out"]
    assert run(*words, "-o", page).exit_code == 0
    assert page.read_text().count(line) == 3  # of both sets, and of the fit among its notes


def test_what_lies_beside_tables_and_in_other_layouts(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    pq.write_table(pa.table({"image": [png(), png()]}), shards / "a.parquet")
    (shards / "README.md").write_text("x")
    assert open_images(shards).remarks() == ["left out: 1 file of another kind (.md 1)"]
    assert open_images(f"{shards}:image").remarks() == ["left out: 1 file of another kind (.md 1)"]
    assert open_images(shards / "a.parquet").remarks() == []
    url = open_images(f"file://{shards}")
    assert url.remarks() == ["left out: 1 file of another kind (.md 1)"]
    for name in ("train/good", "test/good", "test/hole"):
        (tmp_path / "mvtec" / name).mkdir(parents=True)
        (tmp_path / "mvtec" / name / "0.png").write_bytes(png())
    (tmp_path / "mvtec" / "train" / "good" / "0.raw").write_bytes(b"x")
    assert left(open_images(tmp_path / "mvtec").remarks()) == 1
    attic(tmp_path / "attic")
    assert left(open_images(f"file://{tmp_path}/attic").remarks()) >= 8


def test_a_folder_of_other_kinds_alone(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x")
    with mistake("bad-source", "left out: 1 file of another kind (.dcm 1)"):
        open_images(tmp_path)
