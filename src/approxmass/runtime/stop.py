"""Requests to stop, heard between two steps."""

__all__ = ["Stopped", "exit_code", "stop_requests"]

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Not everywhere is there a terminal that can be closed.
_HANGUP = getattr(signal, "SIGHUP", None)
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([] if _HANGUP is None else [_HANGUP]))


class Stopped(KeyboardInterrupt):
    """Work that a signal has stopped where it can go on.

    Arguments:
        stop: What `stop_requests` gave; empty where another process was asked.
    """

    def __init__(self, stop: list[int]) -> None:
        super().__init__()
        self.number = stop[0] if stop else signal.SIGINT


def exit_code(error: KeyboardInterrupt) -> int:
    """As a shell counts: 130 after Ctrl-C, 143 after SIGTERM, 129 where the terminal has gone.

    Example:
        >>> exit_code(KeyboardInterrupt()), exit_code(Stopped([15]))
        (130, 143)
    """
    return 128 + int(getattr(error, "number", signal.SIGINT))


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into an entry of a list, so that no step is cut in two.

    SIGHUP is left alone where it is ignored, as under `nohup`.
    """
    stop: list[int] = []
    heard = [s for s in _STOP_SIGNALS if s != _HANGUP or signal.getsignal(s) != signal.SIG_IGN]
    try:
        old = {s: signal.signal(s, lambda n, _: stop.append(n)) for s in heard}
    except ValueError:  # not the main thread: the caller handles its own signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
