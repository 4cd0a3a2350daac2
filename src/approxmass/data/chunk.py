"""A few consecutive images of a source."""

__all__ = ["Chunk"]

from dataclasses import dataclass

from ..arrays import Pixels
from ..errors import ApproxMassError, Code
from .frame import Box


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
    """

    images: Pixels
    sizes: list[tuple[int, int]]
    boxes: list[Box] | None
    names: list[str]
    errors: list[str | None]
    codes: list[Code | None]

    @property
    def readable(self) -> list[str]:
        """Names of `images`."""
        return [n for n, error in zip(self.names, self.errors, strict=True) if error is None]

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """Names of the others, each with the reason, worded to follow it."""
        pairs = zip(self.names, self.errors, strict=True)
        return [(name, error) for name, error in pairs if error is not None]

    def require_readable(self, source: str) -> None:
        """Raise `ApproxMassError` for the first unreadable image, if there is any."""
        for name, error, code in zip(self.names, self.errors, self.codes, strict=True):
            if code is not None:
                raise ApproxMassError(f"{source}: image {name} {error}", code=code)
