"""Tables 1 and 2 and the figures on toy images: what is trained, scored, kept and drawn."""

import io
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
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from approxmass import ApproxMassError, Detector
from approxmass.arrays import Pixels
from approxmass.baselines import BASELINES
from approxmass.baselines.mahalanobis import Mahalanobis
from approxmass.cli.main import app
from approxmass.data.pixels import unit_pixels
from approxmass.evaluation.metrics import ood_metrics
from approxmass.flows import RealNVP
from approxmass.flows.pixels import dequantise
from approxmass.models.settings import FlowOptions
from approxmass.paper import figures, pairs, pixel_flow, table1
from approxmass.paper.catalog import find_set
from approxmass.paper.cost import _measure
from approxmass.paper.images import as_jpeg, load
from approxmass.paper.methods import CalibratedFlow, TunedClassifier
from approxmass.paper.pixel_flow import PixelFlow, Recipe
from approxmass.paper.protocols import compare, compare_released, released_scores
from approxmass.paper.published import MASS
from approxmass.paper.runs import Runs
from approxmass.paper.sets import Sets
from approxmass.runtime.machine import fast_bf16, pick_device
from approxmass.runtime.random import seeded_generator
from approxmass.storage.tensors import digest
from approxmass.training import recipes
from conftest import mistake, textures, write_images

TINY = Recipe(
    scales=2, blocks=1, mid_channels=4, images=96, epochs=(1, 2), batch_size=32, learning_rate=1e-3
)


def images(n: int, shift: float = 0.0, seed: int = 0) -> Pixels:
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
    monkeypatch.setitem(pixel_flow._COMPACT, 1, TINY)
    monkeypatch.setattr(table1, "PAIRS", {"grey": table1.PAIRS["grey"]})
    monkeypatch.setattr(pairs, "BLOCKS", {"grey": pairs.BLOCKS["grey"]})
    for name in ("pca", "pca-vanilla"):
        method = pairs.METHODS[name]
        assert isinstance(method, CalibratedFlow)
        quick = replace(method, laptop={**method.laptop, "epochs": 1}, seeds=2)
        monkeypatch.setitem(pairs.METHODS, name, quick)


def call(*words: str) -> str:
    """The output of the command; a mistake is raised."""
    result = CliRunner().invoke(app, ["paper", *words])
    if isinstance(result.exception, ApproxMassError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_flow_is_trained_once_and_keeps_its_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    first = PixelFlow(images(160), "penalised", TINY)
    monkeypatch.setattr(pixel_flow, "train", None)  # a second training would fail
    again = PixelFlow(images(160), "penalised", TINY)
    assert again.facts == first.facts
    assert len(again.facts["history"]) == 2
    assert again.facts["history"][0]["mass"] > 0
    assert again.facts["seconds"] > 0
    states = [digest(*again.flow(epoch).state_dict().values()) for epoch in (0, 1, 2)]
    assert len(set(states)) == 3
    assert digest(*again.flow().state_dict().values()) == states[2]
    torch.testing.assert_close(again.flow(0).state_dict(), TINY.build((1, 8, 8)).state_dict())
    # Vanilla differs, and other images make another flow.
    with pytest.raises(TypeError):
        PixelFlow(images(160), "vanilla", TINY)
    with pytest.raises(TypeError):
        PixelFlow(images(160, seed=1), "penalised", TINY)


def test_what_is_in_distribution_is_learnt_from_images_not_trained_on() -> None:
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
from approxmass.storage.tensors import digest
import approxmass.training.flow as training
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


@pytest.mark.slow
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
    # The clock went on too: three steps of a tenth of a second before the stop.
    assert json.loads((folder / "facts.json").read_text())["seconds"] > 0.3


def test_a_run_that_was_stopped_after_its_last_step_knows_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pixel_flow, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            PixelFlow(images(160), "vanilla", TINY)
    flow = PixelFlow(images(160), "vanilla", TINY)
    assert flow.facts["seconds"] > 0
    assert len(flow.facts["history"]) == 2


def test_the_released_scores_are_those_of_batch_means_in_training_mode() -> None:
    torch.manual_seed(0)
    flow = RealNVP((1, 8, 8), scales=2, blocks=1, mid_channels=4).eval()
    before = digest(*flow.state_dict().values())
    pictures = torch.from_numpy(images(32))
    found = released_scores(flow, pictures)
    assert digest(*flow.state_dict().values()) == before
    assert found["mass"].shape == (1,)
    # One batch: its order does not matter for the mean, but the noise does; redo it in float64.
    order = torch.randperm(32, generator=seeded_generator(0, "released", 0))
    x = dequantise(unit_pixels(pictures[order]), seeded_generator(0, "released noise", 0))
    x = x.double().requires_grad_()
    log_p = flow.double().train().log_prob(x)
    (gradient,) = torch.autograd.grad(log_p.mean(), x)
    mass = gradient.flatten(1).norm(dim=1).mean().item()
    assert mass > 1
    assert abs(found["mass"][0] - mass) < 1 + 1e-3 * mass  # an integer
    assert found["mass"][0] == np.trunc(found["mass"][0])
    assert abs(found["nll"][0] + log_p.mean().item()) < 1 + 1e-3 * abs(log_p.mean().item())


def test_the_released_metrics_by_hand() -> None:
    tied = compare_released(np.array([0.0, 1.0]), np.array([0.5, 1.0]))
    # (fpr, tpr) = (0, .5), (.5, .5), (1, 1), so that 95% is nine tenths of the last way.
    assert tied["tnr95_id_positive_interpolated"] == pytest.approx(0.05)
    inside, outside = np.array([1.0, 1.0, 2.0, 4.0]), np.array([2.0, 3.0, 5.0, 5.0, 6.0, 7.0])
    found = compare_released(inside, outside)
    truth, likeness = np.r_[np.ones(4), np.zeros(6)], -np.r_[inside, outside]
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
    train, inside, outside = (
        load(name, split, data).images
        for name, split in (
            ("fashion_mnist", "train"),
            ("fashion_mnist", "test"),
            ("mnist", "test"),
        )
    )
    for training, alpha in (("vanilla", 0.0), ("penalised", 0.0625)):
        other = PixelFlow(train, training, TINY)
        both = [other.scores(x)["nll"] for x in (inside, outside)]
        assert found[training, "balanced"]["nll"] == ood_metrics(*both).as_dict()
        assert other.settings.alpha == alpha
        assert (other.facts["history"][0]["mass"] is None) == (training == "vanilla")
    flow = PixelFlow(train, "penalised", TINY)
    scores = [flow.scores(x)["mass"] for x in (inside, outside)]
    # Those of a scorer, which stands for the detector.
    np.testing.assert_array_equal(
        scores[0], flow.scorer().raw(torch.from_numpy(inside))["mass"].numpy()
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
    train, inside = (load("fashion_mnist", split, data).images for split in ("train", "test"))
    outside = load("kmnist", "test", data).images
    nearest = BASELINES["nearest-neighbour"]().fit(train)
    expected = ood_metrics(nearest.score(inside), nearest.score(outside)).as_dict()
    assert found["nearest-neighbour", 0]["kmnist"]["metrics"]["1-nearest-neighbour"] == expected
    flow = PixelFlow(train, "penalised", TINY)
    scorer = flow.scorer().fit(flow.images, flow.reference)
    both = [scorer.statistics_of(torch.from_numpy(x))["latent_fit"] for x in (inside, outside)]
    latent = found["pixels", 0]["kmnist"]["metrics"]["latent fit, pixels, penalised"]
    assert latent == ood_metrics(*both).as_dict()
    assert found["pca", 0] != found["pca", 1]
    vanilla = PixelFlow(train, "vanilla", TINY)
    scorer = vanilla.scorer().fit(vanilla.images, vanilla.reference)
    both = [scorer.statistics_of(torch.from_numpy(x))["fused"] for x in (inside, outside)]
    fused = found["pixels-vanilla", 0]["kmnist"]["metrics"]["fused, pixels, vanilla"]
    assert fused == ood_metrics(*both).as_dict()
    detector = Detector("pca", alpha=0.0, epochs=1, seed=1).fit(train)
    nll = [detector.score(x).statistics["nll"] for x in (inside, outside)]
    whitened = found["pca-vanilla", 1]["kmnist"]["metrics"]["NLL, pca, vanilla"]
    assert whitened == ood_metrics(*nll).as_dict()
    (row,) = (r for r in facts["rows"] if (r["method"], r["seed"]) == ("pca-vanilla", 1))
    assert row["flagged_id_at_5_percent"] == detector.predict(inside).mean()
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
    metrics = facts["rows"][0]["sets"]["mnist"]["metrics"][f"{MASS}, pixels, penalised"]
    assert (metrics["n_id"], metrics["n_ood"]) == (3, 8)  # test and training images of MNIST
    # It is the number of Table 1.
    call("table1", "--data", str(data), "-o", str(tmp_path), "--only", "penalised")
    rows = json.loads((tmp_path / "table1.json").read_text())["rows"]
    (same,) = (row for row in rows if row["protocol"] == "released")
    assert metrics == same["metrics"]["mass"]
    words = ("--protocol", "released", "--only", "pca", "--resume")
    with mistake("unknown-row"):
        call("table2", "--data", str(data), "-o", str(tmp_path), *words)


def test_the_energy_is_tuned_with_outliers_that_are_not_tested(data: Path) -> None:
    sets = Sets("fashion_mnist", list(pairs.BLOCKS["grey"].oods), data)
    outliers = sets.outliers("mnist")
    assert outliers.title == "MNIST, train"
    assert len(outliers.images) == 160
    assert set(outliers.tests) == {"mnist", "emnist", "kmnist"}
    outliers = sets.outliers("kmnist")
    assert outliers.title == "the first 48 of KMNIST, tested on the rest"
    whole = load("kmnist", "test", data).images
    np.testing.assert_array_equal(outliers.images, whole[:48])
    np.testing.assert_array_equal(outliers.tests["kmnist"], whole[48:])
    tuned = pairs.METHODS["energy-tuned"]
    assert isinstance(tuned, TunedClassifier)
    assert tuned.outliers == {"fashion_mnist": "mnist", "cifar10": "svhn"}


def test_a_figure_shows_what_its_rows_say(data: Path, tmp_path: Path) -> None:
    printed = call("fig3", "--data", str(data), "-o", str(tmp_path))
    facts = json.loads((tmp_path / "fig3.json").read_text())
    assert {(row["training"], row["epoch"]) for row in facts["rows"]} == {
        (training, epoch) for training in ("vanilla", "penalised") for epoch in (0, 1, 2)
    }
    flow = PixelFlow(load("fashion_mnist", "train", data).images, "penalised", TINY)
    inside, outside = (
        flow.scores(load(name, "test", data).images, 1)["mass"]
        for name in ("fashion_mnist", "mnist")
    )
    (row,) = (r for r in facts["rows"] if (r["training"], r["epoch"]) == ("penalised", 1))
    assert row["metrics"] == ood_metrics(inside, outside).as_dict()
    bins = row["histogram"]
    edges = np.array(bins["edges"])
    assert sum(bins["id"]) == pytest.approx(1, abs=1e-3)
    centres = (edges[1:] + edges[:-1]) / 2
    assert np.dot(bins["ood"], centres) == pytest.approx(outside.mean(), rel=0.02)
    assert [r["epoch"] for r in figures.shown(facts, figures.FIGURES["fig3"])] == [1, 2]
    (row_vanilla,) = (r for r in facts["rows"] if (r["training"], r["epoch"]) == ("vanilla", 2))
    vanilla = PixelFlow(load("fashion_mnist", "train", data).images, "vanilla", TINY)
    both = [
        vanilla.scores(load(name, "test", data).images)["mass"]
        for name in ("fashion_mnist", "mnist")
    ]
    assert row_vanilla["metrics"] == ood_metrics(*both).as_dict()
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
    nll = flow.scores(load("mnist", "test", data).images, 1)["nll"]
    edges = np.array(row["histogram"]["edges"])
    assert np.dot(row["histogram"]["ood"], (edges[1:] + edges[:-1]) / 2) == pytest.approx(
        -nll.mean(), rel=0.02
    )


def test_sets_are_made_alike_when_the_id_images_are_jpeg(tmp_path: Path) -> None:
    tint = np.array([0, 15, 40])
    colour = (0.8 * textures(6, side=8)[..., None] + tint).astype(np.uint8)
    for name in ("cifar10_jpeg", "gtsrb"):
        write_images(tmp_path / name / "test.parquet", colour, np.zeros(6, np.int64))
    write_images(tmp_path / "cifar10_jpeg" / "train.parquet", colour, np.zeros(6, np.int64))
    like = find_set("cifar10", "train", tmp_path)
    plain = load("gtsrb", "test", tmp_path).images
    alike = load("gtsrb", "test", tmp_path, like=like).images
    np.testing.assert_array_equal(alike, as_jpeg(plain))
    buffer = io.BytesIO()
    Image.fromarray(colour[0]).save(buffer, "JPEG", quality=75)
    np.testing.assert_array_equal(alike[0].transpose(1, 2, 0), np.asarray(Image.open(buffer)))
    assert 0 < np.abs(alike.astype(int) - plain).mean() < 20
    write_images(tmp_path / "cifar10_lossless" / "test.parquet", colour, np.zeros(6, np.int64))
    assert not find_set("cifar10_lossless", "test", tmp_path).jpeg
    # What went through JPEG already does not do so again.
    np.testing.assert_array_equal(load("cifar10", "test", tmp_path, like=like).images, plain)


def test_sets_of_another_size_are_resized(tmp_path: Path) -> None:
    for name, side in (("fashion_mnist", 8), ("mnist", 12)):
        write_images(tmp_path / name / "test.parquet", textures(4, side=side), np.arange(4))
    like = find_set("fashion_mnist", "test", tmp_path)
    assert load("mnist", "test", tmp_path, like=like).images.shape == (4, 1, 8, 8)


def test_what_the_hub_does_not_have_is_said() -> None:
    with mistake("bad-source", "monkeys"):  # the folder where they can be put
        find_set("inaturalist", "test", None)
    with mistake("bad-source"):
        find_set("places365", "train", None)
    with mistake("bad-source"):
        find_set("imagenet", "test", None)


def test_the_cost_at_full_scale_counts_the_operations_of_a_convolution() -> None:
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


def test_a_figure_of_the_other_training_alone_is_its_curve(data: Path, tmp_path: Path) -> None:
    printed = call("fig3", "--data", str(data), "-o", str(tmp_path), "--only", "vanilla")
    assert "| vanilla |" in printed
    assert "AUROC of the approximate mass over the epochs" in (tmp_path / "fig3.svg").read_text()


def test_baselines_are_compared_on_images_that_they_have_not_seen(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"depth": 10, "width": 1, "epochs": 1}
    energy, mahalanobis = pairs.METHODS["energy-tuned"], pairs.CLASSIFIERS["mahalanobis"]
    assert isinstance(energy, TunedClassifier)
    energy = replace(
        energy, laptop={**short, "tuning_epochs": 1}, outliers={"fashion_mnist": "kmnist"}
    )
    monkeypatch.setitem(pairs.METHODS, "energy-tuned", energy)
    monkeypatch.setitem(pairs.METHODS, "mahalanobis", replace(mahalanobis, laptop=short))
    only = ("--only", "energy-tuned", "--only", "mahalanobis")
    printed = call("table2", "--data", str(data), "-o", str(tmp_path), *only)
    rows = {r["method"]: r for r in json.loads((tmp_path / "table2.json").read_text())["rows"]}
    train, inside = (load("fashion_mnist", split, data).images for split in ("train", "test"))
    others = load("kmnist", "test", data).images
    tuned = BASELINES["energy"].make(0, {**short, "tuning_epochs": 1})
    tuned.fit(train, np.arange(160) % 2, others[:48])
    energies = tuned.score(inside), tuned.score(others[48:])
    found = rows["energy-tuned"]["sets"]["kmnist"]["metrics"]["Energy, fine-tuned with outliers"]
    assert found == ood_metrics(*energies).as_dict()
    assert rows["energy-tuned"]["outliers"] == "the first 48 of KMNIST, tested on the rest"
    plain = Mahalanobis.make(0, short).fit(train, np.arange(160) % 2)
    right = (plain.classify(inside) == np.arange(96) % 2).mean()
    assert rows["mahalanobis"]["accuracy"]["value"] == right
    assert "*Energy, published* | | 1.000 | 0.990 | 0.981 |" in printed


def test_the_settings_are_those_of_the_paper() -> None:
    assert pixel_flow.TRAININGS == {"untrained": 0.0, "vanilla": 0.0, "penalised": 2 / 32}
    for channels, side, weights, rate in ((1, 28, 9_862_664, 5e-5), (3, 32, 66_174_472, 1e-4)):
        full = pixel_flow.recipe("full", channels)
        with torch.device("meta"):
            flow = RealNVP(
                (channels, side, side),
                scales=full.scales,
                blocks=full.blocks,
                mid_channels=full.mid_channels,
                norm=full.norm,
            )
        assert sum(p.numel() for p in flow.parameters()) == weights
        settings = full.training(2 / 32)
        assert (settings.epochs, settings.batch_size, settings.learning_rate) == (200, 32, rate)
        assert settings.precision == ("bf16" if fast_bf16(pick_device()) else "no")
    assert {
        f"{MASS}, pixels, penalised": MASS,
        "Mahalanobis, layers by FGSM": "Mahalanobis",
        "G-ODIN": "G-ODIN",
        "Energy, fine-tuned with outliers": "Energy",
    } == pairs._PUBLISHED
    names = {score for method in pairs.METHODS.values() for score in method.scores.values()}
    assert set(pairs._PUBLISHED) <= names
    # But for the epochs that the tests shorten.
    options = {
        name: method.laptop
        for name, method in pairs.METHODS.items()
        if isinstance(method, CalibratedFlow)
    }
    assert options == {
        "pca": {"encoder": "pca", "epochs": 1},
        "pca-vanilla": {"encoder": "pca", "alpha": 0.0, "epochs": 1},
    }


def test_a_colour_flow_of_the_tables_is_that_of_a_detector() -> None:
    how = pixel_flow.recipe("laptop", 3, detector=True)
    options = FlowOptions(encoder="pixels").resolve((3, 32, 32), 1000)[0]
    assert options.preset == "compact"
    assert how.training(2 / 32) == recipes.for_pixels(how.images, pick_device())
    built = RealNVP.preset(options.preset, (3, 32, 32)).state_dict()
    assert {k: v.shape for k, v in how.build((3, 32, 32)).state_dict().items()} == {
        k: v.shape for k, v in built.items()
    }


def test_too_few_images_are_refused_before_any_training() -> None:
    with mistake("too-few"):
        PixelFlow(images(96), "vanilla", TINY)


@pytest.mark.parametrize("victim", ["epoch-2.safetensors", "facts.json"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_files_of_a_flow_are_named(
    victim: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path))
    flow = PixelFlow(images(160), "vanilla", TINY)
    place = flow.folder / victim
    whole = place.read_bytes()
    changed = b"{}" if victim.endswith("json") else whole[:-4] + b"\0\0\x80?"
    place.write_bytes(whole[: len(whole) // 2] if damage == "cut" else changed)
    with mistake("damaged"):
        PixelFlow(images(160), "vanilla", TINY).flow()


def test_scores_that_overflow_are_numbers_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path))
    flow = PixelFlow(images(160), "untrained", TINY)
    wild = flow.flow()
    with torch.no_grad():
        for parameter in wild.parameters():
            parameter.mul_(1e4)
    flow._keep(wild, 0)
    scores = flow.scores(images(40))
    assert np.isfinite(scores["nll"]).all()
    assert scores["nll"].max() == 1e30
    assert np.isfinite(released_scores(wild, torch.from_numpy(images(40)))["mass"]).all()


def test_rows_of_other_sets_are_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    only = ("--only", "png-size", "--resume")
    call("table2", "--data", str(data), "-o", str(tmp_path), *only)
    facts = json.loads((tmp_path / "table2.json").read_text())
    facts["rows"][0]["sets"]["mnist"]["title"] = "digits"
    (tmp_path / "table2.json").write_text(json.dumps(facts))
    with mistake("other-run", "digits"):
        call("table2", "--data", str(data), "-o", str(tmp_path), *only)


def test_one_process_at_a_time_writes_a_file(tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    script = """
import sys
from pathlib import Path
from approxmass.paper.runs import Runs
runs = Runs(Path(sys.argv[1]), ("row",), {}, resume=True)
runs.keep({"row": "theirs"})
print("ready", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(target)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    with mistake("in-use"):
        Runs(target, ("row",), {}, resume=True)
    other.kill()  # its lock goes with it
    other.wait()
    runs = Runs(target, ("row",), {}, resume=True)
    assert runs.has("theirs")


def test_a_row_from_another_machine_says_so(tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    Runs(target, ("row",), {}, resume=False).keep({"row": 1})
    facts = json.loads(target.read_text())
    facts["machine"]["processor"] = "abacus"
    target.write_text(json.dumps(facts))
    Runs(target, ("row",), {}, resume=True).keep({"row": 2})
    again = json.loads(target.read_text())
    assert again["machine"]["processor"] == "abacus"
    assert "machine" not in again["rows"][0]
    assert again["rows"][1]["machine"]["processor"] != "abacus"
    for text in ("[]", "{", '{"rows": [{}], "machine": {}}', '{"rows": 1, "machine": {}}'):
        target.write_text(text)
        with mistake("damaged"):
            Runs(target, ("row",), {}, resume=True)


def test_all_refuses_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "fig4.json").write_text("{}")
    with mistake("would-overwrite", "fig4.json"):
        call("all", "--data", str(tmp_path), "-o", str(tmp_path))
    assert not (tmp_path / "audit.json").exists()


TWO = """
import sys
sys.path.insert(0, {tests!r})
import time, os
from test_paper_pixels import TINY, images
from approxmass.paper.pixel_flow import PixelFlow
from approxmass.storage.tensors import digest
if os.environ["RANK"] == "0":
    time.sleep(1)
for training in ("untrained", "vanilla"):
    flow = PixelFlow(images(160), training, TINY)
    line = f"{{digest(*flow.flow().state_dict().values())}} {{flow.folder.name}}\\n"
    # A file each: what two processes print at once can mix within a line.
    with open({folder!r} + "/rank-" + os.environ["RANK"], "a") as file:
        file.write(line)
"""


@pytest.mark.slow
def test_two_processes_have_the_same_flow(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "APPROXMASS_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [*command, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = "".join((tmp_path / f"rank-{rank}").read_text() for rank in (0, 1))
    lines = written.splitlines()
    assert len(lines) == 4
    assert len(set(lines)) == 2
    # BatchNorm saw halves of each batch: the cache of one process does not have this flow.
    assert PixelFlow(images(160), "vanilla", TINY).folder.name not in written
