"""What files are called in a log: text that tells any two of them apart."""

__all__ = ["file_name", "log_name"]

import os
import re

_ESCAPED = re.compile(rb"\\(\\|x[0-9a-f]{2})")


def log_name(file: str) -> str:
    r"""The name of a file as text: a byte that is no text is `\xff`, a backslash is two.

    Example:
        >>> print(log_name("day/1.png"), log_name(r"\xff.png"), log_name("\udcff.png"))
        day/1.png \\xff.png \xff.png
    """
    return os.fsencode(file.replace("\\", "\\\\")).decode(errors="backslashreplace")


def file_name(name: str) -> str:
    r"""The file that is called so in a log.

    Raises:
        ValueError: no file that is looked at can be called so.

    Example:
        >>> file_name(r"\\xff.png"), file_name(r"\xff.png")
        ('\\xff.png', '\udcff.png')
        >>> file_name("../1.png")
        Traceback (most recent call last):
        ValueError: ../1.png is no file in a folder
    """
    file = os.fsdecode(_ESCAPED.sub(_plain, name.encode()))
    hidden = any(not part or part.startswith(".") for part in file.split("/"))
    if hidden or "\0" in file or log_name(file) != name:
        raise ValueError(f"{name} is no file in a folder")
    return file


def _plain(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return code if code == b"\\" else bytes([int(code[1:], 16)])
