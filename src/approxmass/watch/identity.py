"""What tells a file from what it was before: its size, its times and its bytes."""

__all__ = ["State", "digests", "new_digest"]

import hashlib
import os
import stat
from typing import NamedTuple

# Read at a time.
_BLOCK = 1 << 20


class State(NamedTuple):
    """What the system knows of a file, without opening it.

    Attributes:
        size: In bytes.
        modified: When its bytes were last changed, in nanoseconds; whoever copies may set it.
        changed: When anything of it was last changed, its rights and its name too; nobody sets it.
        regular: Not a pipe or a device.
    """

    size: int
    modified: int
    changed: int
    regular: bool

    @classmethod
    def of(cls, path: str) -> "State | None":
        """That of a file; None where there is none."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        regular = stat.S_ISREG(found.st_mode)
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, regular)


def new_digest() -> hashlib.blake2b:
    """Takes bytes, and gives 16 that no others have."""
    return hashlib.blake2b(digest_size=16)


def digests(path: str, first: int) -> tuple[bytes, bytes]:
    """Digests of the bytes of a file: of all, and of the first so many.

    Raises:
        OSError: it cannot be read.
    """
    whole, start = new_digest(), b""
    left = first
    with open(path, "rb", buffering=0) as file:
        while data := file.read(min(left, _BLOCK) or _BLOCK):
            whole.update(data)
            if left:
                left -= len(data)
                start = b"" if left else whole.digest()
    return whole.digest(), start
