"""Images that cannot be read: skipped, up to a share of a source."""

__all__ = ["SKIP_LIMIT", "FoundUnreadable", "Skips", "check_skip_limit", "readable_part"]

from collections.abc import Sequence

import numpy as np

from ..arrays import Bools
from ..errors import ApproxMassError
from .chunk import Chunk
from .part import part_of
from .source import ImageSource
from .vectors import VectorSource

# The share of the images of a source that may be unreadable.
SKIP_LIMIT = 0.05
# Height and width that images are brought to where they are only tried.
_TRIED = 8

# Name and reason, worded to follow it, of each.
Skipped = Sequence[tuple[str, str]]


def check_skip_limit(limit: object) -> float:
    """A share from 0 to 1.

    Raises:
        ApproxMassError: it is none.

    Example:
        >>> check_skip_limit(0.05)
        0.05
    """
    known = isinstance(limit, int | float | np.number) and not isinstance(limit, bool)
    if not known or not 0 <= float(limit) <= 1:  # type: ignore[arg-type]
        raise ApproxMassError(
            f"skip_limit is a share from 0 to 1, not {limit!r}: 0.05 skips up to 5% of the images, "
            "0 stops at the first that cannot be read",
            code="bad-option",
        )
    return float(limit)  # type: ignore[arg-type]


class Skips:
    """The images of a source that cannot be read, as they come, up to a share of all.

    Arguments:
        source: The images.
        limit: Share of them that may be skipped; 0 stops at the first.
        before: Those that were skipped before, and are in the source no more.
        total: Of how many images the share is; None for those of the source and before.

    Attributes:
        found: Name and reason of each, those before included.

    Example:
        >>> from approxmass.data.vectors import open_vectors
        >>> rows = open_vectors([[1.0], [float("nan")], [2.0]])
        >>> skips = Skips(rows, 0.5)
        >>> for chunk in rows.chunks():
        ...     skips.take(chunk)
        >>> skips.keep.tolist(), skips.said
        ([True, False, True], 'skipped: 1 of 3 rows cannot be read; the first, 1 has no value for
        column 0: fill it in, or leave the row out')
    """

    def __init__(
        self,
        source: ImageSource,
        limit: float,
        before: Skipped = (),
        total: int | None = None,
    ) -> None:
        self.found = list(before)
        self._source, self._limit = source, check_skip_limit(limit)
        self._total = len(source) + len(self.found) if total is None else total
        self._keep: list[bool] = []

    @property
    def keep(self) -> Bools:
        """Which of the images that came can be read, `(N,)`."""
        return np.array(self._keep, bool)

    @property
    def lines(self) -> tuple[str, ...]:
        """Those found, each with its reason, in words."""
        return tuple(f"{name} {reason}" for name, reason in self.found)

    @property
    def any(self) -> bool:
        """Whether one of those that came cannot be read."""
        return not all(self._keep)

    @property
    def said(self) -> str:
        """How many are skipped, and why the first is, in words; empty where none is."""
        if not self.found:
            return ""
        count, unit = len(self.found), self._source.unit
        of = f"{count:,} of {self._total:,} {unit}s cannot be read"
        return f"skipped: {of}; the first, {self.lines[0]}"

    def take(self, chunk: Chunk) -> None:
        """Take note of the next images.

        Raises:
            ApproxMassError: more of them than the limit says cannot be read.
        """
        for name, error, code in zip(chunk.names, chunk.errors, chunk.codes, strict=True):
            self._keep.append(error is None)
            if error is None or code is None:
                continue
            self.found.append((name, error))
            # What rounding makes of 5% of 100 is no matter.
            if len(self.found) > self._limit * self._total + 1e-9:
                first, reason = self.found[0]
                line = f"{chunk.unit} {first} {reason}"
                if self._limit:
                    line = (
                        f"more than {100 * self._limit:.3g}% of its {self._total:,} "
                        f"{chunk.unit}s cannot be read (the skip limit); the first, {line}"
                    )
                raise ApproxMassError(f"{self._source.name}: {line}", code=code)


class FoundUnreadable(Exception):  # noqa: N818 - no error: whoever reads begins anew
    """Images that cannot be read have been found in a source, which is to be read without them."""

    def __init__(self, skips: Skips) -> None:
        super().__init__(skips.said)
        self.skips = skips


def readable_part(
    source: ImageSource, limit: float, *, threads: int | None = None
) -> tuple[ImageSource, Skips]:
    """The images that can be read, in their order, each tried once; and the others.

    Raises:
        ApproxMassError: more than a share `limit` cannot be.

    Example:
        >>> from approxmass.data.vectors import open_vectors
        >>> source, skips = readable_part(open_vectors([[1.0], [float("inf")]]), 0.5)
        >>> len(source), [name for name, _ in skips.found]
        (1, ['1'])
    """
    skips = Skips(source, limit)
    tried = source if isinstance(source, VectorSource) else source.resized(_TRIED)
    for chunk in tried.chunks(threads=threads):
        skips.take(chunk)
    return (part_of(source, skips.keep, source.name) if skips.any else source), skips
