"""The card beside a saved detector: true, runnable, and nothing that a load depends on."""

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from approxmass import Detector, Scores
from approxmass.card import card
from approxmass.describe import describe
from conftest import two_classes

ROWS = np.random.default_rng(0).normal(size=(60, 3))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(seed=0).fit(ROWS)


def test_it_says_what_inspect_says(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "d")
    text = (tmp_path / "d" / "card.md").read_text()
    table = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE))
    facts = describe(detector)
    for name, value in facts.items():
        assert name in table
        if isinstance(value, str):
            assert table[name] == value
    assert table["smallest p-value"] == "0.01639"  # 1 / 61
    assert "by 4 folds" in table["calibrated on"]
    for name, version in detector.facts.versions.items():
        assert f"{name} {version}" in text


@pytest.mark.parametrize("folder", ["d", 'of "July" \\n ü'])
def test_its_code_runs(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    detector.save(tmp_path / folder)
    text = (tmp_path / folder / "card.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert [shlex.split(line)[2] for line in commands.splitlines()] == [folder, folder]
    monkeypatch.chdir(tmp_path)
    names = {"rows": ROWS[:5]}
    exec(compile(code, "card.md", "exec"), names)
    scores = names["scores"]
    assert isinstance(scores, Scores)
    np.testing.assert_array_equal(scores.p_value, detector.score(ROWS[:5]).p_value)


def test_the_name_of_a_folder_need_not_be_text(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / os.fsdecode(b"d\xff|x"))
    first = (tmp_path / os.fsdecode(b"d\xff|x") / "card.md").read_text().splitlines()[0]
    assert first == r"# d\udcff\|x: which rows are unlike those of array"


def test_nothing_reads_it_and_a_later_save_writes_it_anew(
    detector: Detector, tmp_path: Path
) -> None:
    place = tmp_path / "d" / "card.md"
    detector.save(tmp_path / "d")
    place.write_text("notes of our own")
    again = Detector.load(tmp_path / "d")
    again.calibrate(np.random.default_rng(1).normal(size=(50, 3))).save(tmp_path / "d")
    assert "earlier calibrations" in place.read_text()
    place.unlink()
    Detector.load(tmp_path / "d")


def test_what_it_cannot_see_goes_by_what_it_is() -> None:
    images = two_classes(200)[0]
    small = card(Detector("pca", epochs=1, size=8).fit(images), "d")
    assert "too fine to be seen at 8x8 pixels" in small
    assert "network" not in small
    region = np.zeros((28, 28), bool)
    region[4:24, 4:24] = True
    part = card(Detector(method="gaussian", roi=region).fit(images), "d")
    assert "outside of the region" in part
    colour = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16), np.uint8)
    network = card(Detector("lite0", epochs=1).fit(colour), "d")
    assert "What lite0, a network" in network
    assert "A small defect of a large image" in network
    normal = Detector.from_log_prob(lambda x: -x.square().sum(1) / 2, ROWS.astype(np.float32))
    assert "log_prob=..." in card(normal, "d")
