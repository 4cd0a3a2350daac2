"""What was done to the images of a source unasked, in plain words."""

__all__ = ["Note", "Remarks"]

import threading
from typing import Literal

# What is noted of one image, and a number that goes with it: of `deep` its largest value.
Note = tuple[Literal["frames", "alpha", "deep", "guess", "to-grey", "to-rgb"], int]

# 16-bit images whose values stay below this use 15 bits or fewer.
_HALF = 1 << 15


class Remarks:
    """Gathers what is said of a source: each thing once, however often it is streamed.

    Arguments:
        *lines: What is said from the start.

    Example:
        >>> remarks = Remarks()
        >>> remarks.note(7, [("frames", 0)])
        >>> remarks.note(7, [("frames", 0)])
        >>> remarks.lines()
        ['frames: 1 image has several frames or pages: the first is used; pages=True reads all']
    """

    def __init__(self, *lines: str) -> None:
        self._said = list(lines)
        self._places: dict[str, bytearray] = {}  # a byte for each image, 1 where it was noted
        self._largest = 0
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """Say a line, if it has not been said."""
        with self._lock:
            if line not in self._said:
                self._said.append(line)

    def note(self, place: int, notes: list[Note]) -> None:
        """Note what was done to the image at that place of the source."""
        with self._lock:
            for kind, value in notes:
                self._mark(kind, place, 1)
                if kind == "deep":
                    self._largest = max(self._largest, value)

    def note_block(self, start: int, count: int, note: Note) -> None:
        """Note the same of consecutive images."""
        with self._lock:
            self._mark(note[0], start, count)
            self._largest = max(self._largest, note[1])

    def _mark(self, kind: str, start: int, count: int) -> None:
        marks = self._places.setdefault(kind, bytearray())
        if len(marks) < start + count:
            marks.extend(bytes(start + count - len(marks)))
        marks[start : start + count] = b"\1" * count

    def anew(self) -> "Remarks":
        """What has been said, without what was noted of single images."""
        return Remarks(*self._said)

    def lines(self) -> list[str]:
        """All there is to say so far, a line each."""
        with self._lock:
            counts = {kind: marks.count(1) for kind, marks in self._places.items()}
            said = list(self._said)
        if self._largest >= _HALF:
            counts.pop("deep", None)
        return said + [self._line(kind, counts[kind]) for kind in sorted(counts)]

    def _line(self, kind: str, count: int) -> str:
        images = f"{count:,} image{'' if count == 1 else 's'}"
        has, is_ = ("has", "is") if count == 1 else ("have", "are")
        if kind == "frames":
            return (
                f"frames: {images} {has} several frames or pages: the first is used; pages=True "
                "reads all"
            )
        if kind == "alpha":
            return (
                f"transparency: {images} {is_} transparent in places and drawn on one ground "
                "(white, unless background= says another)"
            )
        if kind == "deep":
            largest, levels = self._largest, self._largest // 257 + 1
            return (
                f"pixels: the largest value of {images} of 16 bits is {largest:,}, which "
                f"{max(largest.bit_length(), 1)} bits would hold; 0 to 65535 became 0 to 255, and "
                f"{levels} level{'' if levels == 1 else 's'} of grey may be left: if fewer bits "
                "are in use, scale the values to 16, or give floats in [0, 1]"
            )
        if kind == "guess":
            return (
                f"pixels: {images} {has} integers that do not say their range: taken as 8-bit "
                "values, 0 to 255"
            )
        if kind == "to-grey":
            return f"mode: {images} in colour became grey, by luminance; mode='rgb' keeps colour"
        return f"mode: {images} in grey became RGB, with three equal channels"
