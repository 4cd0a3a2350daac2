"""A fit by two processes is that by one: the same scores, each at its share of the work."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from approxmass import Detector
from approxmass.encoders import efficientnet_lite
from approxmass.flows import VectorFlow
from approxmass.runtime.machine import end_processes, is_main_process, processes
from approxmass.training import recipes
from approxmass.training.flow import TrainingSettings, train

QUICK = {"size": 64, "epochs": 1, "calibration": "holdout"}
# By name: what is fitted on, and the words of a detector. 90 images train, in batches that two
# processes cannot share evenly.
FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "pca": ("images", {"encoder": "pca", "components": 8, "epochs": 3, "calibration": "holdout"}),
    "pca by folds": ("images", {"encoder": "pca", "epochs": 2, "calibration": "folds"}),
    "pca, trimmed": ("images", {"encoder": "pca", "epochs": 2, "trim": 0.05}),
    "pixels": ("images", {"encoder": "pixels", "epochs": 1, "calibration": "holdout"}),
    "vectors": ("rows", {"epochs": 3, "calibration": "holdout"}),
    "lite0": ("photos", {"encoder": "lite0", **QUICK, "parts": False}),
    "lite0 with parts": ("photos", {"encoder": "lite0", **QUICK, "parts": True}),
}
TRAINING = TrainingSettings(alpha=0.5, epochs=3, batch_size=33, seed=7)


def given(kind: str) -> NDArray[Any]:
    """What is fitted on, and what is scored: the last 20."""
    generator = np.random.default_rng(0)
    if kind == "rows":
        return generator.normal(size=(221, 6)) @ generator.normal(size=(6, 6))
    shape = (151, 1, 8, 8) if kind == "images" else (120, 3, 64, 64)
    base = generator.integers(0, 200, (1, *shape[1:]))
    return (base + generator.integers(0, 56, shape)).astype(np.uint8)


def fits(folder: Path) -> None:
    """Fit each, and write its scores and how many images went through the network here."""
    seen, patches = 0, recipes.for_patches
    # The patches are trained on for less long.
    recipes.for_patches = lambda *of: replace(patches(*of), epochs=1)
    # In bfloat16 a gradient has three digits, and half a batch others than the whole.
    recipes.fast_bf16 = lambda device: False  # type: ignore[assignment]
    forward = efficientnet_lite.EfficientNetLite.forward

    def counted(self: Any, x: torch.Tensor) -> Any:
        nonlocal seen
        seen += len(x)
        return forward(self, x)

    efficientnet_lite.EfficientNetLite.forward = counted  # type: ignore[method-assign]
    for name, (kind, words) in FITS.items():
        seen, images = 0, given(kind)
        detector = Detector(**words).fit(images[:-20])
        counts = seen
        if is_main_process():
            scores = detector.score(images[-20:])
            np.savez(folder / f"{name}.npz", **scores.statistics, p_value=scores.p_value)
        rank = os.environ.get("RANK", "0")
        (folder / f"{name}.{rank}.txt").write_text(str(counts))
    end_processes()


def resumed(folder: Path) -> None:
    """Go on with a training whose checkpoint the first process alone has."""
    flow = VectorFlow("realnvp", 3, seed=1)
    place = folder / ("checkpoint" if is_main_process() else "absent")
    history = train(flow, rows(), TRAINING, checkpoint=place, resume=True)
    assert processes() == 2
    if is_main_process():
        np.savez(folder / "resumed.npz", loss=[record.loss for record in history])
    assert not (folder / "absent").exists()
    end_processes()


def rows() -> torch.Tensor:
    return torch.randn(200, 3, generator=torch.Generator().manual_seed(0))


def by(count: int, work: str, folder: Path) -> None:
    """Run a function of this file in so many processes."""
    folder.mkdir(exist_ok=True)
    code = f"import test_processes as t, pathlib; t.{work}(pathlib.Path({str(folder)!r}))"
    script = folder / "worker.py"
    script.write_text(f"import sys, torch\ntorch.set_num_threads(1)\n{code}\n")
    # What `accelerate launch` starts on GPUs; on CPUs it would start several by MPI alone.
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    done = subprocess.run(
        [sys.executable, *(launch if count > 1 else []), str(script)],
        env={
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            "APPROXMASS_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("processes")
    for count in (1, 2):
        by(count, "fits", folder / str(count))
    return folder / "1", folder / "2"


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_scores_are_those_of_one_process(both: tuple[Path, Path], name: str) -> None:
    one, two = (np.load(folder / f"{name}.npz") for folder in both)
    assert set(one) == set(two)
    for statistic in one:
        near = np.isclose(two[statistic], one[statistic], rtol=1e-4, atol=1e-4)
        # Weights agree to rounding. Where a unit is as near to its kink, one of both has it on the
        # other side, and the gradient, which is the mass, jumps, and with it a rank; the density
        # does not.
        flipped = 0 if statistic in ("nll", "residual", "neighbour") else 1
        assert (~near).sum() <= flipped, statistic
        most = 1 / 100 if statistic == "p_value" else 1e-3  # a rank, of some 130
        np.testing.assert_allclose(
            two[statistic], one[statistic], rtol=1e-3, atol=most, err_msg=statistic
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FITS if name.startswith("lite0")])
def test_each_process_encodes_its_share(both: tuple[Path, Path], name: str) -> None:
    alone = int((both[0] / f"{name}.0.txt").read_text())
    shares = [int((both[1] / f"{name}.{rank}.txt").read_text()) for rank in (0, 1)]
    # Each batch of the network is filled up, and the probe is made by each.
    assert max(shares) < 0.75 * alone
    assert abs(shares[0] - shares[1]) <= 8


@pytest.mark.slow
def test_the_command_shows_one_bar_and_writes_once(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", given("rows"))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = ["-m", "approxmass", "fit", str(tmp_path / "rows.npy"), "-o", str(tmp_path / "made")]
    words += ["--epochs", "2", "--calibration", "holdout"]
    runs = [
        subprocess.run(
            [sys.executable, *launch, *words],
            env={**os.environ, "ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        for _ in range(2)  # the second finds a detector there
    ]
    for done in runs:
        assert done.stderr.count("training 100%") == 1
        assert done.stdout.count("smallest p-value") == 1
    assert runs[1].stderr.count("it is replaced when the new one is whole") == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["made", "rows.npy"]
    assert Detector.load(tmp_path / "made").facts.images == len(given("rows"))


@pytest.mark.slow
def test_all_processes_go_on_from_the_checkpoint_of_the_first(tmp_path: Path) -> None:
    def stop(report: Any) -> None:
        if report.step == 8:
            signal.raise_signal(signal.SIGINT)

    flow = VectorFlow("realnvp", 3, seed=1)
    with pytest.raises(KeyboardInterrupt):
        train(flow, rows(), TRAINING, checkpoint=tmp_path / "checkpoint", on_step=stop)
    by(2, "resumed", tmp_path)
    whole = train(VectorFlow("realnvp", 3, seed=1), rows(), TRAINING)
    np.testing.assert_allclose(
        np.load(tmp_path / "resumed.npz")["loss"], [record.loss for record in whole], rtol=1e-4
    )
