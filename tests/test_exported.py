"""A module as bytes: the same numbers when read back, and never a pickle."""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from approxmass import Detector
from approxmass.storage import artifact
from approxmass.storage.exported import exported, program_of
from conftest import mistake, textures


class Branching(nn.Module):
    """What it does follows from the numbers: torch cannot export it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * (2 if float(x.sum()) > 1 else 3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(100, 9),
    ).eval()


def written(module: nn.Module) -> Tensor:
    found = exported(module, torch.zeros(2, 1, 12, 12))
    assert found is not None
    return found


@pytest.mark.parametrize("rows", [1, 2, 3, 70])
def test_it_comes_back_with_the_same_numbers_for_any_number_of_rows(rows: int) -> None:
    x = torch.randn(rows, 1, 12, 12)
    module = network()
    again = program_of(written(module))
    with torch.no_grad():
        assert torch.equal(again(x), module(x))
    again.train()  # it stays in eval mode
    with torch.no_grad():
        assert torch.equal(again(x), module(x))


def test_a_gradient_goes_through() -> None:
    module, again = network(), program_of(written(network()))
    gradients = []
    for each in (module, again):
        x = torch.ones(3, 1, 12, 12, requires_grad=True)
        gradients.append(torch.autograd.grad(each(x).square().sum(), x)[0])
    torch.testing.assert_close(*gradients)


def test_what_cannot_be_exported_is_none() -> None:
    assert exported(Branching(), torch.zeros(2, 1, 4, 4)) is None


def test_nothing_in_it_is_pickled() -> None:
    data = written(network()).numpy().tobytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not zipfile.is_zipfile(io.BytesIO(content)), name  # as torch.save writes
            assert not content.startswith(b"\x80"), name


class Evil:
    """Its pickle does something when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.place,))


def rewritten(
    data: Tensor, change: Callable[[str, bytes], bytes], more: dict[str, bytes]
) -> Tensor:
    """An archive with its files changed, and others beside them."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data.numpy().tobytes())) as old,
        zipfile.ZipFile(buffer, "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        folder = old.namelist()[0].partition("/")[0]
        for name, content in more.items():
            new.writestr(f"{folder}/{name}", content)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def as_it_is(name: str, content: bytes) -> bytes:
    return content


def test_pickles_are_refused_before_they_are_read(tmp_path: Path) -> None:
    place = tmp_path / "touched"
    plain, saved = pickle.dumps(Evil(place)), io.BytesIO()
    torch.save(Evil(place), saved)
    archive = written(network())

    def sample(name: str, content: bytes) -> bytes:
        return saved.getvalue() if "sample_inputs" in name else content

    def marked(name: str, content: bytes) -> bytes:
        if not name.endswith("weights_config.json"):
            return content
        config = json.loads(content)
        for payload in config["config"].values():
            payload["use_pickle"] = True
        return json.dumps(config).encode()

    def renamed(name: str, content: bytes) -> bytes:
        if not name.endswith("weights_config.json"):
            return content
        config = json.loads(content)
        next(iter(config["config"].values()))["path_name"] = "../other"
        return json.dumps(config).encode()

    def pickled(name: str, content: bytes) -> bytes:
        return saved.getvalue() if name.endswith("weight_0") else marked(name, content)

    for change, more in (
        (sample, {}),
        (marked, {}),
        (pickled, {}),
        (renamed, {}),
        (as_it_is, {"data/constants/custom_obj_0": plain}),
        (as_it_is, {"data/constants/opaque_obj_0": plain}),
        (as_it_is, {"extra/notes": b"hello"}),
        (as_it_is, {"data/sample_inputs/other.pt": saved.getvalue()}),
    ):
        with pytest.raises(ValueError, match=r"pickled|no place"):
            program_of(rewritten(archive, change, more))
    assert not place.exists()
    program_of(rewritten(archive, as_it_is, {}))  # it is not the rewriting that is refused


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_damaged_bytes_in_a_detector_are_damage(damage: str, tmp_path: Path) -> None:
    detector = Detector(nn.Flatten(), epochs=1).fit(textures(120))
    detector.save(tmp_path / "d")
    manifest, tensors = artifact.load_folder(tmp_path / "d")
    (name,) = [each for each in tensors["weights"] if "exported" in each]
    whole = tensors["weights"][name]
    noise = torch.from_numpy(np.frombuffer(b"noise" * 99, np.uint8).copy())
    tensors["weights"][name] = {
        "cut": whole[: len(whole) // 2].clone(),
        "noise": noise,
        "empty": whole[:0].clone(),
    }[damage]
    artifact.save_folder(tmp_path / "d", manifest, tensors, "a card")
    with mistake("damaged"):
        Detector.load(tmp_path / "d")


def test_expressions_that_torch_would_evaluate_are_refused(tmp_path: Path) -> None:
    written = exported(nn.Linear(4, 3).eval(), torch.zeros(2, 4))
    assert written is not None
    harm = f"__import__('pathlib').Path({str(tmp_path / 'harm')!r}).touch() or Symbol('s0')"
    for old, new in (
        (r"Symbol\('s\d+', positive=True, integer=True\)", harm),
        (r"torch\.ops\.aten\.linear\.default", "torch.os.system"),
        (r'"guards_code": \[\]', '"guards_code": ["import os"]'),
    ):
        buffer = io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(written.numpy().tobytes())) as archive,
            zipfile.ZipFile(buffer, "w") as changed,
        ):
            for name in archive.namelist():
                content = archive.read(name)
                if "/models/" in name:
                    text, count = re.subn(old, lambda _, new=new: new, content.decode())
                    assert count
                    content = text.encode()
                changed.writestr(name, content)
        with pytest.raises(ValueError, match="exported module"):
            program_of(torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8))
    assert not (tmp_path / "harm").exists()
