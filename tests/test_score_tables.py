"""Scores know what they are scores of, and become tables: one list of columns for all."""

import dataclasses
import html
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from approxmass import Detector, scores
from approxmass.cli.main import app
from approxmass.evaluation.assess import score_set
from approxmass.scores import Scores
from conftest import mistake, textures

NAMES = ["east/0.png", "east/1.png", "west/0.png", "west/1.png"]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(seed=0, epochs=1).fit(textures(130))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, image in zip(NAMES, textures(4, seed=5), strict=True):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "f" / name)
    return tmp_path / "f"


def of_groups(detector: Detector, tmp: Path) -> Detector:
    """Calibrated anew, per camera."""
    detector.save(tmp / "d")
    images = textures(60, seed=6)
    for i, image in enumerate(images):
        target = tmp / "cameras" / ("east", "west")[i % 2] / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target)
    return Detector.load(tmp / "d").calibrate(tmp / "cameras", per="subfolder")


def test_names_survive_every_road(detector: Detector, folder: Path, tmp_path: Path) -> None:
    paths = [str(folder / name) for name in NAMES]
    assert detector.score(folder).names.tolist() == NAMES
    assert detector.score(paths).names.tolist() == paths
    assert detector.score(textures(4)).names.tolist() == ["0", "1", "2", "3"]
    assert detector.score_pixels(textures(2)[:, None]).names.tolist() == ["0", "1"]
    grouped = of_groups(detector, tmp_path).score(folder)
    assert grouped.names.tolist() == NAMES
    assert grouped.group is not None
    assert grouped.group.tolist() == ["east", "east", "west", "west"]
    assert detector.explain(folder).scores.names.tolist() == NAMES
    assert score_set(detector, folder).names == NAMES
    rows = np.random.default_rng(0).normal(size=(40, 3))
    frame = pd.DataFrame(rows, columns=list("abc"), index=range(100, 140))
    assert Detector(preset="gaussian").fit(frame).score(frame[:2]).names.tolist() == ["0", "1"]


def test_names_over_several_chunks(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("approxmass.data.chunk._MOST", 7)
    images = textures(20)
    numbers = [str(i) for i in range(20)]
    assert detector.score(images).names.tolist() == numbers
    assert detector.explain(images).scores.names.tolist() == numbers


@pytest.mark.parametrize("per_group", [False, True])
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_the_table_is_that_of_the_command(
    suffix: str, per_group: bool, detector: Detector, folder: Path, tmp_path: Path
) -> None:
    used = of_groups(detector, tmp_path) if per_group else detector
    used.save(tmp_path / "saved")
    target = tmp_path / f"s.{suffix}"
    words = ["score", str(tmp_path / "saved"), str(folder), "-o", str(target)]
    assert CliRunner().invoke(app, words).exit_code == 0
    table = used.score(folder).to_arrow()
    if suffix == "parquet":
        assert pq.read_table(target).equals(table)
        pd.testing.assert_frame_equal(pd.read_parquet(target), used.score(folder).to_pandas())
    written = pd.read_csv(target) if suffix == "csv" else pd.read_parquet(target)
    assert list(written) == table.column_names
    assert list(written)[:2] == ["name", "log_prob"]
    assert list(written)[-2:] == (["group", "error"] if per_group else ["is_outlier", "error"])
    assert "nll" not in written
    np.testing.assert_array_equal(written["name"], NAMES)
    np.testing.assert_allclose(written["p_value"], used.score(folder).p_value)
    np.testing.assert_allclose(written["mass"], used.score(folder).mass)


def made(names: list[str], **more: Any) -> Scores:
    values = np.linspace(1, 0.01, len(names)) if names else np.empty(0)
    return Scores(
        log_prob=-values,
        mass=values,
        statistic=values,
        p_value=values,
        is_outlier=values <= 0.05,
        statistics={"nll": values, "fused": 2 * values},
        names=np.array(names, object),
        **more,
    )


def test_some_joined_and_pickled_keep_their_names() -> None:
    whole = made(list("abcd"), group=np.array(["x", "y", "x", "y"], object))
    odd = whole.some(np.array([False, True, False, True]))
    assert odd.names.tolist() == ["b", "d"]
    both = Scores.join([whole, odd])
    assert both.names.tolist() == list("abcdbd")
    again = pickle.loads(pickle.dumps(both))
    assert again.to_arrow().equals(both.to_arrow())
    assert dataclasses.replace(whole, statistics={}).names.tolist() == list("abcd")
    plain = Scores(
        **{f.name: getattr(whole, f.name) for f in dataclasses.fields(whole) if f.name != "names"}
    )
    assert plain.names.tolist() == ["0", "1", "2", "3"]
    assert whole.named(range(4)).to_arrow()["name"].to_pylist() == ["0", "1", "2", "3"]
    with mistake("bad-scores", "3 names for 4 scores"):
        whole.named(list("abc"))


def test_a_notebook_shows_the_first_rows_and_the_sum() -> None:
    evil = "<script>alert(1)</script>&.png"
    whole = made([evil, *(f"{i}.png" for i in range(299))])
    page = whole._repr_html_()
    assert "<script>" not in page
    assert html.escape(evil) in page
    assert page.count("<tr>") == 6
    assert "and 295 more" in page
    assert len(page) < 5000
    outliers = int((whole.p_value <= 0.05).sum())
    for shown in (page, repr(whole)):
        assert f"300 scored, {outliers} outliers at 5%, smallest p-value 0.01" in shown
    heads = re.findall(r"<th>(.*?)</th>", page)
    assert heads == ["name", "log_prob", "fused", "statistic", "p_value", "is_outlier"]
    few = made(["a", "b"])._repr_html_()
    assert "more" not in few
    assert "1 outlier at" in few
    assert "none scored" in repr(made([]))


def test_without_pandas_there_is_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "find_spec", lambda name: None)
    with mistake(
        "missing-library", "to_pandas needs pandas: pip install pandas (or take to_arrow)"
    ):
        made(["a"]).to_pandas()
    assert isinstance(made(["a"]).to_arrow(), pa.Table)
