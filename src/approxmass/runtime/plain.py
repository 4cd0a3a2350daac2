"""The state of a process that would reach its numbers: put aside while a detector computes."""

__all__ = ["plain_process", "plainly"]

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch

from .machine import limited_threads, one_thread_after_a_fork
from .shared import SharedChange

P = ParamSpec("P")
T = TypeVar("T")

# How torch multiplies float32: the members of its settings that products go by.
_PRECISIONS = ("backends", "backends.mkldnn.matmul", "backends.mkldnn.conv", "backends.cuda.matmul")
_FULL = ("none", "ieee", "highest")


class _Setting(NamedTuple):
    """A setting of the whole process: how it is read and set, and what it is in a new one."""

    get: Callable[[], Any]
    set: Callable[[Any], None]
    plain: Any


def _deterministic() -> tuple[bool, bool]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _members() -> dict[str, Any]:
    found = {}
    for path in _PRECISIONS:
        owner: Any = torch
        for name in path.split("."):
            owner = getattr(owner, name, None)
        if hasattr(owner, "fp32_precision"):
            found[path] = owner
    return found


def _precisions() -> dict[str, str]:
    """By member, and `""` for the older setting; empty where all are full, as in a new process."""
    found = {path: owner.fp32_precision for path, owner in _members().items()}
    try:
        found[""] = torch.get_float32_matmul_precision()
    except RuntimeError:  # members were set that it does not tell of
        found[""] = "mixed"
    return {} if all(value in _FULL for value in found.values()) else found


def _set_precisions(found: dict[str, str]) -> None:
    # The older setting first, which sets the members that are its own: torch minds where both
    # were set otherwise.
    older = found.get("", "highest")
    torch.set_float32_matmul_precision("highest" if older == "mixed" else older)
    for path, owner in _members().items():
        wanted = found.get(path)
        if owner.fp32_precision not in (_FULL if wanted is None else (wanted,)):
            owner.fp32_precision = wanted or "ieee"


_SETTINGS = (
    _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    _Setting(_deterministic, _set_deterministic, (False, False)),
    _Setting(_precisions, _set_precisions, {}),
)


def _put_aside() -> Callable[[], None]:
    """Set what is not as in a new process; returns what sets it back."""
    before = [(each, found) for each in _SETTINGS if (found := each.get()) != each.plain]
    for each, _ in before:
        each.set(each.plain)

    def back() -> None:
        for each, found in before:
            each.set(found)

    return back


_plain_settings = SharedChange(_put_aside)


@contextmanager
def plain_process(threads: int | None = None) -> Iterator[None]:
    """Compute within as a process does in which nobody has set anything.

    What is put aside and given back: torch's default type and device, autocast, modes without
    gradients, precision of products, deterministic algorithms, and NumPy's error state. Random
    numbers need no such thing: none here are from a generator that others share.

    Arguments:
        threads: As of `limited_threads`.

    Example:
        >>> torch.set_default_dtype(torch.float64)
        >>> with plain_process():
        ...     print(torch.zeros(1).dtype)
        torch.float32
        >>> torch.zeros(1).dtype
        torch.float64
        >>> torch.set_default_dtype(torch.float32)
    """
    one_thread_after_a_fork()
    with ExitStack() as stack:
        stack.enter_context(limited_threads(threads))
        stack.enter_context(_plain_settings())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


def plainly(function: Callable[P, T]) -> Callable[P, T]:
    """A method that computes in a `plain_process` with the `threads` of its object.

    It is not compiled with what calls it, either: torch.compile would trace all the libraries.
    """

    def within(*args: P.args, **kwargs: P.kwargs) -> T:
        with plain_process(getattr(args[0], "threads", None)):
            return function(*args, **kwargs)

    @functools.cache
    def uncompiled() -> Callable[P, T]:
        return torch.compiler.disable(within)  # type: ignore[no-any-return, no-untyped-call]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        # Whoever compiles has loaded the compiler, and nobody else need.
        return (uncompiled() if "torch._dynamo" in sys.modules else within)(*args, **kwargs)

    return call
