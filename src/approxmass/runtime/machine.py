"""This machine: where to compute, with how many threads, and the facts kept beside every result."""

__all__ = [
    "all_processes",
    "end_processes",
    "fast_autocast",
    "fast_bf16",
    "from_main_process",
    "is_main_process",
    "is_shared",
    "limited_threads",
    "machine_facts",
    "one_blas_thread",
    "one_thread_after_a_fork",
    "pick_device",
    "processes",
    "shared_by_processes",
]

import functools
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ApproxMassError
from .cores import cores

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

T = TypeVar("T")


def machine_facts() -> dict[str, Any]:
    """Versions, processor and accelerator.

    Example:
        >>> sorted(machine_facts())
        ['accelerator', 'cores', 'packages', 'processor', 'python']
    """
    import torch

    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("approxmass", "torch", "zuko", "numpy")},
        "processor": _processor(),
        "cores": cores(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def pick_device(asked: "str | torch.device | None" = None) -> "torch.device":
    """Where to compute: the device asked for, else a GPU where there is one, else the CPU.

    Of several processes that train together each has a device of its own, as Accelerate says;
    `ACCELERATE_USE_CPU` keeps them all on the CPU.

    Raises:
        ApproxMassError: this machine has no such device, or it is one of several processes.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    import torch

    if processes() > 1:
        if asked is not None and not isinstance(asked, torch.device):
            raise ApproxMassError(
                "each of several processes has a device of its own: give none", code="bad-option"
            )
        # One that was picked here before, as for a detector, may come back.
        return torch.device(all_processes().device) if asked is None else asked
    if asked is None:
        flag = os.environ.get("ACCELERATE_USE_CPU", "").lower()
        if flag in ("1", "true", "yes", "y", "on", "t") or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", 0)
    try:
        device = torch.device(asked)
        if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
            raise RuntimeError
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError):
        there = "cpu"
        if torch.cuda.is_available():
            there += "".join(f", cuda:{i}" for i in range(torch.cuda.device_count()))
        raise ApproxMassError(
            f"there is no device {str(asked)!r} here: use one of {there}", code="no-device"
        ) from None
    return device


class _Limit:
    """What libraries compute in is one for the whole process: the first one in changes it, the
    last one out changes it back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.before = 0
        self.limits: Any = None

    @contextmanager
    def __call__(self, count: int | None) -> Iterator[None]:
        """Compute in at most `count` threads within.

        None leaves it to the libraries, which know nothing of the quota of a container: then no
        more than that, unless the environment says how many.
        """
        import torch

        if count is None:
            count = cores()
            said = "OMP_NUM_THREADS" in os.environ
            if said or self.inside or count >= torch.get_num_threads():
                yield
                return
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.before = torch.get_num_threads()
                self.limits = _controller().limit(limits=min(count, self.before))
            torch.set_num_threads(min(count, self.before))
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if self.inside == 0:
                    self.limits.restore_original_limits()
                    torch.set_num_threads(self.before)

    def forget(self) -> None:
        """Nobody is inside, as in a child whose parent's threads are not there."""
        self.lock, self.inside = threading.Lock(), 0


limited_threads = _Limit()


@functools.cache
def _controller() -> Any:
    """Of the libraries that compute here, which takes long enough to be found once only."""
    import scipy.linalg  # noqa: F401 - brings a BLAS of its own
    import torch  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within, products and decompositions do not depend on the number of threads.

    Example:
        >>> with one_blas_thread():
        ...     pass
    """
    with _controller().limit(limits=1):
        yield


@functools.cache
def one_thread_after_a_fork() -> None:
    """From now on, let forked children of this process compute in one thread.

    The threads that OpenMP has started are not there in a child, which would wait for them for
    ever.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_one_thread)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    _controller().limit(limits=1, user_api="openmp")
    limited_threads.forget()


def processes() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the only one or the first of several that train together."""
    return int(os.environ.get("RANK", "0")) == 0


def all_processes() -> "PartialState":
    """Accelerate's view of the processes that train together, as its `Accelerator` would see it."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


# Whether what this thread computes is work that all processes share.
_SHARED: ContextVar[bool] = ContextVar("shared", default=False)


@contextmanager
def shared_by_processes() -> Iterator[None]:
    """Within, processes that train together share what goes through a network, as all must call.

    Outside one may compute alone, as the first that scores when the fit is over.
    """
    before = _SHARED.set(processes() > 1)
    try:
        yield
    finally:
        _SHARED.reset(before)


def is_shared() -> bool:
    """Whether several processes share what is computed here."""
    return _SHARED.get()


def from_main_process(make: Callable[[], T]) -> T:
    """What the first of the processes that train together makes, for all of them.

    The files of the others may be of another machine.
    """
    from accelerate.utils import broadcast_object_list

    found: list[Any] = [make() if is_main_process() else None]
    made: T = broadcast_object_list(found)[0] if processes() > 1 else found[0]
    return made


def end_processes() -> None:
    """Wait for the processes that trained together, and part: one that just ends can abort."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def fast_autocast(device: "torch.device") -> "torch.autocast":
    """Autocast to bfloat16 where this device multiplies faster in it; no change elsewhere."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device))


@functools.cache
def fast_bf16(device: "torch.device") -> bool:
    """Whether a device multiplies faster in bfloat16."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    try:
        with open("/proc/cpuinfo") as file:
            processor = file.read()
    except OSError:
        return False
    return "avx512_bf16" in processor or "amx_bf16" in processor
