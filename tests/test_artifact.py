import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from approxmass.storage import atomic
from approxmass.storage.artifact import FORMAT_VERSION, check_target, load_folder, save_folder
from approxmass.storage.atomic import write_atomic, write_json
from conftest import mistake

TENSORS = {"weights": {"w": torch.arange(6.0).view(2, 3)}, "calibration": {"c": torch.ones(4)}}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def saved(folder: Path, facts: str = "first") -> Path:
    save_folder(folder, {"facts": facts}, TENSORS, "a card")
    return folder


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    manifest, tensors = load_folder(saved(tmp_path / "d"))
    assert manifest["facts"] == "first"
    assert manifest["format_version"] == FORMAT_VERSION
    assert torch.equal(tensors["weights"]["w"], TENSORS["weights"]["w"])
    assert torch.equal(tensors["calibration"]["c"], TENSORS["calibration"]["c"])


def test_a_newer_detector_replaces_the_older_and_leaves_nothing_beside(tmp_path: Path) -> None:
    saved(tmp_path / "d")
    saved(tmp_path / "d", "second")
    assert load_folder(tmp_path / "d")[0]["facts"] == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_save_that_fails_half_way_leaves_the_old_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(saved(tmp_path / "d"))
    written = []

    def full(self: Path, data: bytes) -> int:
        written.append(self.name)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        with self.open("wb") as file:
            return file.write(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with mistake("cannot-write"):
        saved(tmp_path / "d", "second")
    monkeypatch.undo()
    assert len(written) == 2
    assert snapshot(tmp_path / "d") == before
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("years of work")
    with mistake("would-overwrite", "thesis.tex"):
        saved(tmp_path / "d")
    assert snapshot(tmp_path / "d") == {"thesis.tex": b"years of work"}
    (tmp_path / "file").write_text("x")
    with mistake("would-overwrite"):
        saved(tmp_path / "file")
    (saved(tmp_path / "mine") / "notes.txt").write_text("mine")  # beside a real detector
    with mistake("would-overwrite"):
        saved(tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    with mistake("would-overwrite"):
        check_target(Path("/"))


def test_a_process_killed_while_it_replaces_leaves_a_whole_detector(tmp_path: Path) -> None:
    """SIGKILL after any system call that renames: one of the two detectors is there, whole."""
    saved(tmp_path / "d")
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from approxmass.storage import atomic
from test_artifact import saved
real = atomic._exchange
def killed(a, b):
    done = real(a, b)
    os.kill(os.getpid(), 9) if done else None
    return done
atomic._exchange = killed
saved(Path({str(tmp_path / "d")!r}), "second")
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert load_folder(tmp_path / "d")[0]["facts"] == "second"


def test_where_names_cannot_be_swapped_two_renames_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    saved(saved(tmp_path / "d"), "second")
    assert load_folder(tmp_path / "d")[0]["facts"] == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_links_stay_links_and_devices_stay_devices(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_json(tmp_path / "link.json", {"x": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == {"x": 1}
    with mistake("would-overwrite"):
        write_json(Path("/dev/null"), {"x": 1})
    saved(tmp_path / "d")
    (tmp_path / "current").symlink_to(tmp_path / "d")
    saved(tmp_path / "current", "second")
    assert (tmp_path / "current").is_symlink()
    assert load_folder(tmp_path / "d")[0]["facts"] == "second"


@pytest.mark.parametrize(
    "name", ["detector.json", "weights.safetensors", "calibration.safetensors"]
)
@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_file_cut_short_is_found(tmp_path: Path, name: str, keep: int) -> None:
    part = saved(tmp_path / "d") / name
    # The last byte of the JSON is a newline, which says nothing: cut one more.
    part.write_bytes(part.read_bytes()[: keep - (keep < 0)])
    with mistake("damaged", name):
        load_folder(tmp_path / "d")


@pytest.mark.parametrize("name", ["weights.safetensors", "calibration.safetensors"])
def test_every_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    part = saved(tmp_path / "d") / name
    whole = part.read_bytes()
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1
        part.write_bytes(bytes(changed))
        with mistake("damaged"):
            load_folder(tmp_path / "d")


def test_an_edited_manifest_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "d") / "detector.json"
    path.write_text(path.read_text().replace("first", "third"))
    with mistake("damaged"):
        load_folder(tmp_path / "d")


@pytest.mark.parametrize("step", [-1, 1])
def test_another_format_is_not_read(tmp_path: Path, step: int) -> None:
    path = saved(tmp_path / "d") / "detector.json"
    manifest = json.loads(path.read_text())
    manifest["format_version"] = FORMAT_VERSION + step
    path.write_text(json.dumps(manifest))
    with mistake("damaged", "upgrade" if step > 0 else "fit again"):
        load_folder(tmp_path / "d")


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"format_version": "x"}', "\x00"])
def test_a_manifest_that_is_something_else_is_found(tmp_path: Path, text: str) -> None:
    (saved(tmp_path / "d") / "detector.json").write_text(text)
    with mistake("damaged"):
        load_folder(tmp_path / "d")


def test_missing_parts_are_found(tmp_path: Path) -> None:
    with mistake("not-a-detector"):
        load_folder(tmp_path)
    (saved(tmp_path / "d") / "weights.safetensors").unlink()
    with mistake("damaged"):
        load_folder(tmp_path / "d")


def test_nothing_of_a_failed_write_is_left(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")

    def fail() -> None:
        with write_atomic(target) as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert snapshot(tmp_path) == {"out.csv": b"old"}


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        write_json(tmp_path / "a" / "b.json", {"x": 1})
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a" / "b.json").stat().st_mode) == 0o644
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"x": 1}


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with mistake("cannot-write"):
        write_json(tmp_path / "file" / "b.json", {})
