"""Names of what is written beside a target, and the end of what killed processes left there.

A name tells whose it is: which machine, which process and when that began. So the next writer knows
what nobody writes any more, without a lock, which not every file system has: it removes what is of
a process of this machine that has ended. Of another machine, or another container, which cannot be
asked, it removes what nobody has touched for a day.
"""

__all__ = ["beside", "remove_leftovers"]

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from pathlib import Path

# Of a name, so many bytes; file systems take 255, and the rest says whose it is.
_MOST = 150
_OURS = re.compile(
    r"\.(?P<stem>.+)\.approxmass-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<began>\d+)-[0-9a-f]{8}",
    re.DOTALL,
)
# Seconds after which what is of another machine is nobody's, and after which a folder is looked at
# again by the same process.
_DAY, _AGAIN = 86400.0, 60.0
_LOOKED: dict[str, float] = {}


def beside(target: Path) -> Path:
    """A name beside `target` that nobody else takes, and by which a later process knows it.

    Example:
        >>> beside(Path("/x/scores.csv")).name.startswith(".scores.csv.approxmass-")
        True
    """
    pid = os.getpid()
    began = 0  # of a system that does not tell
    with contextlib.suppress(OSError):
        began = _began(pid) or 0
    whose = f"{_machine()}-{pid}-{began}-{secrets.token_hex(4)}"
    return target.with_name(f".{_stem(target.name)}.approxmass-{whose}")


def remove_leftovers(target: Path) -> None:
    """Away with what killed processes have left in the folder of `target`; nothing of a live one.

    An older `target` that one of them had put aside and not yet replaced is put back. A folder is
    looked at once a minute at most, for it may hold many files.
    """
    folder, now = os.fspath(target.parent), time.monotonic()
    if now - _LOOKED.get(folder, -_AGAIN) < _AGAIN:
        return
    _LOOKED[folder] = now
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [(entry, _OURS.fullmatch(entry.name)) for entry in entries]
    for entry, name in found:
        if name is None or not _is_nobodys(entry, name):
            continue
        old = Path(entry.path) / "old"
        ours = name["stem"] == _stem(target.name)
        place = target if ours else target.with_name(name["stem"])
        with contextlib.suppress(OSError):
            if old.exists() and not place.exists():
                if not ours:  # whoever writes that puts it back
                    continue
                os.replace(old, target)
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def _stem(name: str) -> str:
    """A name, or of a long one its beginning and a digest."""
    data = os.fsencode(name)
    if len(data) <= _MOST:
        return name
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{os.fsdecode(data[: _MOST - 9])}-{digest}"


@functools.cache
def _machine() -> str:
    """This machine and, where there are such, the space of its process numbers."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _began(pid: int) -> int | None:
    """When a process began, in ticks since its machine did; None of one that has ended.

    Raises:
        OSError: this system does not tell, or not of this one.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        state, *rest = file.read().rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else int(rest[18])


def _is_nobodys(entry: "os.DirEntry[str]", name: "re.Match[str]") -> bool:
    if name["machine"] == _machine() and name["began"] != "0":
        return _has_ended(int(name["pid"]), int(name["began"]))
    with contextlib.suppress(OSError):
        times = [entry.stat(follow_symlinks=False).st_mtime]
        for folder, folders, files in os.walk(entry.path):
            times += [os.lstat(os.path.join(folder, each)).st_mtime for each in folders + files]
        return time.time() - max(times) > _DAY
    return False


def _has_ended(pid: int, began: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # of another user
        pass
    try:
        return _began(pid) != began
    except OSError:  # the kill has told of it, but not its time: hidden from us, or just ended
        return False
