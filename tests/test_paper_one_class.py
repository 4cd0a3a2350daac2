"""Tables 3 and 4 on toy images: what is computed, kept, resumed and refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from approxmass import ApproxMassError, Detector, open_images
from approxmass.arrays import Floats, Pixels
from approxmass.baselines import BASELINES, Baseline, PCAResidual, PNGSize
from approxmass.cli.main import app
from approxmass.evaluation.metrics import ood_metrics
from approxmass.paper import one_class
from approxmass.paper.published import MASS
from conftest import mistake, textures, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten kinds of stripes under the name of MNIST."""
    folder = tmp_path_factory.mktemp("data")
    for split, each in (("train", 110), ("test", 30)):
        test = split == "test"
        kinds = [textures(each, shift=0.3 * k, seed=k + 100 * test) for k in range(10)]
        order = np.random.default_rng(0).permutation(10 * each)
        images, labels = np.concatenate(kinds)[order], np.repeat(np.arange(10), each)[order]
        write_images(folder / "mnist" / f"{split}.parquet", images, labels)
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = replace(one_class.METHODS["flow"], laptop={"encoder": "pca", "epochs": 1})
    monkeypatch.setitem(one_class.METHODS, "flow", flow)


def call(data: Path, target: Path, *words: str) -> str:
    """The output of the command; a mistake is raised."""
    call = ["paper", "table3", "--data", str(data), "-o", str(target), *words]
    result = CliRunner().invoke(app, call)
    if isinstance(result.exception, ApproxMassError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_each_number_is_that_of_the_class_against_the_other_nine(
    data: Path, tmp_path: Path
) -> None:
    printed = call(data, tmp_path, "--only", "pca-residual", "--only", "flow")
    facts = json.loads((tmp_path / "table3.json").read_text())
    assert facts["protocol"] == "per image, balanced"
    assert facts["scale"] == "laptop"
    assert len(facts["rows"]) == 20
    train, test = (open_images(data / "mnist" / f"{s}.parquet").read() for s in ("train", "test"))
    labels = [pq.read_table(data / "mnist" / f"{s}.parquet")["label"] for s in ("train", "test")]
    own, inside = np.array(labels[0]) == 3, np.array(labels[1]) == 3
    found = {(row["method"], row["class"]): row["metrics"] for row in facts["rows"]}

    scores = PCAResidual().fit(train[own]).score(test)
    expected = ood_metrics(scores[inside], scores[~inside]).as_dict()
    assert found["pca-residual", "3"]["PCA residual"] == expected
    assert expected["n_id"] == expected["n_ood"] == 30
    by_flow = Detector("pca", epochs=1).fit(train[own]).score(test)
    metrics = ood_metrics(by_flow.mass[inside], by_flow.mass[~inside]).as_dict()
    assert found["flow", "3"][MASS] == metrics

    lines = printed.splitlines()
    (ours,) = (line for line in lines if line.startswith("| PCA residual |"))
    areas = [found["pca-residual", str(k)]["PCA residual"]["auroc"]["value"] for k in range(10)]
    assert ours.split(" | ")[1:11] == [f"{area:.3f}" for area in areas]
    assert f"**{np.mean(areas):.3f}**" in ours
    # Ours and theirs, one below the other, each under its name.
    place = next(i for i, line in enumerate(lines) if line.startswith(f"| {MASS} |"))
    assert lines[place + 1].startswith(f"| *{MASS}, published* | 0.969 | 0.064 |")
    assert (tmp_path / "table3.md").read_text().splitlines() == lines

    call(data, tmp_path, "--only", "untrained-flow", "--only", "nearest-neighbour", "--resume")
    facts = json.loads((tmp_path / "table3.json").read_text())
    found |= {(row["method"], row["class"]): row["metrics"] for row in facts["rows"]}
    for name, title in (
        ("untrained-flow", "untrained flow: mass"),
        ("nearest-neighbour", "1-nearest-neighbour"),
    ):
        for k in (3, 7):
            mine = np.array(labels[1]) == k
            baseline = BASELINES[name]().fit(train[np.array(labels[0]) == k])
            of_all = baseline.score(test)
            metrics = ood_metrics(of_all[mine], of_all[~mine]).as_dict()
            assert found[name, str(k)][title] == metrics


def test_a_table_goes_on_where_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(data, tmp_path, "--only", "png-size")
    first = json.loads((tmp_path / "table3.json").read_text())
    with mistake("would-overwrite"):
        call(data, tmp_path, "--only", "png-size")
    (tmp_path / "table3.json").write_text(json.dumps({**first, "rows": first["rows"][:4]}))
    made = []
    fit = PNGSize.fit

    def spy(self: PNGSize, *given: object, **options: object) -> PNGSize:
        made.append(self)
        return fit(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(PNGSize, "fit", spy)
    call(data, tmp_path, "--only", "png-size", "--resume")
    assert len(made) == 6
    again = json.loads((tmp_path / "table3.json").read_text())
    assert [row["metrics"] for row in again["rows"]] == [row["metrics"] for row in first["rows"]]
    call(data, tmp_path, "--only", "png-size", "--resume")
    assert len(made) == 6


def test_what_learns_nothing_is_scored_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []

    def score(self: Baseline, images: Pixels) -> Floats:
        scored.append(self.name)
        return np.arange(len(images), dtype=np.float64)

    monkeypatch.setattr(Baseline, "score", score)
    call(data, tmp_path, "--only", "untrained-flow", "--only", "png-size")
    assert scored.count("untrained-flow") == 1
    assert scored.count("png-size") == 10


def test_what_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    only = ("--only", "png-size")
    call(data, tmp_path, *only)
    with mistake("other-run"):
        call(data, tmp_path, *only, "--resume", "--scale", "full")
    for words in (("--only", "glow"), ("--protocol", "released"), ("--protocol", "fair")):
        with mistake("unknown-row"):
            call(data, tmp_path, *words, "--resume")
    with mistake("bad-option"):
        call(data, tmp_path, "--scale", "huge", "--resume")
    # 30 images of a class are too few for a group of 32.
    with mistake("too-few"):
        call(data, tmp_path, *only, "--protocol", "group")
    with mistake("bad-source"):
        call(tmp_path, tmp_path / "x", *only)
    (tmp_path / "table3.json").write_text("{")
    with mistake("damaged"):
        call(data, tmp_path, *only, "--resume")


def test_the_interval_of_a_mean_by_simulation() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.002, 0.02, 10)
    draws = 0.9 + rng.normal(0, 1, (20_000, 10)) * spread
    areas = [{"value": 0.9, "low": 0.9 - 1.96 * s, "high": 0.9 + 1.96 * s} for s in spread]
    mean, low, high = one_class.mean_interval(areas)
    assert mean == pytest.approx(0.9)
    assert (low, high) == pytest.approx(np.percentile(draws.mean(1), [2.5, 97.5]), abs=2e-4)
