"""Embeddings and tables: what they are read from, what is learnt, and every door."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import betabinom
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from approxmass import Detector, fitting
from approxmass.cli.main import app
from approxmass.data.vectors import holds_vectors, open_vectors
from approxmass.encoders import VectorEncoder
from approxmass.errors import ApproxMassError
from approxmass.explain.attribution import Explanation
from approxmass.flows import VectorFlow
from approxmass.models import flow as flow_model
from approxmass.training.flow import TrainingDivergedError
from approxmass.training.holdout import few_left
from conftest import mistake

Rows = NDArray[np.float64]
MIX = np.random.default_rng(0).normal(size=(6, 6))


def rows(count: int, seed: int = 1) -> Rows:
    """Correlated columns far from 0, as time stamps are."""
    return np.random.default_rng(seed).normal(size=(count, 6)) @ MIX + 1e9


def odd(count: int, column: int = 2) -> Rows:
    found = rows(count, seed=5)
    found[:, column] += 25
    return found


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(seed=1).fit(pd.DataFrame(rows(300), columns=list("abcdef")))


# --- what they are read from


def test_the_same_rows_from_every_kind_of_source(tmp_path: Path) -> None:
    values = rows(20)
    frame = pd.DataFrame(values, columns=list("abcdef"))
    table = pa.Table.from_pandas(frame)
    np.save(tmp_path / "x.npy", values)
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=7)
    pyarrow.csv.write_csv(table, tmp_path / "x.csv")
    lists = pa.table({"e": pa.array(values.tolist()), "name": ["x"] * 20})
    pq.write_table(lists, tmp_path / "lists.parquet")
    tensor = torch.from_numpy(values).requires_grad_()
    sources = [values, values.tolist(), tensor, frame, table, tmp_path / "x.npy"]
    sources += [str(tmp_path / "x.parquet"), tmp_path / "x.csv"]
    for source in sources:
        assert holds_vectors(source)
        np.testing.assert_array_equal(open_vectors(source).read()[:, 0, 0], values)
    found = open_vectors(tmp_path / "lists.parquet", ["e"])
    assert found.columns == [f"e[{i}]" for i in range(6)]
    np.testing.assert_array_equal(found.read()[:, 0, 0], values)
    # By the names of the numbers, as a saved detector has them.
    np.testing.assert_array_equal(
        open_vectors(tmp_path / "lists.parquet", found.columns).read(), found.read()
    )
    # One of its columns, as images are asked for.
    for asked in (f"{tmp_path}/lists.parquet:e", f"{tmp_path}/x.parquet:c"):
        assert holds_vectors(asked)
        assert not holds_vectors(f"{tmp_path}/lists.parquet:name")
        with mistake("bad-option", "x.parquet:a asks for the column a, and f, b is wanted"):
            open_vectors(f"{tmp_path}/x.parquet:a", ["f", "b"])
        wanted = values if asked.endswith("e") else values[:, [2]]
        np.testing.assert_array_equal(open_vectors(asked).read()[:, 0, 0], wanted)
    some = open_vectors(tmp_path / "x.parquet", ["f", "a"])
    np.testing.assert_array_equal(some.read()[:, 0, 0], values[:, [5, 0]])
    parts = [chunk.images for chunk in open_vectors(tmp_path / "x.parquet").chunks(3)]
    assert [len(part) for part in parts][:2] == [3, 3]
    np.testing.assert_array_equal(np.concatenate(parts)[:, 0, 0], values)


def test_data_sets_and_loaders_of_embeddings_are_rows() -> None:
    """Alone or with labels, one by one or in batches; a generator once it is said what it is."""
    values = torch.from_numpy(rows(20))
    alone = TensorDataset(values)
    labelled = TensorDataset(values, torch.arange(20))
    loaders = [DataLoader(each, batch_size=6) for each in (alone, labelled, values)]
    for source in (alone, labelled, *loaders):
        assert holds_vectors(source)
        np.testing.assert_array_equal(open_vectors(source).read()[:, 0, 0], values)
    np.testing.assert_array_equal(open_vectors(iter(values)).read()[:, 0, 0], values)
    for several in (values.split(6), map(list, values.split(6)), [[each] for each in values]):
        np.testing.assert_array_equal(open_vectors(iter(several)).read()[:, 0, 0], values)
    pairs = ([(row, 3) for row in some] for some in values.split(6))
    np.testing.assert_array_equal(open_vectors(pairs).read()[:, 0, 0], values)

    def again() -> Iterator[Rows]:
        row = np.empty(6)
        for each in values:
            row[:] = each
            yield row

    np.testing.assert_array_equal(open_vectors(again()).read()[:, 0, 0], values)
    # Where an item is made of several, nobody knows before.
    assert not holds_vectors(DataLoader(alone, collate_fn=lambda rows: rows[0]))
    # A look at the first row takes none away.
    given = iter(values)
    assert not holds_vectors(given)
    assert len(list(given)) == 20
    images = TensorDataset(torch.zeros(5, 1, 8, 8))
    assert not holds_vectors(images)
    assert not holds_vectors(DataLoader(images))


def test_bfloat16_and_whole_numbers_are_numbers() -> None:
    x = torch.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(open_vectors(x.bfloat16()).read()[:, 0, 0], x.numpy())
    np.testing.assert_array_equal(open_vectors(x.numpy().astype(int)).read()[:, 0, 0], x.numpy())


def test_numbered_columns_go_by_their_numbers_wherever_they_stand() -> None:
    """As a frame made of an array has them; by place only where no name is known."""
    values = rows(60)
    frame = pd.DataFrame(values)
    numbered = Detector(epochs=1).fit(frame)
    wanted = numbered.score(frame).statistic
    np.testing.assert_array_equal(numbered.score(frame[[5, 0, 3, 1, 4, 2]]).statistic, wanted)
    named = frame.set_axis(list("abcdef"), axis=1)
    np.testing.assert_array_equal(numbered.score(named).statistic, wanted)
    with mistake("bad-source", "has no column 5"):
        numbered.score(frame.rename(columns={5: "label"}))


def test_columns_that_do_not_count_may_hold_anything() -> None:
    frame = pd.DataFrame(rows(9)[:, :2], columns=["a", "b"])
    frame["mixed"], frame["complex"] = [1, "x", None] * 3, 1j
    twice = pd.concat([frame, frame[["mixed"]]], axis=1)
    found = open_vectors(twice, ["b", "a"])
    np.testing.assert_array_equal(found.read()[:, 0, 0], frame[["b", "a"]].to_numpy())
    levels = pd.DataFrame(rows(9)[:, :2], columns=pd.MultiIndex.from_tuples([("x", 1), ("x", 2)]))
    assert open_vectors(levels).columns == ["('x', 1)", "('x', 2)"]


@pytest.mark.parametrize(
    ("source", "columns", "words"),
    [
        (pd.DataFrame({"a": [1.0], "b": ["x"]}), None, "the column b is"),
        (pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), None, "has several columns a"),
        (pd.DataFrame([[1.0, 2.0]], columns=[0, "0"]), None, "has several columns 0"),
        (pd.DataFrame({"a": [1, "x"]}), None, "Conversion failed for column a with type object"),
        (pd.DataFrame({"a": [1j]}), None, "a column cannot be taken as numbers"),
        (pd.DataFrame({"a": [1.0]}), ["c"], "has no column c"),
        (np.zeros((3, 2)), ["7"], "has no column 7"),
        (pa.table([[1.0], [2.0]], names=["a", "a"]), None, "has several columns a"),
        (np.zeros((3, 2, 2)), None, "rows of numbers are an array (N, D)"),
        ([[1.0], [1.0, 2.0]], None, "cannot be turned into rows of numbers"),
        (np.zeros((0, 2)), None, "holds no rows"),
        ("nowhere.csv", None, "no rows of numbers"),
        ("a" * 5000 + ".npy", None, "no rows of numbers"),
        (pa.table({"e": [[1.0, 2.0], [1.0]]}), None, "not all of 2 numbers"),
        ((np.zeros((2, 2, 2)) for _ in range(2)), None, "item 0 is float64 of shape (2, 2, 2)"),
        (iter(["a.png"]), None, "item 0 is <U5 of shape ()"),
        (iter([1.0, 2.0]), None, "item 0 is float64 of shape ()"),
        (range(3), None, "item 0 is int64 of shape ()"),
        ({0: [1.0, 2.0]}, None, "rows of numbers are an array (N, D)"),
        (bytearray(9), None, "rows of numbers are an array (N, D)"),
        (iter(()), None, "can be read only once"),
    ],
)
def test_what_is_no_table(source: object, columns: list[str] | None, words: str) -> None:
    with mistake("bad-source", words):
        open_vectors(source, columns).read()


def test_missing_values_are_named_and_cost_only_their_row(detector: Detector) -> None:
    frame = pd.DataFrame(rows(5), columns=list("abcdef"))
    frame.loc[1, "c"] = np.nan
    frame.loc[3, "e"] = np.inf
    with mistake("bad-image", "row 1 has no value for column c"):
        Detector().fit(pd.concat([frame] * 20))
    ((chunk, scores),) = detector.score_chunks(frame)
    assert chunk.errors[3] == "has an infinite value for column e: fill it in, or leave the row out"
    assert len(scores.p_value) == 3
    with mistake("bad-image", "column c"):
        detector.score(frame)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float64(), 2)])
def test_a_first_row_without_its_list_costs_only_that_row(
    tmp_path: Path, kind: pa.DataType
) -> None:
    table = pa.table({"e": pa.array([None, [1.0, 2.0], None, [3.0, None]], kind)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=1)
    for source in (table, tmp_path / "x.parquet"):
        chunks = list(open_vectors(source).chunks())
        errors = [error for chunk in chunks for error in chunk.errors]
        assert [error is None for error in errors] == [False, True, False, False]
        rows_of = np.concatenate([chunk.images for chunk in chunks])[:, 0, 0]
        np.testing.assert_array_equal(rows_of, [[1, 2]])


def test_what_is_masked_is_missing() -> None:
    masked = np.ma.masked_equal(np.arange(6).reshape(3, 2), 3)
    ((chunk,),) = [list(open_vectors(masked).chunks())]
    assert chunk.errors[1] == "has no value for column 1: fill it in, or leave the row out"
    np.testing.assert_array_equal(chunk.images[:, 0, 0], [[0, 1], [4, 5]])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(9, 2, device="meta"),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
    ],
)
def test_a_tensor_without_rows_is_one_line(tensor: torch.Tensor) -> None:
    with mistake("bad-source", "cannot be turned into rows of numbers"):
        open_vectors(tensor)


def test_a_view_of_negated_numbers_is_these() -> None:
    x = torch.complex(torch.zeros(4, 3), torch.arange(12.0).reshape(4, 3)).conj().imag
    np.testing.assert_array_equal(open_vectors(x).read()[:, 0, 0], -np.arange(12.0).reshape(4, 3))


# --- what is learnt


def test_codes_are_white_whatever_the_units_of_the_columns() -> None:
    views = torch.from_numpy(rows(4000))[:, None, None]
    encoder = VectorEncoder(6)
    codes = encoder.fit_transform(views)
    torch.testing.assert_close(torch.cov(codes.T), torch.eye(6), rtol=0, atol=0.12)
    scaled = views * torch.tensor([1e-6, 1.0, 1e4, 3.0, 1.0, 1.0], dtype=torch.float64)
    again = VectorEncoder(6).fit_transform(scaled)
    torch.testing.assert_close(codes, again, rtol=1e-3, atol=1e-3)


def test_no_code_of_a_training_row_is_by_a_whitening_that_has_seen_it() -> None:
    views = torch.from_numpy(rows(50))[:, None, None]
    moved = views.clone()
    moved[7] += 1e3
    codes, other = VectorEncoder(6).fit_transform(views), VectorEncoder(6).fit_transform(moved)
    # Whoever is in the fold of row 7 has the code that it had; row 7 alone is elsewhere.
    same = (codes == other).all(1)
    assert 9 <= int(same.sum()) < 50
    assert not same[7]


def test_a_column_that_never_varied_is_missed_when_it_does() -> None:
    values = np.concatenate([rows(200), np.full((200, 1), 3.0)], 1)
    detector = Detector().fit(values[:150])
    assert detector.predict(values[150:]).mean() < 0.2
    values[150:, 6] = 9.0
    assert detector.predict(values[150:]).all()


@pytest.mark.parametrize("columns", [1, 6])
def test_the_gaussian_start_is_the_mahalanobis_distance(columns: int) -> None:
    detector = Detector().fit(rows(25)[:, :columns])
    assert detector.settings.options["preset"] == "gaussian"
    model = detector.model.models[0]
    codes = model.encoder.codes(model.view(torch.from_numpy(rows(9, 3)[:, None, None, :columns])))
    found = model.statistics_of(torch.from_numpy(rows(9, 3)[:, None, None, :columns]))
    squared = codes.double().square().sum(1).numpy()
    np.testing.assert_allclose(
        found["nll"], squared / 2 + columns / 2 * np.log(2 * np.pi), rtol=1e-5
    )
    np.testing.assert_allclose(found["mass"], np.sqrt(squared), rtol=1e-4, atol=1e-5)


def test_a_flow_that_learns_nothing_is_the_normal_density_and_back() -> None:
    flow, x = VectorFlow("gaussian", 1), torch.randn(7, 1)
    expected = torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    torch.testing.assert_close(flow.log_prob(x), expected)
    torch.testing.assert_close(flow.inverse(flow(x)[0]), x)
    assert flow.sample(3).shape == (3, 1)


@pytest.mark.parametrize("count", [10, 60, 300])
def test_false_alarms_of_few_and_many_rows(count: int) -> None:
    rate, calls, fits = 0.1, 0, 12 if count < 30 else 3
    for seed in range(fits):
        detector = Detector(seed=seed, calibration="folds").fit(rows(count, seed))
        calls += int(detector.predict(rows(500, 100 + seed), rate).sum())
    # By folds at most 2 e + 6 / (n + 4), and near e; the spread of one fit is that of n scores.
    high = betabinom(500, rate * (count + 1), (1 - rate) * (count + 1)).ppf(0.999) / 500
    assert calls / (500 * fits) <= max(rate + (high - rate) / np.sqrt(fits), 0.13)


# --- doors


def test_numbers_beyond_all_measure_are_outliers_and_cost_no_other_row(detector: Detector) -> None:
    new = rows(3)
    wanted = detector.score(new)
    new[1] = [1e300, -1e300, 1e40, 0, 0, 1e300]
    found = detector.score(new)
    assert found.p_value[1] == detector.score(odd(1)).p_value == min(found.p_value)
    assert all(np.isfinite(values).all() for values in found.statistics.values())
    np.testing.assert_array_equal(found.p_value[[0, 2]], wanted.p_value[[0, 2]])


def test_odd_rows_are_called_and_their_column_named(detector: Detector, tmp_path: Path) -> None:
    assert detector.predict(odd(50)).all()
    found = detector.explain(odd(50, column=2))
    assert found.names == list("abcdef")
    assert found.maps[0].shape == (1, 6)
    np.testing.assert_allclose(found.components.sum(1), 1)
    detector.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    np.testing.assert_array_equal(loaded.score(odd(9)).p_value, detector.score(odd(9)).p_value)
    shuffled = pd.DataFrame(odd(9), columns=list("abcdef"))[list("fedcba")].assign(z="text")
    np.testing.assert_array_equal(loaded.score(shuffled).p_value, detector.score(odd(9)).p_value)


def test_one_column_alone_says_which() -> None:
    """Independent columns: the one that moved has the largest share."""
    generator = np.random.default_rng(0)
    detector = Detector(preset="gaussian").fit(generator.normal(size=(400, 5)))
    strange = generator.normal(size=(60, 5))
    strange[:, 3] += 9
    assert (detector.explain(strange).components.argmax(1) == 3).mean() > 0.9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder": "pca"}, "pca is for images"),
        ({"method": "gradcon"}, "gradcon is for images"),
        ({"mode": "rgb"}, "mode is for images"),
        ({"size": 32}, "a size is for images"),
    ],
)
def test_what_is_for_images_is_refused(options: dict[str, object], words: str) -> None:
    with mistake("bad-option", words):
        Detector(columns=["a"], **options).fit(pd.DataFrame(rows(40), columns=list("abcdef")))


def test_the_commands_take_tables(tmp_path: Path) -> None:
    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.stdout

    for name, values in {"id": rows(200), "new": rows(60, 9), "odd": odd(40)}.items():
        frame = pd.DataFrame(values, columns=list("abcdef")).assign(name="x")
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    place = tmp_path / "d"
    run("fit", tmp_path / "id.csv", "-o", place, "--columns", "a,b,c,d,e,f")
    run("score", place, tmp_path / "odd.csv", "-o", tmp_path / "s.csv")
    assert pd.read_csv(tmp_path / "s.csv").p_value.max() < 0.05
    tried = (place, "--id", tmp_path / "new.csv", "--ood", tmp_path / "odd.csv")
    facts = json.loads(run("evaluate", *tried, "--json", "-"))
    assert facts["images"]
    run("report", *tried, "-o", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<p>c " in page or ", c " in page
    assert "data:image/jpeg" not in page
    found = json.loads(run("explain", place, tmp_path / "odd.csv", "--json", "-"))
    assert len(found["images"]) == 40
    assert {part["component"] for part in found["images"][0]["components"]} <= set("abcdef")
    tried = (tmp_path / "id.csv", "--ood", tmp_path / "odd.csv", "--columns", "a,b,c,d,e,f")
    compared = run("compare", *tried)
    assert "per row" in compared
    assert "nearest neighbour, columns" in compared
    assert "image" not in compared.replace(str(tmp_path), "")
    run("calibrate", place, tmp_path / "new.csv")


def test_rows_are_called_rows_wherever_a_person_reads(tmp_path: Path) -> None:
    said = ""

    def run(*words: object, fails: bool = False) -> None:
        nonlocal said
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert isinstance(done.exception, ApproxMassError) == fails, done.output
        said += f"{done.output} {done.exception}"

    frames = {"id": rows(1400), "new": rows(60, 9), "odd": odd(40), "few": rows(5)}
    for name, values in frames.items():
        pd.DataFrame(values, columns=list("abcdef")).to_csv(tmp_path / f"{name}.csv", index=False)
    with (tmp_path / "new.csv").open("a") as file:
        file.write("1,2,,4,5,6\n")
    again = pd.concat([pd.read_csv(tmp_path / "id.csv")[:40]] * 3)
    again.to_csv(tmp_path / "again.csv", index=False)
    place, tried = tmp_path / "d", tmp_path / "odd.csv"
    quick = ("--preset", "gaussian")
    run("fit", tmp_path / "id.csv", "-o", place, "--trim", "0.01", *quick)
    run("fit", tmp_path / "again.csv", "-o", tmp_path / "d2", *quick)
    run("fit", tmp_path / "few.csv", "-o", tmp_path / "d3", fails=True)
    run("score", place, tmp_path / "new.csv", "-o", tmp_path / "s.csv")
    run("explain", place, tmp_path / "new.csv")
    run("calibrate", place, tried)
    run("calibrate", place, tmp_path / "few.csv", fails=True)
    run("evaluate", place, "--id", tmp_path / "id.csv", "--ood", tried, "-o", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    page, vega = page.split("<script>", 1)[0], page.split("<script>", 1)[1]
    assert "vega" in vega  # it is the library, which knows images
    said += re.sub(r"<style>.*?</style>|data:image|\bid=\S+|href=\S+", "", page, flags=re.DOTALL)
    assert not re.findall(r".{0,40}\bimages?\b.{0,40}", said, re.IGNORECASE)
    said = " ".join(said.replace("│", "").split())
    for words in ("of 1,400 rows", "share of rows", "row 60 has no value for column c", "Rows"):
        assert words in said, words


def test_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "vectors.md").read_text()
    monkeypatch.chdir(tmp_path)  # it saves a detector
    monkeypatch.setattr(fitting, "few_left", few_left)  # by folds, as whoever reads it has it
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    exec(compile("".join(blocks), "docs/vectors.md", "exec"), names)
    found = names["found"]
    assert isinstance(found, Explanation)
    assert (found.scores.p_value <= 0.05).mean() > 0.5


@pytest.mark.parametrize("calibration", ["holdout", "folds"])
def test_where_a_training_diverges_the_normal_density_takes_its_place(
    calibration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def diverges(*_: object, **__: object) -> None:
        nonlocal asked
        asked += 1
        raise TrainingDivergedError("the training of the flow diverged")

    monkeypatch.setattr(flow_model, "train", diverges)
    detector = Detector(calibration=calibration).fit(rows(200))
    assert asked == 1
    assert detector.settings.options["preset"] == "gaussian"
    assert any("it diverged on these rows" in note for note in detector.facts.notes)
    wanted = Detector(calibration=calibration, preset="gaussian").fit(rows(200))
    detector.save(tmp_path / "d")
    for each in (detector, Detector.load(tmp_path / "d")):
        np.testing.assert_array_equal(each.score(odd(30)).p_value, wanted.score(odd(30)).p_value)
    with mistake("diverged"):  # whoever has chosen a flow is told
        Detector(calibration=calibration, preset="identity").fit(rows(200))
