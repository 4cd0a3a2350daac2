"""Files of a folder that are new or changed, once nobody writes to them any more."""

__all__ = ["Arrivals", "Found"]

import os
import time
from pathlib import Path
from typing import Protocol

from ..errors import ApproxMassError
from .identity import State

# Looks at which a file that seems to lack its end must be the same.
_PATIENT = 10

Found = tuple[str, State]


class Followed(Protocol):
    """What is asked about files."""

    def found(self) -> list[str]:
        """The files that count, as paths from the folder, in the order of their names."""

    def stands(self, file: str, state: State) -> bool:
        """Whether the log has all of a file, by its size and time."""

    def lacks_its_end(self, file: str) -> bool:
        """Whether a file may be a part of one."""


class Arrivals:
    """Files of a folder that are new or changed, once nobody writes to them any more.

    A look asks the system about each file, and opens none.

    Arguments:
        folder: The folder.
        followed: Says which files count, and what is known of them.

    Attributes:
        waiting: Files that may still be written to, as they were at the last look, and at how many
            looks before.
    """

    def __init__(self, folder: Path, followed: Followed) -> None:
        self.waiting: dict[str, tuple[State, int]] = {}
        self._folder, self._followed = folder, followed
        self._done: dict[str, State] = {}
        self._looks = 0

    def done(self, file: str, state: State) -> None:
        """Do not give this file again, until it changes."""
        self._done[file] = state

    def look(self, still: float | None = None) -> list[Found]:
        """Files that are as they were at the last look, in the order in which to score them.

        Arguments:
            still: Those whose bytes have not changed for so many seconds need no look before.
        """
        news = self._news()
        now, settled, waiting = time.time(), [], {}
        for file, state in news.items():
            before, looks = self.waiting.get(file, (None, 0))
            looks = looks + 1 if before == state else 0
            needed = _PATIENT if self._followed.lacks_its_end(file) else 1
            age = now - max(state.modified, state.changed) / 1e9
            if looks >= needed or (still is not None and age > needed * still):
                settled.append((file, state))
            else:
                waiting[file] = (state, looks)
        self.waiting = waiting
        self._looks += 1
        if self._looks > 2:  # what was there at first has no order of arrival
            settled.sort(key=lambda each: (each[1].modified, each[0]))
        return settled

    def _news(self) -> dict[str, State]:
        """Files that are not known as they are."""
        try:
            found = self._followed.found()
        except ApproxMassError as error:
            # A folder below was removed while it was being read: the next look will not see it.
            if isinstance(error.__cause__, FileNotFoundError) and self._folder.is_dir():
                return {}
            raise
        prefix = os.path.join(self._folder, "")
        news = {}
        for file in found:
            state = State.of(prefix + file)
            if state is None:  # removed again, or a link to nothing
                continue
            known = self._done.get(file)
            if known == state:
                continue
            if known is None and self._followed.stands(file, state):
                self._done[file] = state
            else:
                news[file] = state
        if len(self._done) > 2 * len(found) + 1000:  # of files that are gone
            self._done = {file: self._done[file] for file in found if file in self._done}
        return news
