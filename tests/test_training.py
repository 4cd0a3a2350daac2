import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from approxmass.flows import RealNVP, VectorFlow
from approxmass.mass import approximate_mass
from approxmass.training import checkpoint as checkpoint_module
from approxmass.training.cuda_graph import GraphedObjective
from approxmass.training.flow import (
    Objective,
    StepReport,
    TrainingDivergedError,
    TrainingSettings,
    train,
)
from approxmass.training.threads import step_threads
from conftest import mistake

SETTINGS = TrainingSettings(alpha=0.5, epochs=3, batch_size=32, seed=7)


def data(n: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[2.0, 0.3, 0.0], [0.0, 0.5, 0.1], [0.0, 0.0, 1.0]])
    return torch.randn(n, 3, generator=generator) @ mix


def flow() -> VectorFlow:
    return VectorFlow("realnvp", 3, seed=1)


def weights(trained: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trained.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_penalty_lowers_the_mass_and_the_likelihood_learns() -> None:
    plain, penalised = flow(), flow()
    x = data(2000)
    long = TrainingSettings(alpha=0, epochs=8, batch_size=100)
    history = train(plain, x, long)
    assert history[-1].nll < history[0].nll - 0.3
    assert history[0].mass is None
    # Entropy of the Gaussian is the least NLL that any density can reach.
    entropy = 0.5 * torch.logdet(2 * torch.pi * torch.e * torch.cov(x.T)).item()
    assert entropy - 0.1 < history[-1].nll < entropy + 0.4
    train(penalised, x, TrainingSettings(alpha=3, epochs=8, batch_size=100))
    mass = {f: approximate_mass(f.log_prob, x).mean() for f in (plain, penalised)}
    assert mass[penalised] < 0.7 * mass[plain]


def test_a_seed_fixes_a_run_and_the_global_generator_does_not_matter() -> None:
    runs = []
    for seed, noise in ((7, 0), (7, 99), (8, 0)):
        torch.manual_seed(noise)
        trained = flow()
        train(trained, data(), TrainingSettings(alpha=0.5, epochs=2, batch_size=32, seed=seed))
        runs.append(weights(trained))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_uint8_pixels_are_scaled() -> None:
    pixels = torch.randint(256, (64, 1, 4, 4), dtype=torch.uint8)
    runs = []
    for given in (pixels, pixels.float() / 255):
        torch.manual_seed(0)
        image_flow = RealNVP((1, 4, 4), blocks=1, mid_channels=4)
        train(image_flow, given, TrainingSettings(alpha=0.1, epochs=2, batch_size=16))
        runs.append(weights(image_flow))
    assert same(*runs)


class _StopError(Exception):
    pass


def test_a_lazy_penalty_is_the_same_objective_in_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data(2000)
    parts, masses = [], []
    for alpha in (3 * 0.5, 0.0, 0.0, 0.5):
        trained = flow()
        loss, _, mass = Objective(trained, bf16=False)(x, alpha)
        loss.backward()
        gradients = [p.grad for p in trained.parameters() if p.grad is not None]
        parts.append(torch.cat([g.flatten() for g in gradients]))
        masses.append(mass.item())
    torch.testing.assert_close(torch.stack(parts[:3]).mean(0), parts[3])

    asked: list[float] = []
    forward = Objective.forward

    def spy(self: Objective, x: torch.Tensor, alpha: float) -> tuple[torch.Tensor, ...]:
        asked.append(alpha)
        return forward(self, x, alpha)

    monkeypatch.setattr(Objective, "forward", spy)
    shown: list[float | None] = []
    settings = TrainingSettings(alpha=0.5, epochs=1, batch_size=400, penalty_every=3)
    (record,) = train(flow(), x, settings, on_step=lambda report: shown.append(report.mass))
    assert asked == [1.5, 0.0, 0.0, 1.5, 0.0]
    assert shown[0] == shown[1] == shown[2] != shown[3] == shown[4]
    assert shown[0] == pytest.approx(masses[0], rel=0.2)  # a batch of it, with jitter
    assert record.loss == pytest.approx(record.nll + 0.5 * (record.mass or 0), rel=1e-6)


@pytest.mark.slow
def test_a_lazy_penalty_lowers_the_mass_nearly_as_much() -> None:
    x = data(2000)
    mass = {}
    for alpha, k in ((0.0, 1), (3.0, 1), (3.0, 4)):
        trained = flow()
        how = TrainingSettings(alpha=alpha, epochs=8, batch_size=100, penalty_every=k)
        train(trained, x, how)
        mass[alpha, k] = approximate_mass(trained.log_prob, x).mean().item()
    assert mass[3, 1] < mass[3, 4] < 1.5 * mass[3, 1] < 0.5 * mass[0, 1]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("at", [1, 4, 6, 11])  # in the middle and at the end of an epoch
def test_resuming_is_exact_wherever_the_run_stopped(tmp_path: Path, at: int, every: int) -> None:
    settings = replace(SETTINGS, penalty_every=every)
    whole = flow()
    history = train(whole, data(), settings)
    checkpoint = tmp_path / "run.safetensors"

    def stop(report: StepReport) -> None:
        if report.step == at:
            raise _StopError

    often = replace(settings, checkpoint_seconds=0)
    with pytest.raises(_StopError):
        train(flow(), data(), often, checkpoint=checkpoint, on_step=stop)
    resumed = flow()
    steps: list[int] = []
    again = train(
        resumed,
        data(),
        settings,
        checkpoint=checkpoint,
        resume=True,
        on_step=lambda r: steps.append(r.step),
    )
    assert steps[0] <= at  # the step under way when it stopped is done again
    assert steps[0] == max(1, at)
    assert same(weights(whole), weights(resumed))
    assert again == history


SCRIPT = """
import sys, time, torch
from pathlib import Path
from typing import Any
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_training import data, flow
from approxmass.training.flow import TrainingSettings, train
from safetensors.torch import save_file
settings = TrainingSettings(alpha=0.5, epochs=20, batch_size=32, seed=7, checkpoint_seconds=0.05)
def slow(report):
    print(report.step, flush=True)
    time.sleep({pause})
trained = flow()
train(trained, data(), settings, checkpoint=Path({checkpoint!r}), resume=True, on_step=slow)
save_file(trained.state_dict(), {result!r})
"""


def run_script(folder: Path, name: str, pause: float) -> subprocess.Popen[str]:
    script = SCRIPT.format(
        tests=str(Path(__file__).parent),
        pause=pause,
        checkpoint=str(folder / f"{name}.checkpoint"),
        result=str(folder / f"{name}.safetensors"),
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_the_weights_of_one_never_stopped(tmp_path: Path) -> None:
    whole = run_script(tmp_path, "whole", 0)
    assert whole.communicate()[1] == ""
    reached = 0
    for last in (30, 70):
        killed = run_script(tmp_path, "killed", 0.01)
        assert killed.stdout is not None
        for line in killed.stdout:
            reached = int(line)
            if reached >= last:
                break
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        assert not (tmp_path / "killed.safetensors").exists()
    final = run_script(tmp_path, "killed", 0)
    lines = final.communicate()[0].split()
    assert 1 < int(lines[0]) <= reached + 1  # it went on, it did not start anew
    assert same(
        load_file(tmp_path / "whole.safetensors"), load_file(tmp_path / "killed.safetensors")
    )


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_request_to_stop_leaves_a_checkpoint(tmp_path: Path, number: int) -> None:
    run = run_script(tmp_path, "asked", 0.01)
    assert run.stdout is not None
    for line in run.stdout:
        if int(line) >= 20:
            break
    run.send_signal(number)
    stopped = int(line)
    rest, errors = run.communicate()
    stopped = max([stopped, *map(int, rest.split())])
    assert run.returncode != 0
    assert errors.rstrip().endswith("runtime.stop.Stopped")
    resumed = run_script(tmp_path, "asked", 0)
    assert int(resumed.communicate()[0].split()[0]) == stopped + 1  # not one step is lost


def test_a_stop_is_heard_between_steps_only(tmp_path: Path) -> None:
    seen: list[int] = []

    def ask(report: StepReport) -> None:
        seen.append(report.step)
        if report.step == 4:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(flow(), data(), SETTINGS, checkpoint=tmp_path / "run", on_step=ask)
    assert seen == [1, 2, 3, 4, 5]
    assert signal.getsignal(signal.SIGINT) is before


def test_training_works_outside_the_main_thread() -> None:
    trained, expected = flow(), flow()
    thread = threading.Thread(target=train, args=(trained, data(), SETTINGS))
    thread.start()
    thread.join()
    train(expected, data(), SETTINGS)
    assert same(weights(trained), weights(expected))


def test_a_loss_that_becomes_nan_keeps_the_last_good_weights(tmp_path: Path) -> None:
    x = data()
    checkpoint = tmp_path / "run.safetensors"
    trained = flow()
    good: dict[str, torch.Tensor] = {}

    def poison(report: StepReport) -> None:
        if report.step == 6:  # the end of the first epoch
            good.update(weights(trained))
        if report.step == 8:
            with torch.no_grad():
                next(trained.parameters()).fill_(float("nan"))

    with pytest.raises(
        TrainingDivergedError, match=r"became NaN at step 9.*step 6 are kept"
    ) as info:
        train(trained, x, SETTINGS, checkpoint=checkpoint, on_step=poison)
    assert "\n" not in str(info.value)
    assert same(weights(trained), good)
    kept = {k[5:]: v for k, v in load_file(checkpoint).items() if k.startswith("flow.")}
    assert same(kept, good)


def test_nan_data_stops_at_once_with_finite_weights() -> None:
    trained = flow()
    with pytest.raises(TrainingDivergedError, match="NaN at step 1 "):
        train(trained, torch.full((64, 3), float("nan")), SETTINGS)
    assert all(v.isfinite().all() for v in weights(trained).values())


def test_a_loss_that_grows_without_bound_stops() -> None:
    trained = flow()

    def push(report: StepReport) -> None:
        if report.step > 6:
            with torch.no_grad():
                for parameter in trained.parameters():
                    parameter.mul_(1.6)

    settings = TrainingSettings(alpha=0, epochs=50, batch_size=32)
    with pytest.raises(TrainingDivergedError, match=r"without bound|became NaN") as info:
        train(trained, data(), settings, on_step=push)
    assert "alpha than 0 " in str(info.value)
    assert all(v.isfinite().all() for v in weights(trained).values())
    assert -trained.log_prob(data()).mean() < 20


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.safetensors"
    train(flow(), data(), SETTINGS, checkpoint=checkpoint)
    other = TrainingSettings(alpha=0.7, epochs=3, batch_size=32, seed=7)
    with mistake("other-run", "alpha 0.5, not 0.7"):
        train(flow(), data(), other, checkpoint=checkpoint, resume=True)
    with mistake("other-run"):
        train(flow(), data() + 1, SETTINGS, checkpoint=checkpoint, resume=True)
    with mistake("other-run"):
        train(VectorFlow("maf", 3), data(), SETTINGS, checkpoint=checkpoint, resume=True)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_checkpoint_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    checkpoint = tmp_path / "run.safetensors"
    train(flow(), data(), SETTINGS, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with mistake("damaged"):
        train(flow(), data(), SETTINGS, checkpoint=checkpoint, resume=True)


@pytest.mark.slow
def test_bfloat16_learns_nearly_the_same() -> None:
    x = data(1000)
    losses = {}
    for precision in ("no", "bf16"):
        settings = TrainingSettings(alpha=0.5, epochs=5, batch_size=100, precision=precision)  # type: ignore[arg-type]
        losses[precision] = train(flow(), x, settings)[-1].loss
    assert losses["bf16"] == pytest.approx(losses["no"], abs=0.05)
    assert losses["bf16"] != losses["no"]


WORKER = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from accelerate import PartialState
from approxmass.runtime.machine import end_processes
from test_training import SETTINGS, data, flow
from approxmass.training.flow import train
from safetensors.torch import save_file
trained = flow()
history = train(trained, data(), SETTINGS)
state = PartialState()
assert state.num_processes == 2
if state.is_main_process:
    save_file(trained.state_dict(), {result!r})
    print(history[-1].loss)
end_processes()
"""


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    result = tmp_path / "two.safetensors"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), result=str(result)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(script)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    alone = flow()
    history = train(alone, data(), SETTINGS)
    assert float(done.stdout.split()[-1]) == pytest.approx(history[-1].loss, rel=1e-4)
    together = load_file(result)
    for name, value in weights(alone).items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)


ALONE = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_training import SETTINGS, data, flow
from approxmass.training.flow import train
from safetensors.torch import save_file
{before}
trained = flow()
train(trained, data(), SETTINGS)
save_file(trained.state_dict(), sys.argv[1])
"""


def in_a_process(tmp_path: Path, before: str = "", **environment: str) -> Any:
    tests, result = str(Path(__file__).parent), tmp_path / "alone.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(tests=tests, before=before), str(result)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return load_file(result) if done.returncode == 0 else done.stderr


def test_what_the_environment_tells_accelerate_changes_no_bit(tmp_path: Path) -> None:
    found = in_a_process(
        tmp_path,
        ACCELERATE_DYNAMO_BACKEND="EAGER",
        ACCELERATE_MIXED_PRECISION="bf16",
        ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4",
    )
    plain = flow()
    train(plain, data(), SETTINGS)
    assert not isinstance(found, str), found
    for name, value in weights(plain).items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("option", ["mixed_precision='bf16'", "dynamo_backend='eager'"])
def test_an_accelerator_made_before_is_named(tmp_path: Path, option: str) -> None:
    before = f"import accelerate; accelerate.Accelerator(cpu=True, {option})"
    found = in_a_process(tmp_path, before)
    assert isinstance(found, str)
    assert "ApproxMassError: an Accelerator made before in this process" in found


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": -1.0, "epochs": 1}, "alpha"),
        ({"alpha": float("nan"), "epochs": 1}, "alpha"),
        ({"alpha": 0.0, "epochs": 0}, "epochs"),
        ({"alpha": 0.0, "epochs": 1, "batch_size": 0}, "batch_size"),
        ({"alpha": 0.0, "epochs": 1, "penalty_every": 0}, "penalty_every"),
        ({"alpha": 0.0, "epochs": 1, "penalty_every": 1.5}, "penalty_every"),
        ({"alpha": 0.0, "epochs": 1, "precision": "fp16"}, "precision"),
    ],
)
def test_mistakes_are_named(settings: dict[str, float], words: str) -> None:
    with mistake("bad-option", words):
        TrainingSettings(**settings)  # type: ignore[arg-type]


def test_no_data_is_an_error() -> None:
    with mistake("too-few"):
        train(flow(), torch.empty(0, 3), SETTINGS)


def test_checkpoints_come_on_a_period(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.safetensors"
    written = []

    def watch(report: StepReport) -> None:
        written.append(checkpoint.exists())
        time.sleep(0.02)

    period = TrainingSettings(alpha=0.5, epochs=3, batch_size=32, checkpoint_seconds=0.1)
    train(flow(), data(), period, checkpoint=checkpoint, on_step=watch)
    assert written[0] is False
    assert written[-1] is True


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_takes_the_steps_of_the_objective() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    batches = torch.rand(4, 16, 1, 8, 8, generator=generator, device="cuda")
    flows = []
    for graphed in (False, True):
        torch.manual_seed(0)
        flow = RealNVP((1, 8, 8), scales=2, blocks=1, mid_channels=8).cuda().train()
        objective = Objective(flow, bf16=False)
        graph = GraphedObjective(objective)
        optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-3)
        for step, x in enumerate(batches):
            alpha = 0.2 if step % 2 == 0 else 0.0
            if graphed:
                graph(x, alpha)
            else:
                optimizer.zero_grad()
                objective(x, alpha)[0].backward()
            optimizer.step()
        flows.append({k: v.cpu() for k, v in flow.state_dict().items()})
    torch.testing.assert_close(flows[0], flows[1])  # weights and running means


def test_a_full_gpu_is_no_fault_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    train(flow(), data(), SETTINGS, checkpoint=path)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(checkpoint_module, "load_exactly", full)
    with pytest.raises(torch.OutOfMemoryError):
        train(flow(), data(), SETTINGS, checkpoint=path, resume=True)


def test_the_device_of_a_training_is_the_one_asked_for() -> None:
    trained = flow()
    train(trained, data(), SETTINGS, device="cpu")
    assert {p.device.type for p in trained.parameters()} == {"cpu"}
    with mistake("no-device"):
        train(flow(), data(), SETTINGS, device="abacus")


@contextlib.contextmanager
def so_many_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
        assert torch.get_num_threads() == count  # whatever was set within
    finally:
        torch.set_num_threads(before)


SHARED = TrainingSettings(alpha=0.5, epochs=1)


def learnt(threads: int, **changed: Any) -> torch.Tensor:
    """Log-densities after a few steps on 16 numbers, of batches that are worth three shares."""
    rows = torch.randn(10_000, 16, generator=torch.Generator().manual_seed(0))
    settings = TrainingSettings(alpha=0.5, epochs=1, batch_size=2000, **changed)
    trained = VectorFlow("realnvp", 16, seed=0)
    with so_many_threads(threads):
        train(trained, rows, settings)
    with torch.no_grad():
        return trained.log_prob(rows)


def test_a_small_step_computes_in_one_thread_and_so_gives_the_same_in_every_machine() -> None:
    rows, seen = torch.randn(400, 4), set()
    settings, weights = TrainingSettings(alpha=0.5, epochs=1, batch_size=64), []
    for threads in (1, 4):
        trained = VectorFlow("realnvp", 4, seed=0)
        with so_many_threads(threads):
            train(trained, rows, settings, on_step=lambda _: seen.add(torch.get_num_threads()))
        weights.append(torch.cat([value.flatten() for value in trained.state_dict().values()]))
    assert seen == {1}
    assert torch.equal(*weights)


@pytest.mark.parametrize("changed", [{}, {"penalty_every": 2}, {"clip": 0.1}])
def test_shares_of_a_batch_are_the_batch(changed: dict[str, Any]) -> None:
    """To rounding, where the sums are of 2,000 rows or of three shares of 666 or 667."""
    torch.testing.assert_close(learnt(3, **changed), learnt(1, **changed), rtol=1e-4, atol=1e-4)


def test_shares_are_the_same_at_each_run_whichever_thread_is_first() -> None:
    assert torch.equal(learnt(3), learnt(3))


def test_what_fails_in_a_share_is_told_and_the_threads_are_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Objective.forward

    def forward(self: Objective, x: torch.Tensor, alpha: float) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("in a share")
        return whole(self, x, alpha)

    monkeypatch.setattr("approxmass.training.flow.Objective.forward", forward)
    rows = torch.randn(2048, 4)
    with so_many_threads(2):
        with pytest.raises(RuntimeError, match="in a share"):
            train(VectorFlow("realnvp", 4), rows, replace(SHARED, batch_size=1024))
        assert torch.get_num_threads() == 2


def test_trainings_at_a_time_give_the_threads_back() -> None:
    """Whichever begins within the other, and ends after it."""
    rows, begun, ended = torch.randn(2048, 4), threading.Event(), threading.Event()
    settings, seen = replace(SHARED, batch_size=64), list[int]()

    def later() -> None:
        assert begun.wait(60)
        train(VectorFlow("realnvp", 4), rows, settings, on_step=lambda _: ended.wait(60))
        seen.append(torch.get_num_threads())

    with so_many_threads(2):
        other = threading.Thread(target=later)
        other.start()
        train(VectorFlow("realnvp", 4), rows, settings, on_step=lambda _: begun.set())
        ended.set()
        other.join()
        assert torch.get_num_threads() == 2
    assert seen == [2]


def test_what_is_frozen_stays_as_it_is_in_shares_too() -> None:
    flow = VectorFlow("realnvp", 16, seed=0)
    frozen = next(iter(flow.parameters())).requires_grad_(False)
    before = frozen.clone()
    with so_many_threads(2):
        train(flow, torch.randn(4096, 16), replace(SHARED, batch_size=2048))
    assert torch.equal(frozen, before)


def test_large_products_are_worth_more_threads() -> None:
    pixels, images = RealNVP.preset("paper", (1, 28, 28)), torch.zeros(1, 1, 28, 28)
    found = [step_threads(pixels, images, batch) for batch in (1, 64, 640)]
    assert found == sorted(found)
    assert found[0] < found[1] < found[2]
    assert step_threads(VectorFlow("realnvp", 768), torch.zeros(1, 768), 64) == 1
