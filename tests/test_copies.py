"""Copies and groups: on one side of every split; and images of the fit among those tried."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from typer.testing import CliRunner

from approxmass import Detector, open_images
from approxmass.baselines import BASELINES
from approxmass.calibration import p_values
from approxmass.cli.main import app
from approxmass.data.copies import folds_of, pixel_digests, stored_digests, units_of
from approxmass.data.groups import open_groups
from approxmass.errors import ApproxMassError
from approxmass.evaluation.assess import assess
from approxmass.evaluation.compare import compare
from approxmass.models.summary import Neighbour, Residual
from approxmass.report import write_report
from approxmass.training.folds import in_folds
from approxmass.training.holdout import Shares, Units, hold_out_tenth, straddle, three_shares
from conftest import mistake, textures, write_images

# Of images of 12x12, some that the tests fit on.
FIT = {"epochs": 2}


def written(folder: Path, images: NDArray[np.uint8], names: list[str], suffix: str = "png") -> Path:
    for image, name in zip(images, names, strict=True):
        place = folder / f"{name}.{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    return folder


# --- what is a copy


def test_copies_of_files_are_found_whatever_they_are_called(tmp_path: Path) -> None:
    images = textures(4)
    written(tmp_path, images[[0, 1, 0, 2]], ["a", "b", "c/d", "e"])
    written(tmp_path, images[[1, 3]], ["f", "g"], "bmp")  # another encoding is another file
    (tmp_path / "empty.png").touch()
    (tmp_path / "empty2.png").touch()
    units = units_of(stored_digests(open_images(tmp_path)))
    names = [n for some, _ in open_images(tmp_path).parts()[0](9) for n in some]
    of = dict(zip(names, units.tolist(), strict=True))
    assert of["a.png"] == of["c/d.png"]
    assert len({of[name] for name in ("a.png", "b.png", "e.png", "f.bmp", "g.bmp")}) == 5


@pytest.mark.parametrize("kind", ["array", "floats", "list", "parquet", "npy"])
def test_copies_are_found_in_every_kind_of_source(kind: str, tmp_path: Path) -> None:
    images = textures(120)[np.r_[0:100, 0:20]]
    source: object = images
    if kind == "floats":
        source = (images / 255).astype(np.float32)
    elif kind == "list":
        source = [Image.fromarray(image) for image in images]
    elif kind == "parquet":
        write_images(tmp_path / "x.parquet", images, np.zeros(120, np.int64))
        source = tmp_path / "x.parquet"
    elif kind == "npy":
        np.save(tmp_path / "x.npy", images)
        source = tmp_path / "x.npy"
    detector = Detector(method="gaussian").fit(source)
    assert any(note.startswith("copies: 20 images are copies") for note in detector.facts.notes)
    assert detector.facts.images == 120
    shares = detector.fitted.shares
    assert shares is not None
    assert not straddle(shares.sides(), np.r_[0:100, 0:20])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_units_are_the_finest_that_neither_label_splits(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T
    units = units_of(a, b)
    linked = (a[:, None] == a) | (b[:, None] == b)
    reach = linked
    for _ in pairs:
        reach = (reach.astype(int) @ linked.astype(int)) > 0
    np.testing.assert_array_equal(units[:, None] == units, reach)


# --- the split


Places = NDArray[np.int64]


def shared(copies: Places, seed: int, groups: Places | None = None, share: float = 0.1) -> Shares:
    return three_shares(Units.among(copies, groups, "mine"), share, seed, "mine")


def left_out(shares: Shares) -> Places:
    return shares.order[shares.training.stop :]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(100, 150),
    st.integers(1, 6),
    st.integers(0, 5),
    st.floats(0.02, 0.5),
    st.booleans(),
)
def test_no_unit_is_on_two_sides(
    distinct: int, most: int, seed: int, holdout: float, groups: bool
) -> None:
    generator = np.random.default_rng(seed)
    units = units_of(np.repeat(np.arange(distinct), generator.integers(1, most + 1, distinct)))
    units = np.concatenate([units, np.arange(distinct)])
    generator.shuffle(units)
    units = units_of(units)
    copies = np.arange(len(units)) if groups else units
    shares = shared(copies, seed, units if groups else None, holdout)
    assert sorted(shares.order) == list(range(len(units)))
    held = units[shares.order[: shares.calibration.stop]]
    trained = units[shares.order[shares.training]]
    assert len(set(held)) == len(held) == max(40, round(holdout * distinct))
    assert not set(held) & set(trained)
    assert set(held) | set(trained) == set(range(distinct))
    assert set(units[left_out(shares)]) <= set(held)
    # Images of a unit are together, so that a cut between units cuts none.
    assert (np.diff(trained) != 0).sum() == len(set(trained)) - 1


def test_of_each_held_out_group_any_image_may_be_the_one() -> None:
    units = np.repeat(np.arange(100), 3)
    drawn = [shared(np.arange(300), seed, units) for seed in range(200)]
    counts = np.bincount(np.concatenate([s.order[: s.calibration.stop] % 3 for s in drawn]))
    assert all(binomtest(int(n), int(counts.sum()), 1 / 3).pvalue > 1e-3 for n in counts)


def test_a_frame_shared_by_many_groups_does_not_make_them_one() -> None:
    groups = np.repeat(np.arange(100), 4)
    copies = np.where(np.arange(400) % 4 == 0, 0, np.arange(400))  # each begins with a black frame
    shares = shared(units_of(copies), 0, groups)
    held = shares.order[: shares.calibration.stop]
    black = held % 4 == 0
    assert len(set(held // 4)) == 40
    assert 0 < black.sum() < 40
    assert not (shares.order[shares.training] % 4 == 0).any()
    assert not straddle(shares.sides(), units_of(copies))


def test_blank_frames_are_always_trained_on() -> None:
    copies = np.concatenate([np.zeros(200, np.int64), np.arange(1, 1801)])
    for seed in range(20):
        shares = shared(copies, seed)
        assert (copies[shares.order[shares.training]] == 0).sum() == 200
    same = np.arange(1600) // 8  # all alike: nothing is more than others
    shares = shared(same, 0)
    assert len(np.unique(same[shares.order[shares.training]])) == 160


def test_too_few_groups_are_refused_and_too_few_images_come_again() -> None:
    with mistake("too-few", "29 groups: give at least 30"):
        Units.among(np.arange(530), np.arange(530) % 29, "mine")
    with mistake("too-few", "60 groups: give at least 100"):
        shared(np.arange(530), 0, np.arange(530) % 60)
    with mistake("too-few", "60 different images: give at least 100"):
        shared(np.arange(530) % 60, 0)
    assert Units.among(np.arange(530) % 29, None, "mine").again
    again, plain = shared(np.arange(530) % 29, 0), shared(np.arange(530), 0)
    np.testing.assert_array_equal(again.order, plain.order)


@settings(max_examples=60, deadline=None)
@given(st.integers(30, 120), st.integers(1, 5), st.integers(0, 5), st.booleans())
def test_no_unit_is_in_two_folds_and_each_calibrates_once(
    distinct: int, most: int, seed: int, groups: bool
) -> None:
    generator = np.random.default_rng(seed)
    units = np.repeat(np.arange(distinct), generator.integers(1, most + 1, distinct))
    generator.shuffle(units)
    units = units_of(units)
    copies = np.arange(len(units)) if groups else units
    folds = in_folds(Units.among(copies, units if groups else None, "mine"), 4, seed)
    assert sorted(folds.order) == list(range(len(units)))
    calibrating = units[folds.order[: len(folds.fold)]]
    assert sorted(calibrating) == list(range(distinct))
    for k, (held, trained) in enumerate(folds.sides()):
        own = set(calibrating[folds.fold == k])
        assert own <= set(units[held])
        assert not set(units[held]) & set(units[trained])
        assert set(units[held]) | set(units[trained]) == set(range(distinct))
        # All images of the units that train are trained on.
        assert len(trained) == np.isin(units, units[trained]).sum()
    assert abs(np.bincount(folds.fold) - distinct / 4).max() < 1


def test_blank_frames_train_every_fold_and_calibrate_none() -> None:
    copies = np.concatenate([np.zeros(40, np.int64), np.arange(1, 81)])
    folds = in_folds(Units.among(copies, None, "x"), 4, 0)
    assert 0 not in copies[folds.order[: len(folds.fold)]]
    for held, trained in folds.sides():
        assert (copies[trained] == 0).sum() == 40
        assert not (copies[held] == 0).any()


def test_a_frame_shared_by_groups_of_two_folds_is_not_trained_on_where_it_calibrates() -> None:
    groups = np.repeat(np.arange(60), 3)
    copies = units_of(np.where(np.arange(180) % 3 == 0, 0, np.arange(180)))
    folds = in_folds(Units.among(copies, groups, "x"), 4, 0)
    assert not straddle(folds.sides(), copies)
    assert all(len(np.unique(groups[trained])) > 25 for _, trained in folds.sides())


@pytest.mark.parametrize("count", [90, 1000, 20_000])
def test_a_baseline_holds_out_whole_units(count: int) -> None:
    units = units_of(np.random.default_rng(0).integers(0, count // 3, count))
    training, held = hold_out_tenth(units, 0)
    assert not set(units[training]) & set(units[held])
    assert len(set(units[held])) == min(1000, round(0.1 * (units.max() + 1)))
    assert sorted([*training, *held]) == list(range(count))


def test_folds_and_neighbours_see_no_unit_twice() -> None:
    units = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5])
    for held, others in folds_of(torch.arange(10), units, 3):
        assert not set(units[held]) & set(units[others])
    x = torch.nn.functional.normalize(torch.randn(30, 8), dim=1)
    twice = x.repeat_interleave(2, 0)
    of = np.arange(30).repeat(2)
    alone, as_copies = Neighbour().fit(x, seed=0), Neighbour().fit(twice, seed=0, units=of)
    torch.testing.assert_close(alone.sort().values, as_copies.sort().values[::2])
    assert Neighbour().fit(twice, seed=0).max() < 1e-2  # what they were without
    assert Residual().fit(twice, seed=0, units=of).mean() > Residual().fit(twice, seed=0).mean()


# --- fits


@pytest.mark.parametrize("method", ["flow", "nearest-neighbour"])
@pytest.mark.parametrize("times", [2, 8])
def test_images_stored_many_times_keep_the_false_alarm_rate(method: str, times: int) -> None:
    """Over several fits: calls of new images are beta-binomial with 30 calibration images."""
    calls = []
    for seed in range(6):
        images = textures(100, seed=seed)
        detector = Detector(method=method, seed=seed, **(FIT if method == "flow" else {}))
        detector.fit(np.repeat(images, times, 0))
        assert detector.facts.calibration == 30
        assert detector.facts.left_out == 40 * (times - 1)
        assert any("are copies" in note for note in detector.facts.notes)
        calls.append(detector.predict(textures(300, seed=100 + seed)).mean())
    # One rank of 31 is called, 3.2%: with sd 3.1% a fit.
    assert np.mean(calls) < 0.032 + 3.3 * 0.031 / np.sqrt(6)


def test_copies_change_a_fit_by_their_weight_alone() -> None:
    """Who is held out follows from what is different, however often it is stored."""
    images = textures(300)
    once = Detector(method="nearest-neighbour").fit(images)
    often = Detector(method="nearest-neighbour").fit(np.repeat(images, 3, 0))
    new = textures(50, seed=9)
    np.testing.assert_allclose(
        np.sort(once.calibration_scores), np.sort(often.calibration_scores), rtol=1e-6
    )
    np.testing.assert_array_equal(once.score(new).p_value, often.score(new).p_value)


def test_the_same_pixels_encoded_in_two_ways_are_copies_too(tmp_path: Path) -> None:
    images = textures(120)
    written(tmp_path, images, [f"a{i}" for i in range(120)])
    written(tmp_path, images, [f"b{i}" for i in range(120)], "bmp")
    detector = Detector(method="nearest-neighbour").fit(tmp_path)
    shares = detector.fitted.shares
    assert shares is not None
    assert not straddle(shares.sides(), np.arange(240) % 120)
    assert min(detector.calibration_scores) > 0
    assert any(note.startswith("copies: 120 images are copies") for note in detector.facts.notes)


def test_what_differs_outside_of_the_region_alone_is_a_copy() -> None:
    images = np.repeat(textures(120), 2, 0)
    images[1::2, :, 6:] = 255 - images[1::2, :, 6:]
    region = np.zeros((12, 12), bool)
    region[:, :6] = True
    detector = Detector(method="nearest-neighbour", roi=region).fit(images)
    shares = detector.fitted.shares
    assert shares is not None
    assert not straddle(shares.sides(), np.arange(240) // 2)


def test_few_different_images_are_taken_for_a_set_that_comes_again() -> None:
    images = np.repeat(textures(10), 30, 0)
    detector = Detector("pca", **FIT).fit(images)
    assert any("comes again" in note and "30" in note for note in detector.facts.notes)
    assert not detector.predict(textures(10)).any()


def test_groups_calibrate_by_one_image_each(tmp_path: Path) -> None:
    groups = np.repeat(np.arange(100), 3)
    detector = Detector(method="nearest-neighbour").fit(textures(300), groups=groups)
    facts, shares = detector.facts, detector.fitted.shares
    assert (facts.calibration, facts.reference, facts.left_out) == (30, 10, 80)
    assert any("300 images in 100 groups" in note for note in facts.notes)
    assert isinstance(shares, Shares)
    held = set(groups[shares.order[: shares.calibration.stop]])
    assert not held & set(groups[shares.order[shares.training]])
    detector.save(tmp_path / "d")
    assert Detector.load(tmp_path / "d").facts == facts


def test_p_values_hold_for_an_image_of_a_new_group_whatever_the_sizes() -> None:
    """Scores alone: groups of 1 to 40 images, whose level is the group's own."""
    generator, p = np.random.default_rng(0), []
    for _ in range(3000):
        levels, sizes = generator.normal(size=41), generator.choice([1, 40], 41)
        scores = [level + 0.1 * generator.normal(size=n) for level, n in zip(levels, sizes)]  # noqa: B905
        one_each = np.array([generator.choice(each) for each in scores])
        p.append(p_values(one_each[:40], one_each[40:])[0])
    for rate in (0.05, 0.2):
        called = int((np.array(p) <= rate).sum())
        assert binomtest(called, len(p), rate, alternative="greater").pvalue > 1e-3


# --- how groups are given


def test_groups_by_folder_by_name_and_by_column(tmp_path: Path) -> None:
    names = [f"film{i // 2}/{'ab'[i % 2]}_{i}" for i in range(6)]
    source = open_images(written(tmp_path / "s", textures(6), names))
    assert open_groups("subfolder", source).tolist() == [0, 0, 1, 1, 2, 2]
    assert open_groups(r"/(.)_", source).tolist() == [0, 1, 0, 1, 0, 1]
    # Where the name tells nothing, an image is by itself.
    assert open_groups(r"(film0)", source).tolist() == [0, 0, 1, 2, 3, 4]
    encoded = [{"bytes": (tmp_path / "s" / f"{n}.png").read_bytes(), "path": n} for n in names]
    table = pa.table({"image": encoded, "film": ["x", "y", "x", None, None, "y"], "day": range(6)})
    pq.write_table(table, tmp_path / "t.parquet")
    rows = open_images(tmp_path / "t.parquet")
    assert open_groups("film", rows).tolist() == [0, 1, 0, 2, 3, 1]
    assert open_groups("film(.)/", rows).tolist() == [0, 0, 1, 1, 2, 2]
    assert open_groups(np.array([1, 1, 2, 2, 3, 3]), rows).tolist() == [0, 0, 1, 1, 2, 2]
    assert open_groups([None, "a", float("nan"), "a", "", 2], rows).tolist() == [0, 1, 2, 1, 3, 4]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("subfolder", "are in no subfolders"),
        ("(", "or a regular expression with one group (...)"),
        ("film", "is no Parquet file with a column film"),
        ("(a)(b)", "with a column (a)(b)"),
        ("(x)", "finds nothing in the names of its images, such as a0.png"),
        ([1, 2], "2 groups for the 6 images"),
        ([0.5] * 6, "text or whole numbers, not 0.5"),
        (np.zeros((6, 2), int), "one text or whole number for each image, 6"),
        (7, "one text or whole number for each image, 6"),
    ],
)
def test_groups_that_are_none(groups: object, words: str, tmp_path: Path) -> None:
    source = open_images(written(tmp_path, textures(6), [f"a{i}" for i in range(6)]))
    with mistake("bad-group", words):
        open_groups(groups, source)


def test_the_command_takes_groups(tmp_path: Path) -> None:
    names = [f"film{i // 2}/{i}" for i in range(130)]
    written(tmp_path / "s", textures(130), names)
    words = ["fit", str(tmp_path / "s"), "-o", str(tmp_path / "d"), "--group", "subfolder"]
    done = CliRunner().invoke(app, [*words, "--method", "gaussian", "--json", "-"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert "130 images in 65 groups" in facts["notes"]
    assert Detector.load(tmp_path / "d").facts.folds == 4  # 65 groups are few
    words[-1] = "nothing"
    done = CliRunner().invoke(app, [*words, "--method", "gaussian"])
    assert isinstance(done.exception, ApproxMassError)
    assert done.exception.code == "bad-group"


# --- calibrated anew


def test_copies_calibrate_once_and_images_of_the_fit_not_at_all(
    detector: Detector, tmp_path: Path
) -> None:
    detector.save(tmp_path / "d")
    new = textures(60, seed=11)
    often = np.concatenate([np.repeat(new, 4, 0), textures(200)[:50]])
    made = Detector.load(tmp_path / "d").calibrate(np.random.default_rng(0).permutation(often))
    assert (made.fitted.in_use.count, made.fitted.in_use.left_out) == (60, 230)
    assert "230 copies left out" in made.fitted.in_use.said()
    once = Detector.load(tmp_path / "d").calibrate(new)
    np.testing.assert_array_equal(
        np.sort(made.calibration_scores), np.sort(once.calibration_scores)
    )
    made.save(tmp_path / "d")
    assert Detector.load(tmp_path / "d").fitted.in_use.left_out == 230
    with mistake("too-few", "18 images besides copies of others and images of the fit"):
        Detector.load(tmp_path / "d").calibrate(np.concatenate([new[:18], textures(200)[:50]]))
    cameras = ["a"] * 30 + ["b"] * 30
    per = Detector.load(tmp_path / "d").calibrate(np.repeat(new, 2, 0), per=np.repeat(cameras, 2))
    assert {g: c.count for g, c in per.fitted.in_use.groups.items()} == {"a": 30, "b": 30}


# --- images of the fit


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(method="gaussian").fit(textures(200))


def test_digests_of_the_fit_are_kept_and_know_its_images(
    detector: Detector, tmp_path: Path
) -> None:
    detector.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    both = np.concatenate([textures(200)[:7], textures(5, seed=3)])[:, None]
    assert loaded.fitted.in_fit(both).tolist() == [True] * 7 + [False] * 5
    assert len(loaded.fitted.digests) == 200
    assert len(np.unique(pixel_digests(textures(5000)[:, None]))) == 5000


def test_images_of_the_fit_are_named_on_terminal_json_and_page(
    detector: Detector, tmp_path: Path
) -> None:
    detector.save(tmp_path / "d")
    np.save(tmp_path / "id.npy", np.concatenate([textures(200)[:37], textures(463, seed=5)]))
    np.save(tmp_path / "ood.npy", textures(100, shift=1.0, seed=6))
    words = [str(tmp_path / "d"), "--id", str(tmp_path / "id.npy")]
    words += ["--ood", str(tmp_path / "ood.npy")]
    line = "37 of these 500 images were in the fit"
    done = CliRunner().invoke(app, ["evaluate", *words, "--json", str(tmp_path / "x.json")])
    assert done.exit_code == 0, done.output
    assert f"id.npy: {line}" in done.output
    facts = json.loads((tmp_path / "x.json").read_text())
    assert any(line in each for each in facts["warnings"])
    assert [each["in_fit"] for each in facts["images"].values()] == [37, 0]
    done = CliRunner().invoke(app, ["report", *words, "-o", str(tmp_path / "x.html")])
    assert done.exit_code == 0, done.output
    assert line in (tmp_path / "x.html").read_text()


def test_nothing_is_said_of_new_images(detector: Detector, tmp_path: Path) -> None:
    found = assess(detector, textures(60, seed=7), [textures(60, shift=1.0, seed=8)])
    assert not any("in the fit" in line for line in found.warnings)
    write_report(found, tmp_path / "x.html")
    assert "in the fit" not in (tmp_path / "x.html").read_text()
    all_known = assess(detector, textures(200)[:60], [textures(1, shift=1.0, seed=8)])
    assert "array: all 60 images were in the fit" in all_known.warnings[0]


def test_compare_holds_copies_on_one_side_and_names_images_of_the_fit() -> None:
    images = np.repeat(textures(130), 2, 0)
    odd = {"odd": textures(30, shift=1.0, seed=8)}
    found = compare(images, odd, epochs=1)
    assert set(found.in_fit.values()) == {0}
    assert found.warnings == []
    known = compare(textures(130), odd, id_images=textures(130)[:30], epochs=1)
    assert "all 30 images were in the fit" in known.warnings[0]


def test_every_baseline_that_holds_images_out_is_given_units() -> None:
    """Labels of copies agree; the images that a baseline trains on are of other units."""
    for name in ("gradcon", "autoencoder"):
        model = BASELINES[name](epochs=1)
        model.fit(np.repeat(textures(40), 2, 0))
        np.testing.assert_array_equal(model._units, np.arange(80) // 2)
