"""Requests to stop, heard between two steps."""

__all__ = ["stop_requests"]

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into an entry of a list, so that no step is cut in two."""
    stop: list[int] = []
    try:
        old = {s: signal.signal(s, lambda n, _: stop.append(n)) for s in _STOP_SIGNALS}
    except ValueError:  # not the main thread: the caller handles its own signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
