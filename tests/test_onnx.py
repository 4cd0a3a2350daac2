"""An exported detector gives the scores of the detector, and needs no PyTorch for it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from approxmass import Detector
from approxmass.calibration import fold_p_values, p_values, with_tolerance
from approxmass.cli.main import app
from approxmass.exporting.graph import _p_value
from conftest import mistake, textures

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime: Any = pytest.importorskip("onnxruntime")

from approxmass.onnx_engine import GraphFacts, OnnxDetector  # noqa: E402

ROOT = Path(__file__).parents[1]


def rows(n: int, seed: int = 0) -> NDArray[np.float64]:
    """Rows `(n, 1, 1, 6)` about 100, of columns that go together."""
    generator = np.random.default_rng(seed)
    mix = np.random.default_rng(9).normal(size=(6, 6))
    found: NDArray[np.float64] = generator.normal(size=(n, 6)) @ mix * 3 + 100
    return found[:, None, None]


def colour(n: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images `(n, 3, side, side)` in colour."""
    planes = textures(3 * n, side, seed=seed).reshape(n, 3, side, side)
    return planes.clip(0, np.array([255, 180, 90], np.uint8)[:, None, None])


FITS: dict[str, Any] = {
    "vectors": lambda: (Detector(epochs=2), rows(300)[:, 0, 0]),
    "pca": lambda: (Detector("pca", components=16, epochs=1), textures(300)),
    "lite0": lambda: (Detector("lite0", parts=False, epochs=1, size=32), colour(100, 32)),
    "parts": lambda: (Detector("lite0", parts=True, epochs=1, size=64), colour(60, 64)),
}


class Case:
    """A detector, its export, and what it scores."""

    def __init__(self, name: str, folder: Path) -> None:
        detector, images = FITS[name]()
        self.detector = detector.fit(images)
        self.file = folder / f"{name}.onnx"
        self.detector.export(self.file)
        self.exported = OnnxDetector(self.file)

    def some(self, n: int) -> NDArray[Any]:
        """Usual images and noise."""
        shape = self.detector.shape
        if self.detector.fitted.vectors:
            return np.concatenate([rows(n - n // 2, 5), 10 * rows(n // 2, 6)])
        noise = np.random.default_rng(0).integers(0, 256, (n // 2, *shape), np.uint8)
        usual = textures(n * shape[0], shape[1], seed=5).reshape(n, *shape)
        return np.concatenate([usual[: n - n // 2], noise])


# To trace the gradient of a network takes minutes.
LONG = ("lite0", "parts")
PARAMS = [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in FITS]


@pytest.fixture(scope="module", params=PARAMS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def gaussian() -> Detector:
    """Quickly exported: no flow to learn."""
    return Detector("pca", preset="gaussian", components=8).fit(textures(300))


def alike(found: Any, wanted: Any) -> None:
    """Two scores are of the same images, up to rounding."""
    assert list(found.statistics) == list(wanted.statistics)
    for name, values in wanted.statistics.items():
        np.testing.assert_allclose(found.statistics[name], values, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.p_value, wanted.p_value)
    np.testing.assert_array_equal(found.is_outlier, wanted.is_outlier)
    np.testing.assert_array_equal(found.log_prob, -found.statistics["nll"])


@pytest.mark.parametrize("n", [1, 64])
def test_the_scores_are_those_of_the_detector_whatever_the_number_of_images(
    case: Case, n: int
) -> None:
    images = case.some(n)
    alike(case.exported.score_pixels(images), case.detector.score_pixels(images))


def test_floating_point_goes_in_where_it_is_asked_for(tmp_path: Path, gaussian: Detector) -> None:
    gaussian.export(tmp_path / "float.onnx", dtype="float32")
    exported, images = OnnxDetector(tmp_path / "float.onnx"), textures(40, seed=3)[:, None]
    alike(exported.score_pixels(images), gaussian.score_pixels(images))
    session = onnxruntime.InferenceSession(tmp_path / "float.onnx")
    (nll,) = session.run(["nll"], {"images": images.astype(np.float32) / 255})
    np.testing.assert_allclose(nll, gaussian.score_pixels(images).statistics["nll"], rtol=1e-5)


@pytest.mark.slow
def test_maps_are_those_of_an_explanation_in_any_place_of_the_frame(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    case = Case("parts", tmp_path_factory.mktemp("parts"))
    detector, exported = case.detector, case.exported
    shapes = [(64, 64), (20, 64), (64, 30), (90, 40)]
    for height, width in shapes:
        images = colour(2, 96, seed=height)[:, :, :height, :width]
        (chunk,) = exported.open(images).chunks(shape=detector.shape)
        found = exported.outputs(chunk.images, chunk.boxes)
        scores = detector.score_pixels(chunk.images, chunk.boxes)
        alike(exported.score_pixels(chunk.images, chunk.boxes), scores)
        explained = detector.explain_pixels(chunk.images, chunk.boxes)
        np.testing.assert_allclose(found["map"].max((1, 2)), explained.peaks, rtol=1e-5)
        np.testing.assert_array_equal(found["map_p_value"], explained.p_value)
        inside = np.isfinite(found["map"])
        assert inside.all() == (height == width)
    # Who does not say where an image lies, says that it fills the frame.
    images = case.some(3)
    session = onnxruntime.InferenceSession(case.file)
    (p,) = session.run(["map_p_value"], {"images": images})
    np.testing.assert_array_equal(p, detector.explain_pixels(images).p_value)


# --- p-values


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40),
    st.lists(st.integers(-1, 7), min_size=1, max_size=20),
    st.sampled_from([0.0, 0.5, 0.99, 1.01]),
)
@settings(deadline=None, max_examples=60)
def test_p_values_of_a_graph_are_those_of_the_calibration_in_ties_too(
    known: list[int], scored: list[int], beyond: float
) -> None:
    calibration = np.array(known, float)
    tolerance = float((with_tolerance(calibration) - np.sort(calibration)).min())
    scores = np.array(scored, float) + beyond * tolerance
    found = _p_value(calibration, None, [torch.from_numpy(scores)])
    np.testing.assert_array_equal(found.numpy(), p_values(calibration, scores))
    fold = np.arange(len(calibration)) % min(3, len(calibration))
    by_model = np.stack([scores + k for k in range(int(fold.max()) + 1)])
    found = _p_value(calibration, fold, [torch.from_numpy(each) for each in by_model])
    np.testing.assert_array_equal(found.numpy(), fold_p_values(calibration, fold, by_model))


def test_folds_are_one_graph(tmp_path: Path) -> None:
    detector = Detector(preset="gaussian", calibration="folds").fit(rows(120)[:, 0, 0])
    detector.export(tmp_path / "folds.onnx")
    exported = OnnxDetector(tmp_path / "folds.onnx")
    assert exported.facts.folds == 4
    new = np.concatenate([rows(30, 1), 1.5 * rows(10, 2)])
    alike(exported.score_pixels(new), detector.score_pixels(new))
    # Calibrated anew, all images calibrate the mean over models.
    detector.calibrate(rows(60, 3)[:, 0, 0]).export(tmp_path / "anew.onnx")
    alike(OnnxDetector(tmp_path / "anew.onnx").score_pixels(new), detector.score_pixels(new))


def test_of_a_calibration_per_group_one_is_taken(tmp_path: Path, gaussian: Detector) -> None:
    groups = ["east"] * 50 + ["west"] * 50
    detector = Detector("pca", preset="gaussian", components=8).fit(textures(300))
    detector.calibrate(textures(100, seed=7), per=groups)
    with mistake("bad-group", "choose one, with --for NAME"):
        detector.export(tmp_path / "all.onnx")
    west, new = detector.calibrated_for("west"), textures(20, seed=8)
    west.export(tmp_path / "west.onnx")
    alike(OnnxDetector(tmp_path / "west.onnx").score(new), west.score(new))


# --- before the graph


def test_a_region_of_interest_is_blanked_before_the_graph(tmp_path: Path) -> None:
    mask = np.zeros((12, 12), bool)
    mask[2:9, 3:] = True
    detector = Detector("pca", preset="gaussian", components=8, roi=mask).fit(textures(300))
    detector.export(tmp_path / "model.onnx")
    exported, images = OnnxDetector(tmp_path / "model.onnx"), textures(30, seed=4)
    alike(exported.score(images), detector.score(images))
    outside = images.copy()
    outside[:, ~mask] = 0
    np.testing.assert_array_equal(exported.score(outside).p_value, exported.score(images).p_value)


def test_rows_of_the_command_are_those_of_the_other_engine(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(textures(30, 20, seed=2)):
        Image.fromarray(image[: 12 + i % 3 * 4]).convert("RGB").save(folder / f"{i:02}.png")
    (folder / "00.png").write_bytes(b"no image")
    detector = Detector("pca", preset="gaussian", components=8, size=16).fit(textures(300, 20))
    detector.save(tmp_path / "detector")

    def run(*words: object) -> Any:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, (result.output, result.exception)
        return result

    run("export", tmp_path / "detector", "-o", tmp_path / "model.onnx", "--json", tmp_path / "f")
    facts = json.loads((tmp_path / "f").read_text())
    assert facts["shape"] == [1, 16, 16]
    assert facts["framed"]
    tables = []
    for name, of in (("a", ["detector"]), ("b", ["model.onnx", "--engine", "onnx"])):
        target = tmp_path / f"{name}.parquet"
        run("score", tmp_path / of[0], folder, "-o", target, *of[1:])
        tables.append(pq.read_table(target).to_pydict())
    same_rows(*tables)
    assert tables[0]["error"][0] is not None


def same_rows(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> None:
    """Two tables of scores are the same, up to rounding."""
    assert list(one) == list(other)
    for name, values in one.items():
        if name in ("name", "error", "p_value", "is_outlier"):
            assert values == other[name], name
            continue
        missing = [value is None for value in values]
        assert missing == [value is None for value in other[name]], name
        known = [[v for v in each if v is not None] for each in (values, other[name])]
        np.testing.assert_allclose(*known, rtol=1e-5, atol=1e-5)


# --- the file


def test_the_file_says_what_it_is_and_not_where_it_was_made(tmp_path: Path, case: Case) -> None:
    import onnx

    model = onnx.load(case.file)
    onnx.checker.check_model(model)
    texts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    detector = case.detector
    assert texts["approxmass.opset"] == model.opset_import[0].version >= 18
    assert texts["approxmass.statistics"] == list(detector.statistics)
    assert tuple(texts["approxmass.shape"]) == detector.shape
    assert texts["approxmass.false_alarm_rate"] == 0.05
    assert texts["approxmass.versions"]["torch"] == torch.__version__
    written = case.file.read_bytes() + case.file.with_suffix(".pt2").read_bytes()
    for place in (str(ROOT), sys.prefix, ".py"):
        assert place.encode() not in written
    first = model.graph.input[0]
    assert first.type.tensor_type.shape.dim[0].dim_param == "N"
    assert {o.name for o in model.graph.output} >= {*detector.statistics, "p_value"}


def test_the_program_beside_it_gives_the_same(case: Case) -> None:
    extra = {"approxmass.json": ""}
    program = torch.export.load(case.file.with_suffix(".pt2"), extra_files=extra).module()
    images = case.some(7)
    given: Any = images[:, 0, 0] if case.detector.fitted.vectors else images
    grid = case.exported.facts.grid
    inside = [] if grid is None else [torch.ones(7, grid[0] * grid[1], dtype=torch.bool)]
    outputs = json.loads(extra["approxmass.json"])["outputs"]
    found = dict(zip(outputs, program(torch.from_numpy(given), *inside), strict=True))
    wanted = case.detector.score_pixels(images)
    np.testing.assert_array_equal(found["p_value"].numpy(), wanted.p_value)
    np.testing.assert_allclose(found["mass"].numpy(), wanted.mass, rtol=1e-5)


def test_what_is_no_export_is_refused(tmp_path: Path, gaussian: Detector) -> None:
    with mistake("no-export", "no graph is made of the method gaussian"):
        Detector(method="gaussian").fit(textures(100)).export(tmp_path / "a.onnx")
    with mistake("bad-option", "ends in .onnx"):
        gaussian.export(tmp_path / "a.pt")
    with mistake("bad-option", "uint8 or float32, not 'int4'"):
        gaussian.export(tmp_path / "a.onnx", dtype="int4")
    with mistake("not-fitted"):
        Detector().export(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
    with mistake("not-a-detector", "there is no such file"):
        OnnxDetector(tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with mistake("damaged", "cut short, or no ONNX file"):
        OnnxDetector(tmp_path / "a.onnx")
    with mistake("not-a-detector", "is no detector"):
        GraphFacts.of("a.onnx", {})
    with mistake("damaged", "another version"):
        GraphFacts.of("a.onnx", {"approxmass.format": "7"})


class Stubborn(torch.nn.Module):
    """Features that depend on a number read out of the images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * (1 + float(x[0, 0, 0, 0]) * 1e-9)


class Plain(torch.nn.Module):
    """Features of a kind that a graph can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 2).flatten(1)


def test_a_module_is_part_of_the_graph_where_a_graph_can_hold_it(tmp_path: Path) -> None:
    images, new = textures(300), textures(20, seed=6)
    detector = Detector(Plain(), preset="gaussian", components=8).fit(images)
    detector.export(tmp_path / "model.onnx")
    alike(OnnxDetector(tmp_path / "model.onnx").score(new), detector.score(new))
    detector = Detector(Stubborn(), preset="gaussian", components=8).fit(images)
    with mistake("no-export", "encoder module and the preset gaussian does what no graph"):
        detector.export(tmp_path / "other.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.pt2"]


def test_options_of_a_folder_are_refused_for_an_export(tmp_path: Path, gaussian: Detector) -> None:
    file = tmp_path / "model.onnx"
    gaussian.export(file)
    for words, code in (
        (["--engine", "onnx", "--for", "east"], "bad-option"),
        (["--engine", "onnx", "--device", "cpu"], "bad-option"),
        ([], "not-a-detector"),
    ):
        with mistake(code):  # type: ignore[arg-type]
            target = ["-o", str(tmp_path / "x.csv")]
            given = ["score", str(file), "sample:mnist", *target, *words]
            result = CliRunner().invoke(app, given)
            assert result.exception is not None
            raise result.exception
    with mistake("wrong-shape"):
        OnnxDetector(file).score(textures(5, 13))


# --- without PyTorch


def test_the_engine_imports_nothing_heavy() -> None:
    code = (
        "import sys, approxmass.onnx_engine\n"
        "heavy = {'torch', 'scipy', 'fsspec', 'sklearn', 'pyarrow', 'onnx', 'zuko'}\n"
        "heavy |= {'onnxruntime'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_wheel_scores_where_there_is_no_pytorch(tmp_path: Path) -> None:
    """It is built, installed in an environment of its own, and writes the rows of the command."""
    sys.path.append(str(ROOT / "tools"))
    from small_wheel import installed, measured

    python = installed(tmp_path / "venv")
    if python is None:
        pytest.skip("no index of packages can be reached")
    facts = measured(python)
    assert "torch" not in facts["packages"]
    assert facts["MiB"] <= 200
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(textures(30, 20, seed=2)):
        Image.fromarray(image[: 12 + i % 3 * 4]).save(folder / f'{i:02} "a".png')
    (folder / "nothing.png").write_bytes(b"no image")
    detector = Detector("pca", preset="gaussian", components=8, size=16).fit(textures(300, 20))
    detector.save(tmp_path / "detector")
    detector.export(tmp_path / "model.onnx")
    command = [python, "-m", "approxmass_onnx", "score", tmp_path / "model.onnx", folder]
    done = subprocess.run(
        [*map(str, command), "-o", str(tmp_path / "small.csv")],
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] == 1
    words = ["score", str(tmp_path / "detector"), str(folder), "-o", str(tmp_path / "big.csv")]
    assert CliRunner().invoke(app, words).exit_code == 0
    tables = [
        pyarrow.csv.read_csv(tmp_path / f"{name}.csv").to_pydict() for name in ("big", "small")
    ]
    same_rows(*tables)
    for bad in (["model.onnx", "nowhere"], ["detector", str(folder)]):
        words = [str(python), "-m", "approxmass_onnx", "score", str(tmp_path / bad[0]), bad[1]]
        done = subprocess.run(
            [*words, "-o", str(tmp_path / "x.csv")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error[")
        assert len(done.stderr.splitlines()) == 1
