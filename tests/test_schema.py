"""detector.json holds what its types say, or the detector is not loaded: whoever edits it, with
digests made anew, gets one line."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from approxmass import Detector
from approxmass.cli.main import app
from approxmass.describe import describe
from approxmass.errors import ApproxMassError
from approxmass.storage.artifact import _digest, _manifest_digest
from conftest import mistake

Place = tuple[str | int, ...]
Edit = Callable[[dict[str, Any], dict[str, dict[str, torch.Tensor]]], None]
# What no field may be that is something else.
ODD = (
    None,
    True,
    -1,
    0,
    3,
    1.9,
    2.0,
    1e300,
    float("nan"),
    float("inf"),
    "x",
    "",
    [],
    [1],
    {},
    {"a": 1},
)


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 6), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved")
    for name, detector in {
        "flow": Detector("pca", components=4, epochs=1, calibration="holdout"),
        "folds": Detector("pca", components=4, epochs=1, calibration="folds"),
        "gaussian": Detector(method="gaussian", calibration="holdout"),
    }.items():
        detector.fit(pixels(120)).save(place / name)
    rows = np.random.default_rng(0).normal(size=(120, 3))
    Detector(epochs=1, calibration="holdout").fit(rows).save(place / "vectors")
    return place


def forged(folder: Path, target: Path, edit: Edit) -> Path:
    """A copy, edited, whose digests are right."""
    target.mkdir()
    manifest = json.loads((folder / "detector.json").read_text())
    tensors = {
        name: safetensors.torch.load_file(folder / f"{name}.safetensors")
        for name in ("weights", "calibration")
    }
    edit(manifest, tensors)
    for name, values in tensors.items():
        data = safetensors.torch.save(values)
        (target / f"{name}.safetensors").write_bytes(data)
        if isinstance(manifest.get("files"), dict):
            manifest["files"][f"{name}.safetensors"] = _digest(data)
    manifest["digest"] = _manifest_digest(manifest)
    (target / "detector.json").write_text(json.dumps(manifest))
    return target


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Of every value in a JSON document."""
    if at:
        yield at
    if isinstance(value, dict | list):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*at, name))


def at(document: Any, place: Place) -> Any:
    for name in place:
        document = document[name]
    return document


def put(place: Place, value: Any) -> Edit:
    def edit(manifest: dict[str, Any], _: Any) -> None:
        at(manifest, place[:-1])[place[-1]] = value

    return edit


def used(detector: Detector) -> None:
    """What a command does with a detector."""
    describe(detector)
    seen = np.zeros((2, 3)) if detector.fitted.vectors else pixels(2)
    detector.score(seen)
    assert detector.fitted.in_use.facts()
    assert repr(detector)


def loaded(folder: Path) -> Detector | None:
    """A detector, or None where it is refused as it should be."""
    with suppress(ApproxMassError):
        return Detector.load(folder, device="cpu")
    return None


def same_kind(a: Any, b: Any) -> bool:
    return type(a) is type(b) or {type(a), type(b)} == {int, float}


@pytest.mark.parametrize("kind", ["folds", "gaussian", "vectors"])
def test_another_type_in_any_place_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    manifest = json.loads((folder / kind / "detector.json").read_text())
    generator = np.random.default_rng(0)
    count = 0
    accepted: list[tuple[Place, Any]] = []
    for number, place in enumerate(places(manifest)):
        if place[0] in ("digest", "files"):  # made anew
            continue
        old = at(manifest, place)
        others = [value for value in ODD if not same_kind(value, old)]
        value = others[int(generator.integers(len(others)))]
        target = forged(folder / kind, tmp_path / f"{number}", put(place, value))
        count += 1
        if (detector := loaded(target)) is not None:
            accepted.append((place, value))
            used(detector)
    # Some may be null, or numbers or words: an option, a size, a group.
    may = {"roi", "columns", "size", "outliers", "per", "views", "mass"}
    assert all(place[-1] in may for place, _ in accepted), accepted
    assert count > 50


@pytest.mark.parametrize("kind", ["folds", "gaussian", "vectors"])
def test_what_is_missing_or_unknown_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    manifest = json.loads((folder / kind / "detector.json").read_text())
    for number, place in enumerate(places(manifest)):
        made = place[0] in ("digest", "files") or "versions" in place
        if not isinstance(place[-1], str) or made:
            continue

        def remove(found: dict[str, Any], _: Any, place: Place = place) -> None:
            del at(found, place[:-1])[place[-1]]

        def add(found: dict[str, Any], _: Any, place: Place = place) -> None:
            at(found, place)["more"] = 1

        inner = [add] if isinstance(at(manifest, place), dict) else []
        for edit in (remove, *inner):
            target = forged(folder / kind, tmp_path / f"{number}{edit.__name__}", edit)
            with mistake("damaged"):
                Detector.load(target, device="cpu")


@pytest.mark.parametrize("version", [1.9, 4.0, True, "4", None, [4], -4, 10**400])
def test_a_format_is_a_whole_number(folder: Path, tmp_path: Path, version: Any) -> None:
    target = forged(folder / "gaussian", tmp_path / "d", put(("format_version",), version))
    with mistake("damaged"):
        Detector.load(target)


RANGES: dict[str, tuple[Place, Any]] = {
    "negative count": (("facts", "training"), -1),
    "more than there are": (("facts", "training"), 121),
    "no such share": (("settings", "holdout"), 1.5),
    "no such seed": (("settings", "seed"), 2**40),
    "grey of 300": (("settings", "background"), 300),
    "no side": (("facts", "shape"), [1, 0, 6]),
    "infinite loss": (("model", "history", 0, "loss"), float("inf")),
    "NaN rate": (("model", "training", "learning_rate"), float("nan")),
    "calibration of no day": (("calibrations", 0, "made"), "yesterday"),
    "113 that are 30": (("calibrations", 0, "groups", "", "images"), 113),
    "another count": (("facts", "calibration"), 29),
    "no digest": (("facts", "sha256"), "abc"),
    "no calibration": (("calibrations",), []),
    "other weights": (("model", "weights"), 5),
    "other dimension": (("model", "dimension"), 77),
    "auto": (("settings", "calibration"), "auto"),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_value_out_of_range_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    target = forged(folder / "flow", tmp_path / "d", put(*RANGES[name]))
    with mistake("damaged"):
        Detector.load(target)


def _nan(file: str, name: str, value: float) -> Edit:
    def edit(_: dict[str, Any], tensors: dict[str, dict[str, torch.Tensor]]) -> None:
        (found,) = [key for key in tensors[file] if key.endswith(name)]
        tensors[file][found].view(-1)[0] = value

    return edit


TENSORS: dict[str, Edit] = {
    "NaN in the encoder's mean": _nan("weights", "encoder.mean", float("nan")),
    "infinite calibration score": _nan("calibration", "0.0.scores.fused", float("inf")),
    "NaN peak": _nan("calibration", "0.0.peaks", float("nan")),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_are_finite(folder: Path, tmp_path: Path, name: str) -> None:
    target = forged(folder / "flow", tmp_path / "d", TENSORS[name])
    with mistake("damaged", "copy the folder again or fit again"):
        Detector.load(target)


def _cut(name: str, stop: int) -> Edit:
    def edit(_: dict[str, Any], tensors: dict[str, dict[str, torch.Tensor]]) -> None:
        tensors["calibration"][name] = tensors["calibration"][name][:stop].clone()

    return edit


@pytest.mark.parametrize("name", ["0.0.scores.fused", "digests", "0.0.peaks"])
def test_tensors_have_their_lengths(folder: Path, tmp_path: Path, name: str) -> None:
    with mistake("damaged"):
        Detector.load(forged(folder / "flow", tmp_path / "d", _cut(name, 0)))


def test_the_command_says_it_in_one_line(folder: Path, tmp_path: Path) -> None:
    target = forged(folder / "flow", tmp_path / "d", put(("facts", "notes"), 7))
    found = CliRunner().invoke(app, ["inspect", str(target)])
    assert found.exception is not None
    assert str(found.exception).count("\n") == 0
    assert "fit again" in str(found.exception)
