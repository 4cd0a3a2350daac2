"""New files of a folder, once nobody writes to them any more."""

__all__ = ["Arrivals"]

import os
from collections.abc import Callable
from pathlib import Path

from ..data.readers.folder import shown_name
from ..errors import ApproxMassError


class Arrivals:
    """New files of a folder, once nobody writes to them any more.

    Arguments:
        folder: The folder.
        found: The files that count, as paths from a folder, in the order of their names.
        known: Names, as text, of files that are not new.

    Attributes:
        known: The same; to be added to.
        waiting: Files that may still be written to, with their time and size at the last look.
    """

    def __init__(self, folder: Path, found: Callable[[Path], list[str]], known: set[str]) -> None:
        self.known = known
        self._found = found
        self._folder = folder
        self._looks = 0
        self.waiting: dict[str, tuple[int, int]] = {}

    def look(self) -> list[str]:
        """Files that are as they were at the last look, in the order in which to score them."""
        try:
            found = self._found(self._folder)
        except ApproxMassError as error:
            # A folder below was removed while it was being read: the next look will not see it.
            if isinstance(error.__cause__, FileNotFoundError) and self._folder.is_dir():
                return []
            raise
        state = {}
        for file in found:
            if shown_name(file) not in self.known:
                try:
                    facts = os.stat(self._folder / file)
                except OSError:  # removed again, or a link to nothing
                    continue
                state[file] = (facts.st_mtime_ns, facts.st_size)
        settled = [file for file in state if self.waiting.get(file) == state[file]]
        self._looks += 1
        if self._looks > 2:  # what was there at first has no order of arrival
            settled.sort(key=lambda file: (state[file][0], file))
        self.waiting = {file: now for file, now in state.items() if self.waiting.get(file) != now}
        return settled
