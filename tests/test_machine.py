"""Threads and devices: limits that hold, and are given back."""

import threading

import pytest
import torch

from approxmass.runtime.machine import limited_threads, pick_device
from conftest import mistake


@pytest.fixture
def two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_limit_lowers_the_threads_and_never_raises_them() -> None:
    with limited_threads(1):
        assert torch.get_num_threads() == 1
        with limited_threads(8):
            assert torch.get_num_threads() == 2  # what there were at first
    assert torch.get_num_threads() == 2
    with limited_threads(64):
        assert torch.get_num_threads() == 2
    with limited_threads(None):
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_limits_that_overlap_in_threads_leave_nothing_behind() -> None:
    inside, go = threading.Event(), threading.Event()

    def work() -> None:
        with limited_threads(1):
            inside.set()
            go.wait(10)

    thread = threading.Thread(target=work)
    with limited_threads(1):
        thread.start()
        inside.wait(10)
    go.set()
    thread.join()
    assert limited_threads.inside == 0
    with limited_threads(1):
        assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("two_threads")
def test_a_limit_ends_with_what_was_done_under_it() -> None:
    with pytest.raises(ZeroDivisionError), limited_threads(1):
        _ = 1 / 0
    assert torch.get_num_threads() == 2


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("abacus", "cuda:99", "meta", "cpu:3", 7.5):
        with mistake("no-device", repr(str(name))):
            pick_device(name)  # type: ignore[arg-type]
    assert pick_device() == pick_device("cpu") or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert pick_device() == torch.device("cpu")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    assert pick_device() == torch.device("cuda:0")


def test_of_several_processes_none_chooses_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with mistake("bad-option"):
        pick_device("cpu")
