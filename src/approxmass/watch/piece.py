"""What is scored of files at a time, and what the log keeps of it."""

__all__ = ["Piece", "Row"]

from dataclasses import dataclass
from typing import NamedTuple

from ..arrays import Bools
from ..data import Chunk
from ..scores import Scores
from .arrivals import Found
from .identity import State


class Row(NamedTuple):
    """What a row of a log says of its file.

    Attributes:
        name: Of the row.
        size: Of the file, in bytes.
        modified: Its time, in nanoseconds.
        digest: Of what was read of it up to here; empty where nothing could be.
        bad: Whether there is an error in the place of scores.
    """

    name: str
    size: int
    modified: int
    digest: bytes
    bad: bool


@dataclass(frozen=True, eq=False)
class Piece:
    """Some images with their scores.

    Attributes:
        chunk: The images.
        scores: Of those that could be read.
        kept: Which rows of `chunk` are for the log.
        states: Of the file of each row.
        digests: Of each row, as in `Row`.
        done: Files that need no look any more, once these rows are in the log.
    """

    chunk: Chunk
    scores: Scores
    kept: Bools
    states: list[State]
    digests: list[bytes]
    done: list[Found]
