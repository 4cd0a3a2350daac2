"""A few consecutive images of a source."""

__all__ = ["Chunk", "chunk_size"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..arrays import Pixels, Shape
from ..errors import ApproxMassError, Code
from .frame import Box

# Images decoded or scored at a time: as many as make so many bytes, within bounds.
_MOST, _MOST_IF_QUICK, _BYTES = 2048, 8192, 1 << 24
# A multiple of the images that go through a network and its parts together.
_TOGETHER = 16


def chunk_size(shape: Shape, *, quick: bool = False) -> int:
    """How many images `(C, H, W)` are read together.

    Arguments:
        shape: Of the images.
        quick: They are scored within a moment, so that a bar moves on all the same.

    Example:
        >>> chunk_size((1, 28, 28)), chunk_size((3, 256, 256))
        (2048, 80)
    """
    count = min(_MOST_IF_QUICK if quick else _MOST, max(1, _BYTES // math.prod(shape)))
    return count - count % _TOGETHER if count > _TOGETHER else count


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive images of a source.

    Attributes:
        images: uint8 `(k, C, H, W)`, C-contiguous: those that could be read.
        sizes: Height and width that each of these had, upright, before it was brought into a frame.
        boxes: Where in the frame each of these lies; None where there is no frame.
        names: Of all the images, readable or not.
        errors: Of all the images: why one cannot be read, or None (`k` times).
        codes: Of all the images: the kind of mistake, as in `ApproxMassError.code`, or None.
        groups: The group of each of `images`, where the detector is calibrated per group.
        unit: What one of them is, in words: an image, or a row.
    """

    images: Pixels
    sizes: list[tuple[int, int]]
    boxes: list[Box] | None
    names: list[str]
    errors: list[str | None]
    codes: list[Code | None]
    groups: list[str] | None = None
    unit: str = "image"

    @property
    def readable(self) -> list[str]:
        """Names of `images`."""
        return [n for n, error in zip(self.names, self.errors, strict=True) if error is None]

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """Names of the others, each with the reason, worded to follow it."""
        pairs = zip(self.names, self.errors, strict=True)
        return [(name, error) for name, error in pairs if error is not None]

    def grouped(
        self, groups: Sequence[str | None], reason: Callable[[str | None], str | None]
    ) -> "Chunk":
        """The same with the group of each image; those of a group with a reason are unreadable.

        Arguments:
            groups: Of all the images, readable or not.
            reason: Why images of such a group cannot be used, worded to follow their name; or None.
        """
        errors, codes, kept, place = [*self.errors], [*self.codes], [], 0
        for i, group in enumerate(groups):
            if errors[i] is not None:
                continue
            why = reason(group)
            if why is None:
                kept.append((place, group))
            else:
                errors[i], codes[i] = why, "bad-group"
            place += 1
        rows = [row for row, _ in kept]
        return Chunk(
            images=self.images if len(rows) == len(self.images) else self.images[rows],
            sizes=[self.sizes[row] for row in rows],
            boxes=None if self.boxes is None else [self.boxes[row] for row in rows],
            names=self.names,
            errors=errors,
            codes=codes,
            groups=[str(group) for _, group in kept],
            unit=self.unit,
        )

    def require_readable(self, source: str) -> None:
        """Raise `ApproxMassError` for the first unreadable image, if there is any."""
        for name, error, code in zip(self.names, self.errors, self.codes, strict=True):
            if code is not None:
                raise ApproxMassError(f"{source}: {self.unit} {name} {error}", code=code)
