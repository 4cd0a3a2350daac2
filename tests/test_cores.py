"""How many cores a process may use: affinity, and quotas of control groups, old and new."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from approxmass.runtime import cores as module
from approxmass.runtime import machine
from approxmass.runtime.cores import _quota, cores


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def of(tmp_path: Path, own: str) -> float | None:
    write(tmp_path / "own", own)
    return _quota.__wrapped__(tmp_path / "cgroup", tmp_path / "own")


def test_the_second_version_counts_the_least_of_a_group_and_those_above(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    write(root / "cpu.max", "max 100000\n")
    write(root / "a" / "cpu.max", "150000 100000\n")
    write(root / "a" / "b" / "cpu.max", "400000 100000\n")
    assert of(tmp_path, "0::/a/b\n") == 1.5
    assert of(tmp_path, "0::/\n") is None


def test_the_first_version_is_read_under_either_name_of_its_controller(tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "cpu,cpuacct" / "docker" / "x"
    write(group / "cpu.cfs_quota_us", "300000\n")
    write(group / "cpu.cfs_period_us", "100000\n")
    own = "7:memory:/m\n4:cpu,cpuacct:/docker/x\n0::/\n"
    assert of(tmp_path, own) == 3
    write(group / "cpu.cfs_quota_us", "-1\n")
    assert of(tmp_path, own) is None


def test_within_a_container_the_limit_is_at_the_root_whatever_the_path_says(tmp_path: Path) -> None:
    root = tmp_path / "cgroup" / "cpu"
    write(root / "cpu.cfs_quota_us", "50000\n")
    write(root / "cpu.cfs_period_us", "100000\n")
    assert of(tmp_path, "4:cpu:/docker/of/the/host\n") == 0.5


@pytest.mark.parametrize("text", ["", "max", "many 100000", "100000"])
def test_what_is_not_understood_is_no_limit(tmp_path: Path, text: str) -> None:
    write(tmp_path / "cgroup" / "cpu.max", text)
    assert of(tmp_path, "0::/\n") is None
    assert _quota.__wrapped__(tmp_path, tmp_path / "absent") is None


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.9, 1), (3.0, 3), (99.0, 4)])
def test_part_of_a_core_is_none_but_there_is_always_one(
    monkeypatch: pytest.MonkeyPatch, quota: float, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(module, "_quota", lambda root, own: quota)
    assert cores() == expected


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_the_quota_bounds_the_threads_unless_a_person_has_said_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    with machine.limited_threads(None):
        assert torch.get_num_threads() == 2
    with machine.limited_threads(1):
        assert torch.get_num_threads() == 1
        with machine.limited_threads(None):  # what is within a limit stays within it
            assert torch.get_num_threads() == 1
    with machine.limited_threads(3):
        assert torch.get_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with machine.limited_threads(None):
        assert torch.get_num_threads() == 4


@contextlib.contextmanager
def limited_group(quota: int) -> Iterator[Path]:
    """A real control group with so many microseconds in 100,000, where we may make one."""
    for root, kind in ((Path("/sys/fs/cgroup/cpu"), "old"), (Path("/sys/fs/cgroup"), "new")):
        group = root / f"approxmass-test-{os.getpid()}"
        if not (root / "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if kind == "old":
                (group / "cpu.cfs_period_us").write_text("100000")
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (group / "cpu.max").write_text(f"{quota} 100000")
            (group / "cgroup.procs").write_text("")
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    pytest.skip("no control group can be made here")


def test_a_real_quota_is_seen(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib\n"
        "pathlib.Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "os.sched_getaffinity = lambda pid: set(range(64))\n"
        "from approxmass.runtime.cores import cores\n"
        "print(cores())"
    )
    with limited_group(300_000) as group:
        done = subprocess.run(
            [sys.executable, "-c", script, str(group)], capture_output=True, text=True
        )
    assert done.stdout.strip() == "3", done.stderr
