"""Stands between Python and the system where it writes below a folder, for the attacks on files."""

__all__ = ["KINDS", "Writes", "die", "full"]

import builtins
import contextlib
import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from approxmass.storage import atomic

# What is written, by name.
KINDS = ("detector", "checkpoint", "csv", "parquet", "jsonl", "json", "html", "png", "onnx", "pt2")


class Writes:
    """Counts what Python does to files below a folder, and at one of these calls does something.

    Arguments:
        below: The folder.
        at: That call, by number; None for none.
        after: It is done first; of a write half of it always is.
        act: What is done: `die`, or `full`, which every call from there on that needs room does.
        first: Called once, before anything but a lock is made; it may `begin` anew.
    """

    told: ClassVar[list[tuple[str, str]]] = []

    def __init__(
        self,
        below: Path,
        at: int | None,
        *,
        after: bool = False,
        act: Callable[[], None],
        first: "Callable[[Writes], None] | None" = None,
    ) -> None:
        self.below, self.act, self.first = os.path.realpath(below), act, first
        self.begin(at, after=after)

    def begin(self, at: int | None, *, after: bool = False) -> None:
        """Count from here on."""
        self.at, self.after = at, after
        self.told.clear()

    def _begins(self) -> None:
        first, self.first = self.first, None
        if first is not None:
            first(self)

    def install(self) -> None:
        """Stand between Python and the system."""
        opened = io.open

        def opening(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            named = not isinstance(file, int) and more.get("opener") is None
            if named and set(mode) & set("wxa+") and self._ours(file):
                return self._stream(os.fspath(file), mode, *rest, **more)
            return opened(file, mode, *rest, **more)

        io.open = opening  # type: ignore[assignment]
        builtins.open = opening  # type: ignore[assignment]
        for owner, name in (
            (os, "open"),
            (os, "fsync"),
            (os, "chmod"),
            (os, "replace"),
            (os, "mkdir"),
            (os, "unlink"),
            (os, "rmdir"),
            (atomic, "_exchange"),
        ):
            setattr(owner, name, self._around(getattr(owner, name), name))
        swept = atomic.remove_leftovers

        def sweeping(target: Path) -> None:
            if self._ours(target):  # this is looked at before anything is made
                self._begins()
            swept(target)

        atomic.remove_leftovers = sweeping

    def _ours(self, path: Any) -> bool:
        with contextlib.suppress(TypeError, ValueError, OSError):
            if isinstance(path, int):
                path = os.readlink(f"/proc/self/fd/{path}")
            return os.path.realpath(os.path.dirname(os.fspath(path))).startswith(self.below)
        return False

    def _kind(self, path: Any) -> str:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        rest = os.path.relpath(os.fspath(path), self.below)
        name = rest.split(os.sep)[-1 if rest.startswith("pictures") else 0].split(".approxmass-")[0]
        if name.endswith(".lock"):
            return "lock"
        if ".checkpoint." in name:
            return "checkpoint"
        kind = name.rpartition(".")[2].rstrip("/")
        return kind if kind in KINDS else "detector" if kind in ("other", "detector") else "lock"

    def _around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            path = args[0]
            reads = name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR)
            if more.get("dir_fd") is not None or reads or not self._ours(path):
                return function(*args, **more)
            due = self._due(self._kind(path), name)
            if due and not self.after:
                self.act()
            result = function(*args, **more)
            if due and self.after:
                self.act()
            return result

        return wrapped

    def _due(self, kind: str, name: str) -> bool:
        if kind != "lock":
            self._begins()
        self.told.append((kind, name))
        if self.act is full:  # a full disk lets names go, and stays full
            needs = name in ("open", "fsync", "mkdir", "write")
            return needs and self.at is not None and len(self.told) > self.at
        return self.at is not None and len(self.told) - 1 == self.at

    def _stream(self, path: str, mode: str, buffering: int = -1, *rest: Any, **more: Any) -> Any:
        writes = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                if writes._due(writes._kind(path), "write"):
                    super().write(memoryview(data)[: max(1, len(data) // 2)])
                    writes.act()
                return super().write(data) or 0

        raw = Raw(path, mode.replace("b", "").replace("t", ""))
        both = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return both
        return io.TextIOWrapper(both, *rest, write_through=False, **more)


def die() -> None:
    """End as by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def full() -> None:
    """As a disk without room."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
