"""A comparison: the same scores as its parts give, and differences that are those of the images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn.covariance import LedoitWolf
from typer.testing import CliRunner

from approxmass import Detector, open_images
from approxmass.cli.main import app
from approxmass.data.part import part_of
from approxmass.evaluation.compare import compare
from approxmass.evaluation.lines import plain_lines
from approxmass.evaluation.metrics import auroc
from approxmass.evaluation.paired import paired_difference
from approxmass.evaluation.weak_spots import weak_spots
from conftest import mistake, textures


def odd(count: int) -> np.ndarray:
    """Images of noise."""
    return np.random.default_rng(5).integers(0, 256, (count, 12, 12), dtype=np.uint8)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return textures(260, 12)


def test_its_lines_are_the_scores_of_the_detectors_that_it_names(images: np.ndarray) -> None:
    inside, outside = images[200:], odd(40)
    found = compare(images[:200], {"noise": outside}, id_images=inside, epochs=1, seed=3)
    for of, options in (("penalised", {}), ("vanilla", {"alpha": 0.0})):
        detector = Detector(epochs=1, seed=3, **options).fit(images[:200])
        good, bad = detector.score(inside), detector.score(outside)
        for name in ("fused", "nll", "mass"):
            scores = found.scores[f"{of}: {name}"]
            np.testing.assert_array_equal(scores[found.id], good.statistics[name])
            np.testing.assert_array_equal(scores["noise"], bad.statistics[name])
        (line,) = (each for each in found.lines if (each.of, each.name) == (of, "fused"))
        assert line.flagged["noise"] == bad.is_outlier.mean()
        assert line.auroc["noise"].value == pytest.approx(
            auroc(good.statistics["fused"], bad.statistics["fused"])
        )
    area = found.differences["mass"]["noise"]
    assert area.low <= area.value <= area.high
    assert {line.of for line in found.lines} == {"penalised", "vanilla", "plain"}


def test_plain_lines_are_those_of_numpy(images: np.ndarray) -> None:
    rows = images[:150].reshape(150, -1)[:, :20] / 255
    new = odd(30).reshape(30, -1)[:, :20] / 255
    found = plain_lines({"pixels": rows}, {"new": {"pixels": new}})
    center, spread = rows.mean(0), rows.std(0)
    standard, far = (rows - center) / spread, (new - center) / spread
    nearest = np.linalg.norm(new[:, None] - rows[None], axis=2).min(1)
    np.testing.assert_allclose(found["nearest neighbour, pixels"]["new"], nearest, rtol=1e-6)
    _, _, axes = np.linalg.svd(standard, full_matrices=False)
    rest = far - far @ axes[:19].T @ axes[:19]
    np.testing.assert_allclose(
        found["PCA residual"]["new"], np.linalg.norm(rest, axis=1), rtol=1e-5, atol=1e-7
    )
    squared = LedoitWolf().fit(standard).mahalanobis(far)
    np.testing.assert_allclose(found["Mahalanobis"]["new"] ** 2, squared, rtol=1e-6)


def test_a_paired_difference_covers_what_pairing_takes_out() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 1, 200), rng.normal(1, 1, 200)
    same = (inside + rng.normal(0, 0.01, 200), outside + rng.normal(0, 0.01, 200))
    found = paired_difference([(inside, outside)], [same])
    # Two AUROCs of so few images are each uncertain by .05; their difference is not.
    assert found.high - found.low < 0.01
    assert found.low <= 0 <= found.high
    better = paired_difference([(inside, outside + 1)], [(inside, outside)])
    assert better.low > 0
    twice = paired_difference([(inside, outside + 1)] * 2, [(inside, outside)] * 2)
    assert twice == better


def test_weak_spots_are_named_and_strong_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    inside = {"fused": rng.normal(size=300), "residual": rng.normal(size=300)}
    far = {"fused": rng.normal(3, 1, 300), "residual": rng.normal(3.1, 1, 300)}
    assert weak_spots("fused", inside, {"far": far}) == []
    near = {"fused": rng.normal(0, 1, 300), "residual": rng.normal(2, 1, 300)}
    chance, other = weak_spots("fused", inside, {"far": far, "near": near})
    assert chance.startswith("near: fused, which decides, is near chance")
    assert "residual is clearly better" in other


@pytest.mark.parametrize(
    ("shift", "count", "words"),
    [
        (-2.0, 300, "takes these for more usual than usual ones"),
        (0.0, 300, "is near chance"),
        (0.0, 10, "is near chance"),
        (0.25, 3000, "is near chance"),  # above .5 beyond doubt, and of no use
        (0.8, 8, "cannot be told from chance with so few"),
        (1.5, 300, None),
    ],
)
def test_a_weak_score_is_called_by_its_kind(shift: float, count: int, words: str | None) -> None:
    spread = (np.arange(count) + 0.5) / count
    inside = {"fused": stats.norm.ppf(spread)}
    found = weak_spots("fused", inside, {"others": {"fused": inside["fused"] + shift}})
    assert [words in line and "95% interval" in line for line in found] == [True] * (
        words is not None
    )


def test_noise_makes_no_score_clearly_better() -> None:
    rng = np.random.default_rng(0)
    warned = 0
    for _ in range(40):
        signal = rng.normal(size=100), rng.normal(2, 1, 100)
        inside, outside = (
            {name: of + rng.normal(0, 0.3, 100) for name in ("fused", "nll", "mass")}
            for of in signal
        )
        warned += bool(weak_spots("fused", inside, {"others": outside}))
    assert warned <= 4


def test_parts_are_their_images_in_order_with_labels(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for i in range(5):
            grey = Image.new("L", (6, 6), 10 * i + (kind == "b"))
            grey.save(tmp_path / kind / f"{i}.png")
    source = open_images(tmp_path)
    keep = np.arange(10) % 3 == 1
    part = part_of(source, keep, "some")
    np.testing.assert_array_equal(part.read(), source.read()[keep])
    labels, whole = part.labels(), source.labels()
    assert labels is not None
    assert whole is not None
    np.testing.assert_array_equal(labels, whole[keep])
    with mistake("bad-option", "9 marks for 10 images"):
        part_of(source, keep[:9], "some")
    with mistake("bad-source"):
        part_of(source, np.zeros(10, dtype=bool), "none")


def test_the_command_prints_and_writes_the_same(tmp_path: Path, images: np.ndarray) -> None:
    np.save(tmp_path / "in.npy", images)
    np.save(tmp_path / "out.npy", odd(30))
    words = [str(tmp_path / "in.npy"), "--ood", str(tmp_path / "out.npy")]
    run = CliRunner().invoke(app, ["compare", *words, "--json", str(tmp_path / "c.json")])
    assert run.exit_code == 0, run.output
    facts = json.loads((tmp_path / "c.json").read_text())
    # A fifth was held out to try it on.
    assert facts["counts"] == {facts["id"]: 52, str(tmp_path / "out.npy"): 30}
    assert facts["fit"]["training"] + facts["fit"]["calibration"] < 208
    shown = " ".join(run.output.split())
    for line in facts["lines"]:
        assert f"{line['auroc'][str(tmp_path / 'out.npy')]['value']:.4f}" in shown
    assert "mass: penalised - vanilla" in shown
