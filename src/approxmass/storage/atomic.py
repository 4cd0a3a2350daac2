"""Files that are whole or not there: atomic writes of files and folders.

All that is written goes through here: beside its place, to the disk, and then under its name. What
is there already keeps its mode and, where we may give it away, its owner.
"""

__all__ = [
    "check_file",
    "plain_os_errors",
    "probe",
    "replace_folder",
    "write_atomic",
    "write_json",
    "write_text",
]

import contextlib
import ctypes
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ApproxMassError
from .leftovers import beside, remove_leftovers


@contextlib.contextmanager
def plain_os_errors(target: Path) -> Iterator[None]:
    """Say in one line why `target` cannot be written.

    Raises:
        ApproxMassError: for an `OSError` within.
    """
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ApproxMassError(
            f"cannot write {target}: {reason}; free some space or choose another place "
            "(nothing that was there has been changed)",
            code="cannot-write",
        ) from error


def check_file(target: Path) -> None:
    """Refuse a place for a file that is a folder or a device, or where nothing can be written.

    Raises:
        ApproxMassError: as said.
    """
    with plain_os_errors(target):
        if target.exists() and not target.is_file():
            raise ApproxMassError(
                f"{target} is not a regular file: choose another name", code="would-overwrite"
            )
        probe(target)


def probe(target: Path) -> None:
    """Raise `OSError` unless something can be made beside `target`; makes its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target.parent):
        pass


@contextlib.contextmanager
def write_atomic(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write to; on success it takes the name `target`.

    On any failure the new file is removed and an older `target` stays as it was.

    Raises:
        ApproxMassError: the disk is full, the folder cannot be written to, and the like.

    Example:
        >>> target = Path(tempfile.mkdtemp()) / "scores.csv"
        >>> with write_atomic(target) as path:
        ...     _ = path.write_text("score")
        >>> target.read_text()
        'score'
    """
    target = Path(os.path.realpath(target))  # a link keeps pointing where it did
    check_file(target)
    with plain_os_errors(target):
        remove_leftovers(target)
        path = beside(target)
        # Never more open than its target is, also while it grows.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _first_mode(target, 0o666)))
        try:
            yield path
            _to_disk(path)
            _like(path, target)
            os.replace(path, target)
            _names_to_disk(target.parent)
        finally:
            path.unlink(missing_ok=True)


def write_json(target: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as indented JSON, whole or not at all."""
    write_text(target, json.dumps(facts, indent=2))


def write_text(target: Path, text: str) -> None:
    """Write text and a last line end, whole or not at all."""
    with write_atomic(target) as path:
        # A file name in it need not be text.
        path.write_text(text + "\n", encoding="utf-8", errors="replace")


@contextlib.contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` to fill; on success it takes the name `target`.

    Raises:
        ApproxMassError: as `write_atomic`.
    """
    target = Path(os.path.realpath(target))
    with plain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        aside = beside(target)
        aside.mkdir(0o700)
        fresh, old = aside / "new", aside / "old"
        fresh.mkdir()
        try:
            yield fresh
            for path in fresh.iterdir():
                _to_disk(path)
                _like(path, target / path.name)
            _like(fresh, target)
            _names_to_disk(fresh)
            if not target.exists():
                os.replace(fresh, target)
            elif not _exchange(fresh, target):
                os.replace(target, old)
                os.replace(fresh, target)
            _names_to_disk(target.parent)
        except BaseException:
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _first_mode(target: Path, usual: int) -> int:
    """The mode of something new: as `target`, but ours to write; `usual` where there is none."""
    try:
        return stat.S_IMODE(target.stat().st_mode) & 0o777 | 0o600
    except OSError:
        return usual


def _like(path: Path, target: Path) -> None:
    """Give something new the owner, group and mode of what it replaces, if that is there."""
    try:
        known = target.stat()
    except OSError:
        return
    mode, new = stat.S_IMODE(known.st_mode), path.stat()
    if (known.st_uid, known.st_gid) != (new.st_uid, new.st_gid):
        with contextlib.suppress(OSError, AttributeError):
            os.chown(path, known.st_uid, known.st_gid)
        with contextlib.suppress(OSError, AttributeError):
            os.chown(path, -1, known.st_gid)
        if path.stat().st_gid != known.st_gid:  # what that group may is not for another
            mode = mode & ~0o070 | (mode & 0o007) << 3
    path.chmod(mode)


def _to_disk(path: Path) -> None:
    """Wait until a file is on the disk, whose name is then worth something."""
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _names_to_disk(folder: Path) -> None:
    """The same for the names in a folder, where the system can."""
    with contextlib.suppress(OSError):
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step, so that no moment is without either; False if that is not to be.

    Only Linux can (renameat2 with RENAME_EXCHANGE), on most file systems.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    at_working_folder, exchange = -100, 2
    status = renameat2(
        at_working_folder, os.fsencode(a), at_working_folder, os.fsencode(b), exchange
    )
    return bool(status == 0)
