"""A change to the whole process that several threads want at once."""

__all__ = ["SharedChange"]

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class SharedChange:
    """A context in which a change holds: the first one in makes it, the last one out undoes it.

    Arguments:
        make: Makes the change, and returns what undoes it.

    Example:
        >>> shared = SharedChange(lambda: print("made") or (lambda: print("undone")))
        >>> with shared(), shared():
        ...     print("within")
        made
        within
        undone
    """

    def __init__(self, make: Callable[[], Callable[[], None]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0
        self._undo: Callable[[], None]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """For `with`."""
        with self._lock:
            if self._inside == 0:
                self._undo = self._make()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._undo()
