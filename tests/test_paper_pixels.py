"""Tables 1 and 2 and the figures on toy images: what is trained, scored, kept and drawn."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from approxmass import ApproxMassError
from approxmass.cli import app
from approxmass.flows import RealNVP
from approxmass.metrics import ood_metrics
from approxmass.paper import figures, methods, pairs, pixel_flow, table1
from approxmass.paper.images import as_jpeg, load
from approxmass.paper.pixel_flow import PixelFlow, Recipe
from approxmass.paper.protocols import compare, compare_released, released_scores
from approxmass.paper.published import MASS
from approxmass.resumable import digest
from conftest import textures, write_images

TINY = Recipe(2, 1, 4, "batch", 96, (1, 2), 32, 1e-3)


def images(n: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return textures(n, side=8, shift=shift, seed=seed)[:, None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes under the names of the grey sets; of the outliers only MNIST has a training split."""
    folder = tmp_path_factory.mktemp("data")
    sets = {"fashion_mnist": 0.0, "mnist": 1.5, "emnist_letters": 0.8, "kmnist": 1.1}
    for i, (name, shift) in enumerate(sets.items()):
        for split, count in (("train", 160), ("test", 96)):
            if split == "test" or i < 2:
                kind = textures(count, side=8, shift=shift, seed=10 * i + (split == "test"))
                write_images(folder / name / f"{split}.parquet", kind, np.arange(count) % 2)
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for recipes in (pixel_flow._COMPACT, pixel_flow._DETECTOR):
        monkeypatch.setitem(recipes, 1, TINY)
    monkeypatch.setattr(table1, "PAIRS", {"grey": table1.PAIRS["grey"]})
    monkeypatch.setattr(pairs, "BLOCKS", {"grey": pairs.BLOCKS["grey"]})
    for name in ("pca", "pca-vanilla"):
        quick = replace(pairs.METHODS[name], laptop={"space": "pca", "epochs": 1}, seeds=2)
        monkeypatch.setitem(pairs.METHODS, name, quick)


def call(*words: str) -> str:
    """The command; its output, or the mistake."""
    result = CliRunner().invoke(app, ["paper", *words])
    if isinstance(result.exception, ApproxMassError):
        return str(result.exception)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_flow_is_trained_once_and_keeps_its_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    first = PixelFlow(images(160), "penalised", TINY)
    monkeypatch.setattr(pixel_flow, "train", None)  # a second training would fail
    again = PixelFlow(images(160), "penalised", TINY)
    assert again.facts == first.facts
    assert len(again.facts["history"]) == 2
    assert again.facts["history"][0]["mass"] > 0
    states = [digest(*again.flow(epoch).state_dict().values()) for epoch in (0, 1, 2)]
    assert len(set(states)) == 3
    assert digest(*again.flow().state_dict().values()) == states[2]
    torch.testing.assert_close(again.flow(0).state_dict(), TINY.build((1, 8, 8)).state_dict())
    # Vanilla differs, and other images make another flow.
    with pytest.raises(TypeError):
        PixelFlow(images(160), "vanilla", TINY)
    with pytest.raises(TypeError):
        PixelFlow(images(160, seed=1), "penalised", TINY)


def test_what_is_usual_is_learnt_from_images_not_trained_on() -> None:
    flow = PixelFlow(images(160), "untrained", TINY)
    assert torch.equal(flow.images, torch.from_numpy(images(160)[:96]))
    assert torch.equal(flow.reference, torch.from_numpy(images(160)[96:]))
    published = PixelFlow(images(160), "untrained", replace(TINY, images=-40))
    assert len(published.images) == 120
    assert len(published.reference) == 40


WORKER = """
import sys
sys.path.insert(0, {tests!r})
from dataclasses import replace
from test_paper_pixels import TINY, images
from approxmass.paper.pixel_flow import PixelFlow
from approxmass.resumable import digest
import approxmass.training as training
import time
plain = training.penalized_loss
def slow(*arguments):
    time.sleep({pause})
    return plain(*arguments)
training.penalized_loss = slow
print("begin", flush=True)
flow = PixelFlow(images(160), "vanilla", replace(TINY, epochs=(1, 8)))
print(digest(*flow.flow().state_dict().values()), len(flow.facts["history"]))
"""


def work(cache: Path, pause: float) -> subprocess.Popen[str]:
    script = WORKER.format(tests=str(Path(__file__).parent), pause=pause)
    environment = {**os.environ, "APPROXMASS_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_a_stopped_training_goes_on_to_the_same_flow(tmp_path: Path) -> None:
    whole = work(tmp_path / "whole", 0)
    expected = whole.communicate(timeout=100)[0].splitlines()[-1]
    cut = work(tmp_path / "cut", 0.1)
    assert cut.stdout is not None
    assert cut.stdout.readline() == "begin\n"
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cut").glob("*/epoch-1.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cut.send_signal(signal.SIGINT)
    cut.communicate(timeout=60)
    assert cut.returncode != 0
    (folder,) = (tmp_path / "cut").iterdir()
    assert not (folder / "epoch-8.safetensors").exists()
    assert work(tmp_path / "cut", 0).communicate(timeout=100)[0].splitlines()[-1] == expected


def test_the_released_scores_are_those_of_batch_means_in_training_mode() -> None:
    torch.manual_seed(0)
    flow = RealNVP((1, 8, 8), scales=2, blocks=1, mid_channels=4).eval()
    before = digest(*flow.state_dict().values())
    pictures = torch.from_numpy(images(32))
    found = released_scores(flow, pictures)
    assert digest(*flow.state_dict().values()) == before
    assert found["mass"].shape == (1,)
    # One batch: its order does not matter for the mean, but the noise does; redo it in float64.
    from approxmass.flows.pixels import dequantise, unit_pixels
    from approxmass.resumable import seeded_generator

    order = torch.randperm(32, generator=seeded_generator(0, "released", 0))
    x = dequantise(
        unit_pixels(pictures[order]), seeded_generator(0, "released noise", 0, x_device())
    )
    x = x.double().requires_grad_()
    log_p = flow.double().train().log_prob(x)
    (gradient,) = torch.autograd.grad(log_p.mean(), x)
    mass = gradient.flatten(1).norm(dim=1).mean().item()
    assert mass > 1
    assert abs(found["mass"][0] - mass) < 1 + 1e-3 * mass  # an integer
    assert found["mass"][0] == np.trunc(found["mass"][0])
    assert abs(found["nll"][0] + log_p.mean().item()) < 1 + 1e-3 * abs(log_p.mean().item())


def x_device() -> torch.device:
    return torch.device("cpu")


def test_the_released_metrics_by_hand() -> None:
    usual, unusual = np.array([1.0, 1.0, 2.0, 4.0]), np.array([2.0, 3.0, 5.0, 5.0, 6.0, 7.0])
    found = compare_released(usual, unusual)
    truth, likeness = np.r_[np.ones(4), np.zeros(6)], -np.r_[usual, unusual]
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(truth, likeness))
    # Thresholds 1, 2, 3, 4: (precision, recall) = (1, .5), (.75, .75), (.6, .75), (2/3, 1).
    area = 0.5 * 1 + 0.25 * (1 + 0.75) / 2 + 0 + 0.25 * (0.6 + 2 / 3) / 2
    assert found["aupr_id_positive_trapezoid"] == pytest.approx(area)
    # From (fpr 2/6, tpr .75) straight to (2/6, 1).
    assert found["tnr95_id_positive_interpolated"] == pytest.approx(4 / 6)
    assert (found["n_id"], found["n_ood"]) == (4, 6)


def test_table_1_has_each_training_under_each_protocol(data: Path, tmp_path: Path) -> None:
    printed = call("table1", "--data", str(data), "-o", str(tmp_path))
    facts = json.loads((tmp_path / "table1.json").read_text())
    found = {(row["training"], row["protocol"]): row["metrics"] for row in facts["rows"]}
    assert len(found) == 9
    train, usual, unusual = (
        load(name, split, data).images
        for name, split in (
            ("fashion_mnist", "train"),
            ("fashion_mnist", "test"),
            ("mnist", "test"),
        )
    )
    flow = PixelFlow(train, "penalised", TINY)
    scores = [flow.scores(torch.from_numpy(x))["mass"] for x in (usual, unusual)]
    # Those of a scorer, which stands for the detector.
    np.testing.assert_array_equal(
        scores[0], flow.scorer().raw(torch.from_numpy(usual))["mass"].astype(np.float64)
    )
    expected = ood_metrics(scores[0], scores[1]).as_dict()
    assert found["penalised", "balanced"]["mass"] == expected
    assert found["penalised", "group"]["mass"] == compare(scores[0], scores[1], "group")
    assert found["penalised", "group"]["mass"]["n_id"] == 3
    released = found["penalised", "released"]["mass"]
    assert (released["n_id"], released["n_ood"]) == (3, 8)  # 96; 96 of the test and 160 more
    vanilla = next(line for line in printed.splitlines() if line.startswith("| vanilla"))
    assert "| 0.977 |" in vanilla
    again = call("table1", "--data", str(data), "-o", str(tmp_path), "--resume")
    assert again == printed


def test_table_2_compares_all_methods(data: Path, tmp_path: Path) -> None:
    rows = ["pca", "pca-vanilla", "pixels", "pixels-vanilla", "nearest-neighbour"]
    only = [word for row in rows for word in ("--only", row)]
    printed = call("table2", "--data", str(data), "-o", str(tmp_path), *only)
    facts = json.loads((tmp_path / "table2.json").read_text())
    found = {(row["method"], row["seed"]): row["sets"] for row in facts["rows"]}
    assert set(found) == {
        ("pca", 0),
        ("pca", 1),
        ("pca-vanilla", 0),
        ("pca-vanilla", 1),
        ("pixels", 0),
        ("pixels-vanilla", 0),
        ("nearest-neighbour", 0),
    }
    train, usual = (load("fashion_mnist", split, data).images for split in ("train", "test"))
    unusual = load("kmnist", "test", data).images
    nearest = methods.make_baseline("nearest-neighbour", {}).fit(train)
    expected = ood_metrics(nearest.score(usual), nearest.score(unusual)).as_dict()
    assert found["nearest-neighbour", 0]["kmnist"]["metrics"]["1-nearest-neighbour"] == expected
    flow = PixelFlow(train, "penalised", TINY)
    scorer = flow.scorer().fit(flow.images, flow.reference)
    both = [scorer(torch.from_numpy(x))["latent_fit"] for x in (usual, unusual)]
    latent = found["pixels", 0]["kmnist"]["metrics"]["latent fit, pixels, penalised"]
    assert latent == ood_metrics(*both).as_dict()
    assert found["pca", 0] != found["pca", 1]
    line = next(x for x in printed.splitlines() if x.startswith(f"| {MASS}, pixels, penalised"))
    cells = [found["pixels", 0][name]["metrics"] for name in ("mnist", "emnist", "kmnist")]
    for metrics, cell in zip(cells, line.split(" | ")[2:5], strict=True):
        area = metrics[f"{MASS}, pixels, penalised"]["auroc"]
        assert cell == f"{area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}]"
    assert f"| *{MASS}, published* | | 0.994 | 0.969 | 1.000 | *0.988* |" in printed


def test_the_released_protocol_is_for_flows_on_pixels(data: Path, tmp_path: Path) -> None:
    call("table2", "--data", str(data), "-o", str(tmp_path), "--protocol", "released")
    facts = json.loads((tmp_path / "table2-released.json").read_text())
    assert [row["method"] for row in facts["rows"]] == ["pixels", "pixels-vanilla"]
    metrics = facts["rows"][0]["sets"]["mnist"]["metrics"]
    assert metrics[f"{MASS}, pixels, penalised"]["n_id"] == 3


def test_the_energy_is_tuned_with_outliers_that_are_not_tested(data: Path) -> None:
    block = pairs.BLOCKS["grey"]
    learnt, what, tests = pairs._Sets(block, data).outliers()
    assert what == "MNIST, train"
    assert len(learnt) == 160
    learnt, what, tests = pairs._Sets(replace(block, tuning="kmnist"), data).outliers()
    assert what == "the first 48 of KMNIST, tested on the rest"
    whole = load("kmnist", "test", data).images
    np.testing.assert_array_equal(learnt, whole[:48])
    np.testing.assert_array_equal(tests["kmnist"], whole[48:])


def test_a_figure_shows_what_its_rows_say(data: Path, tmp_path: Path) -> None:
    printed = call("fig3", "--data", str(data), "-o", str(tmp_path))
    facts = json.loads((tmp_path / "fig3.json").read_text())
    assert {(row["training"], row["epoch"]) for row in facts["rows"]} == {
        (training, epoch) for training in ("vanilla", "penalised") for epoch in (0, 1, 2)
    }
    flow = PixelFlow(load("fashion_mnist", "train", data).images, "penalised", TINY)
    usual, unusual = (
        flow.scores(torch.from_numpy(load(name, "test", data).images), 1)["mass"]
        for name in ("fashion_mnist", "mnist")
    )
    (row,) = (r for r in facts["rows"] if (r["training"], r["epoch"]) == ("penalised", 1))
    assert row["metrics"] == ood_metrics(usual, unusual).as_dict()
    bins = row["histogram"]
    edges = np.array(bins["edges"])
    assert sum(bins["id"]) == pytest.approx(1, abs=1e-3)
    centres = (edges[1:] + edges[:-1]) / 2
    assert np.dot(bins["ood"], centres) == pytest.approx(unusual.mean(), rel=0.02)
    assert [r["epoch"] for r in figures.shown(facts, figures.FIGURES["fig3"])] == [1, 2]
    drawn = (tmp_path / "fig3.svg").read_text()
    for line in (f"epoch 1: AUROC {row['metrics']['auroc']['value']:.3f}", "FashionMNIST"):
        assert line in drawn
    assert (tmp_path / "fig3.png").read_bytes().startswith(b"\x89PNG")
    assert "| epoch 2 |" in printed
    # The log-likelihood is drawn as such: its histogram is that of the negated NLL.
    call("fig4", "--data", str(data), "-o", str(tmp_path))
    (row,) = (
        r
        for r in json.loads((tmp_path / "fig4.json").read_text())["rows"]
        if (r["training"], r["epoch"]) == ("penalised", 1)
    )
    nll = flow.scores(torch.from_numpy(load("mnist", "test", data).images), 1)["nll"]
    edges = np.array(row["histogram"]["edges"])
    assert np.dot(row["histogram"]["ood"], (edges[1:] + edges[:-1]) / 2) == pytest.approx(
        -nll.mean(), rel=0.02
    )


def test_sets_are_made_alike_when_the_usual_images_are_jpeg(tmp_path: Path) -> None:
    colour = np.repeat(textures(6, side=8)[..., None], 3, axis=3)
    for name in ("cifar10_jpeg", "gtsrb"):
        write_images(tmp_path / name / "test.parquet", colour, np.zeros(6, np.int64))
    write_images(tmp_path / "cifar10_jpeg" / "train.parquet", colour, np.zeros(6, np.int64))
    from approxmass.data.catalog import find_set

    like = find_set("cifar10", "train", tmp_path)
    plain = load("gtsrb", "test", tmp_path).images
    alike = load("gtsrb", "test", tmp_path, like=like).images
    np.testing.assert_array_equal(alike, as_jpeg(plain))
    assert 0 < np.abs(alike.astype(int) - plain).mean() < 20
    # What went through JPEG already does not do so again.
    np.testing.assert_array_equal(load("cifar10", "test", tmp_path, like=like).images, plain)


def test_sets_of_another_size_are_resized(tmp_path: Path) -> None:
    for name, side in (("fashion_mnist", 8), ("mnist", 12)):
        write_images(tmp_path / name / "test.parquet", textures(4, side=side), np.arange(4))
    from approxmass.data.catalog import find_set

    like = find_set("fashion_mnist", "test", tmp_path)
    assert load("mnist", "test", tmp_path, like=like).images.shape == (4, 1, 8, 8)


def test_what_the_hub_does_not_have_is_said() -> None:
    from approxmass.data.catalog import find_set

    with pytest.raises(ApproxMassError, match=r"iNaturalist \(animals\).*--data.*monkeys"):
        find_set("inaturalist", "test", None)
    with pytest.raises(ApproxMassError, match="Places365, train"):
        find_set("places365", "train", None)


def test_the_cost_at_full_scale_counts_the_operations_of_a_convolution() -> None:
    from approxmass.paper.cost import _measure

    conv = torch.nn.Conv2d(3, 5, 3, padding=1)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)

    def twice() -> None:
        (gradient,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()  # type: ignore[no-untyped-call]

    forward = 2 * 2 * 5 * 3 * 9 * 64
    flops, seconds = _measure(lambda: conv(x))
    assert flops == forward
    assert seconds > 0
    # Forward, the gradient with respect to x; then through both, with respect to x and weights.
    assert 4 * forward <= _measure(twice)[0] <= 7 * forward
