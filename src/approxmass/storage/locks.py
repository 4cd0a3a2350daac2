"""One process at a time where two would undo each other's work."""

__all__ = ["alone"]

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import ApproxMassError
from .atomic import plain_os_errors


@contextlib.contextmanager
def alone(place: Path, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Within, no other process does the same in this place.

    The lock is the system's, on `.NAME.lock` beside the place: of a killed process it goes with the
    process, and the file with whoever has the lock next.

    Arguments:
        place: A file or folder; it need not be there.
        doing: What others would do, as an error says it: "fits into".
        wait: Wait for another process, not raise.

    Raises:
        ApproxMassError: another process is at work there, or no lock can be made.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "detector"
        >>> with alone(place, "fits into"), alone(place, "fits into"):
        ...     pass
        Traceback (most recent call last):
            ...
        approxmass.errors.ApproxMassError: another process fits into .../detector: wait for it,
        or choose another place
    """
    place = place.resolve()
    file = place.with_name(f".{place.name}.lock")
    with plain_os_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, thread_local=False)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise ApproxMassError(
                f"another process {doing} {place}: wait for it, or choose another place",
                code="in-use",
            ) from None
    try:
        yield
    finally:
        # While it is ours: who opened the file before sees that it has no name, and opens anew.
        with contextlib.suppress(OSError):  # Windows removes no open file
            file.unlink()
        lock.release()
