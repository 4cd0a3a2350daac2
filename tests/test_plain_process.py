"""What the caller's process is set to reaches no number of a detector, and is left as it was."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from approxmass import Detector
from approxmass.baselines import NearestNeighbour
from approxmass.runtime.plain import plain_process
from conftest import textures

IMAGES, OTHERS = textures(160), textures(6, shift=1.0, seed=1)


@contextlib.contextmanager
def set_to(write: Callable[[object], object], value: object, back: object) -> Iterator[None]:
    write(value)
    try:
        yield
    finally:
        write(back)


@contextlib.contextmanager
def new_precision() -> Iterator[None]:
    """By the newer settings, which torch holds against the older one."""
    members = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
    before = [member.fp32_precision for member in members]
    for member in members:
        member.fp32_precision = "bf16"
    yield
    torch.set_float32_matmul_precision("highest")
    for member, value in zip(members, before, strict=True):
        member.fp32_precision = value


def deterministic(value: object) -> None:
    torch.use_deterministic_algorithms(bool(value))


AMBIENT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "float64": lambda: set_to(torch.set_default_dtype, torch.float64, torch.float32),
    "float16": lambda: set_to(torch.set_default_dtype, torch.float16, torch.float32),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "device meta": lambda: set_to(torch.set_default_device, "meta", None),
    "device cpu": lambda: set_to(torch.set_default_device, "cpu", None),
    "with meta": lambda: torch.device("meta"),
    "medium": lambda: set_to(torch.set_float32_matmul_precision, "medium", "highest"),
    "new precision": new_precision,
    "deterministic": lambda: set_to(deterministic, True, False),
    "NumPy raises": lambda: np.errstate(all="raise"),
}


def state() -> list[object]:
    """What `AMBIENT` sets."""
    return [
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_device(),
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.backends.mkldnn.conv.fp32_precision,
        torch.are_deterministic_algorithms_enabled(),
        np.geterr(),
    ]


def pixels() -> Detector:
    return Detector("pixels", epochs=1)


def whitened() -> Detector:
    return Detector(epochs=1)


def nearest() -> Detector:
    return Detector(method="nearest-neighbour")


def module() -> Detector:
    torch.manual_seed(0)
    return Detector(nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), nn.Tanh(), nn.Flatten()), epochs=1)


def numbers(detector: Detector) -> dict[str, np.ndarray]:
    scores = detector.score(list(OTHERS))
    found = {**scores.statistics, "p_value": scores.p_value}
    if detector.model.explains:
        explained = detector.explain(list(OTHERS))
        found |= {"maps": np.stack(explained.maps), "peaks": explained.peaks}
    return found


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict]]:
    """Of each kind of detector where it is saved, and what it gives in a plain process."""
    found = {}
    for make in (whitened, pixels, nearest, module):
        place = tmp_path_factory.mktemp("plain") / make.__name__
        detector = make().fit(IMAGES)
        detector.save(place)
        found[make.__name__] = place, numbers(detector)
    return found


@pytest.mark.parametrize("name", AMBIENT)
@pytest.mark.parametrize("make", [whitened, pixels, nearest, module])
def test_no_bit_depends_on_the_callers_process(
    plain: dict[str, tuple[Path, dict]],
    make: Callable[[], Detector],
    name: str,
    tmp_path: Path,
) -> None:
    place, expected = plain[make.__name__]
    made = make()  # whose weights a module has from its maker
    with AMBIENT[name]():
        before = state()
        fitted = made.fit(IMAGES)
        same(numbers(fitted), expected)
        same(numbers(Detector.load(place)), expected)
        fitted.save(tmp_path / "d")
        assert state() == before
    same(numbers(Detector.load(tmp_path / "d")), expected)
    same(numbers(fitted), expected)


def test_baselines_alone_are_as_independent() -> None:
    expected = NearestNeighbour().fit(IMAGES).score(list(OTHERS))
    for ambient in AMBIENT.values():
        with ambient():
            found = NearestNeighbour().fit(IMAGES).score(list(OTHERS))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", [whitened, pixels, nearest])
def test_global_random_numbers_are_neither_used_nor_moved(
    plain: dict[str, tuple[Path, dict]], make: Callable[[], Detector], tmp_path: Path
) -> None:
    def generators() -> list[object]:
        _, keys, *rest = np.random.get_state()
        return [torch.get_rng_state().tolist(), random.getstate(), keys.tolist(), *rest]

    torch.manual_seed(77), np.random.seed(77), random.seed(77)
    before = generators()
    detector = make().fit(IMAGES)
    found = numbers(detector)
    detector.save(tmp_path / "d")
    again = numbers(Detector.load(tmp_path / "d"))
    assert generators() == before
    same(found, plain[make.__name__][1])
    same(again, found)


def test_a_fit_and_a_score_within_what_is_compiled(plain: dict[str, tuple[Path, dict]]) -> None:
    place, expected = plain["whitened"]

    def work() -> tuple[Detector, Detector]:
        return whitened().fit(IMAGES), Detector.load(place)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for detector in torch.compile(work, backend="eager")():
                same(torch.compile(numbers, backend="eager")(detector), expected)
        finally:
            torch._dynamo.reset()


def test_the_state_comes_back_after_an_error_and_from_within() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ZeroDivisionError), plain_process(), plain_process():
            _ = 1 / 0
        assert torch.get_default_dtype() == torch.float64
        with plain_process():
            with plain_process():
                pass
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


FORKED = """
import os, sys, torch
sys.path.insert(0, {tests!r})
from approxmass import Detector
from conftest import textures
torch.set_num_threads(2)
images = textures(120, 32)
detector = Detector({options}).fit(images)
first = detector.score(images)
child = os.fork()
if child == 0:
    other = detector.score(images)
    same = abs(other.statistic - first.statistic).max() < 1e-3
    Detector({options}, threads=2).fit(images).score(images[:5])
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("options", ["epochs=1", "method='nearest-neighbour'"])
def test_a_child_forked_after_scoring_in_two_threads_scores(options: str) -> None:
    code = FORKED.format(tests=str(Path(__file__).parent), options=options)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, error = process.communicate(timeout=150)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the child that waits for ever, too
            os.killpg(process.pid, signal.SIGKILL)
    assert out.split() == ["0", "2"], error[-2000:]
