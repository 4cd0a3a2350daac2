"""Trained once, kept, and resumed bit for bit wherever it was stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from approxmass.training.cached import cosine, step_schedule, train_once
from approxmass.training.loop import State, Step, TrainingDivergedError
from conftest import mistake

DATA = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))


def run(
    pause: float = 0.0,
    poison: int = -1,
    validate: bool = False,
    log: Path | None = None,
    stop_at: int = -1,
    ruin: int = -1,
    **over: Any,
) -> tuple[nn.Module, State]:
    """Train a small autoencoder with batch norm, momentum and noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

    def step(at: Step) -> dict[str, Tensor]:
        net.train()
        x = DATA[at.rows]
        noise = torch.randn(x.shape, generator=at.generator("noise"))
        loss = (net(x + 0.1 * noise) - x).square().mean()
        if at.number == poison:
            loss = loss * float("nan")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if log is not None:
            with log.open("a") as file:
                file.write(f"{at.number}\n")
        if at.number == ruin:
            with torch.no_grad():
                net[0].weight.fill_(float("inf"))
        if at.number == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(pause)
        return {"loss": loss.detach()}

    def held_out() -> float:
        net.eval()
        with torch.no_grad():
            return (net(DATA[:50]) - DATA[:50]).square().mean().item()

    options: dict[str, Any] = {
        "count": 150,
        "batch_size": 25,
        "epochs": 4,
        "seed": 0,
        "device": torch.device("cpu"),
        "schedule": cosine,
    }
    state = train_once(
        over.pop("name", "toy"),
        over.pop("settings", {}),
        over.pop("data", "data"),
        {"net": net},
        {"optimizer": optimizer},
        step,
        validate=held_out if validate else None,
        **{**options, **over},
    )
    return net, state


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(a.state_dict()[k], b.state_dict()[k]) for k in a.state_dict())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_second_time_nothing_is_trained(cache: Path, tmp_path: Path) -> None:
    first, state = run(log=tmp_path / "steps")
    again, kept = run(log=tmp_path / "steps")
    assert same(first, again)
    assert kept == state
    assert (tmp_path / "steps").read_text().split() == [str(n) for n in range(24)]
    assert [p.suffix for p in cache.iterdir()] == [".safetensors"]


def test_whatever_changes_the_result_is_another_run(cache: Path) -> None:
    networks = [run()[0], run(seed=1)[0], run(epochs=3)[0], run(batch_size=30)[0]]
    for over in (
        {"settings": {"learning_rate": 1}},
        {"data": "other"},
        {"name": "other"},
        {"device": torch.device("meta")},  # only its name is looked at
    ):
        run(**over)
    assert len(list(cache.iterdir())) == 8
    run(device=torch.device("cpu:0"))  # one CPU is as good as another
    assert len(list(cache.iterdir())) == 8
    assert not any(same(networks[0], other) for other in networks[1:])


KILLED = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from approxmass.training import cached
cached._CHECKPOINT_SECONDS = 0.0
from test_cached import run
run(pause=0.05, validate=True, log=Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_goes_on_to_the_same_weights(
    cache: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "steps"
    code = KILLED.format(tests=str(Path(__file__).parent))
    for wanted in (5, 14):  # stopped twice, the second time in another epoch
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(log)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        while not log.exists() or len(log.read_text().split()) < wanted:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        assert process.returncode != 0
        assert [p.suffix for p in cache.iterdir() if p.name[0] != "."] == [".unfinished"]
    resumed, state = run(validate=True, log=log)
    numbers = [int(n) for n in log.read_text().split()]
    assert numbers[-1] == 23
    assert len(numbers) < 24 + 24  # it did go on
    monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path / "other"))
    straight, expected = run(validate=True)
    assert same(resumed, straight)
    assert state.history == expected.history


def test_the_epoch_with_the_smallest_validation_is_kept(cache: Path) -> None:
    # A rate at which the last epochs are worse than an earlier one.
    net, state = run(validate=True, epochs=12, schedule=lambda done: 30.0 if done > 0.5 else 1.0)
    values = [record["validation"] for record in state.history]
    best = min(values)
    assert values[-1] > best
    net.eval()
    with torch.no_grad():
        found = (net(DATA[:50]) - DATA[:50]).square().mean().item()
    assert found == pytest.approx(best, rel=1e-6)


def test_a_loss_that_is_no_number_stops_and_is_not_kept(cache: Path) -> None:
    with mistake("diverged") as info:
        run(poison=7)
    assert isinstance(info.value, TrainingDivergedError)
    assert "kept" not in str(info.value)
    assert not list(cache.iterdir())


def test_weights_that_are_no_numbers_are_not_kept(cache: Path) -> None:
    with mistake("diverged"):
        run(ruin=23)  # in the last step: no loss tells of it any more
    assert not list(cache.iterdir())


def test_a_damaged_file_is_named(cache: Path) -> None:
    run()
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with mistake("damaged", path.name):
        run()


def test_schedules() -> None:
    assert [step_schedule(done) for done in (0.0, 0.49, 0.5, 0.75)] == [1.0, 1.0, 0.1, 0.01]
    assert cosine(0.25) == pytest.approx(0.5 + 0.5**1.5)


def test_a_flipped_byte_is_noticed(cache: Path) -> None:
    run()
    (path,) = cache.iterdir()
    packed = bytearray(path.read_bytes())
    packed[-20] ^= 1
    path.write_bytes(packed)
    with mistake("damaged"):
        run()


def test_other_starting_weights_are_another_run(cache: Path) -> None:
    networks = []
    for scale in (1.0, 2.0):
        net = nn.Linear(3, 3)
        with torch.no_grad():
            net.weight.copy_(scale * torch.eye(3))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

        def step(at: Step, net: nn.Module = net, optimizer: Any = optimizer) -> dict[str, Tensor]:
            loss = (net(DATA[at.rows]) - DATA[at.rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}

        train_once(
            "toy",
            {"epochs": 7},
            "data",
            {"net": net},
            {"o": optimizer},
            step,
            count=150,
            batch_size=25,
            epochs=1,
            seed=0,
            device=torch.device("cpu"),
        )
        networks.append(net)
    assert not same(*networks)


def test_a_stop_in_the_last_step_keeps_the_result_and_stops(cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(stop_at=23)
    assert [p.suffix for p in cache.iterdir()] == [".safetensors"]
