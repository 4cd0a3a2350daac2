"""Files of rows that arrive in a watched folder: which they are, and what their rows are called."""

__all__ = ["file_of", "rows_of", "table_files"]

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data import Chunk
from ..data.readers.folder import files_below, shown_name
from ..data.vectors import SUFFIXES, VectorSource
from ..detector import Detector
from ..errors import ApproxMassError
from ..scores import Scores

# A row is called by its file and its number there.
_ROW = re.compile(r":\d+\Z")


def table_files(folder: Path) -> list[str]:
    """Files of rows in a folder and below, as paths from there, in the order of their names."""
    return files_below(str(folder), folder, SUFFIXES)


def file_of(name: str) -> str:
    """The file of a row of a log, which has the name of one of its rows, or its own.

    Example:
        >>> file_of("day/a.csv:17"), file_of("a.csv")
        ('day/a.csv', 'a.csv')
    """
    return _ROW.sub("", name)


def rows_of(
    detector: Detector, folder: Path, file: str, done: int
) -> Iterator[tuple[Chunk, Scores]]:
    """Score the rows of a file, but for those done already; one that cannot be read is one row.

    Arguments:
        detector: Of rows of numbers.
        folder: Of the file.
        file: Its path from there.
        done: Rows that have been scored before.
    """
    shown = shown_name(file)
    try:
        source = detector.open(folder / file)
        assert isinstance(source, VectorSource)
        if done >= len(source):
            return
        left = source.part(np.arange(len(source)) >= done, shown)
        for chunk, scores in detector.score_chunks(left):
            names = [f"{shown}:{done + int(name)}" for name in chunk.names]
            yield replace(chunk, names=names), scores
    except ApproxMassError as error:
        reason = str(error).removeprefix(f"{folder / file}: ")
        none = np.empty((0, *detector.shape))
        chunk = Chunk(none, [], None, [shown], [reason], [error.code])  # type: ignore[arg-type]
        yield chunk, detector.score_pixels(none)  # type: ignore[arg-type]
