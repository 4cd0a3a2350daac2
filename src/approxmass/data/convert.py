"""Items of a source to chunks of pixels."""

__all__ = ["Converter", "Decode"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import Pixels, Shape
from ..errors import ApproxMassError
from .chunk import Chunk
from .colour import in_channels
from .decode import Decoded, Encoded, How, finished, resize, to_pillow
from .frame import Box, Frame, box_in
from .guard import pillow_guard
from .remarks import Note, Remarks
from .shapes import NEEDED, mismatch
from .unreadable import UnreadableError

Decode = Callable[[Encoded, Frame | None, How, list[Note] | None], Decoded]


@dataclass(frozen=True)
class Converter:
    """What one pass over a source makes of its items.

    Attributes:
        name: What an error calls the source.
        shape: `(C, H, W)` that every image must have.
        what: Whose shape this is, for the errors.
        frame: Brought into it is every image; None leaves them as they are.
        how: What every image becomes.
        remarks: Where what is done is noted.
        kept: Images decoded before, as they are stored but for what is outside of the region, by
            their place; each is used up.
        decode: Decodes the others.
    """

    name: str
    shape: Shape
    what: str
    frame: Frame | None
    how: How
    remarks: Remarks
    kept: dict[int, Pixels]
    decode: Decode

    def encoded(self, start: int, names: list[str], items: Sequence[Encoded]) -> Chunk:
        """Encoded images, the first at the place `start`; unreadable ones become errors."""
        images = np.empty((len(items), *self.shape), np.uint8)
        errors: list[UnreadableError | None] = []
        notes: list[Note] = []
        sizes: list[tuple[int, int]] = []
        with pillow_guard():
            for place, item in enumerate(items, start):
                try:
                    pixels, size = self._decoded(place, item, notes)
                    if pixels.shape != self.shape:  # what its header could not tell
                        reason = mismatch(pixels.shape, self.what, self.shape)
                        raise UnreadableError(reason, code="wrong-shape")
                except UnreadableError as error:
                    errors.append(error)
                else:
                    images[len(sizes)] = pixels
                    errors.append(None)
                    sizes.append(size)
                if notes:
                    self.remarks.note(place, notes)
                    notes.clear()
        reasons = [None if error is None else str(error) for error in errors]
        codes = [None if error is None else error.code for error in errors]
        return Chunk(images[: len(sizes)], sizes, self._boxes(sizes), names, reasons, codes)

    def _decoded(self, place: int, item: Encoded, notes: list[Note]) -> Decoded:
        known = self.kept.pop(place, None) if self.kept else None
        if known is None:
            return self.decode(item, self.frame, self.how, notes)
        if self.frame is None and self.how.channels in (None, len(known)):
            return Decoded(known, (known.shape[1], known.shape[2]))
        return finished(to_pillow(known), self.frame, self.how, notes)

    def pixels(self, start: int, names: list[str], items: Pixels) -> Chunk:
        """Images that are pixels `(k, C, H, W)`.

        Raises:
            ApproxMassError: They have not the shape that is needed.
        """
        height, width = items.shape[2:] if self.frame is None else self.frame[:2]
        if (height, width) != self.shape[1:]:
            reason = mismatch((items.shape[1], height, width), NEEDED, self.shape)
            raise ApproxMassError(f"{self.name}: image {names[0]} {reason}", code="wrong-shape")
        if self.how.region is not None:
            items = self.how.region.blanked(items)
        try:
            images = in_channels(items, self.how, start, self.remarks)
        except UnreadableError as error:
            raise ApproxMassError(
                f"{self.name}: image {names[error.index]} {error}", code=error.code
            ) from None
        images = images if self.frame is None else resize(images, self.frame)
        sizes = [(items.shape[2], items.shape[3])] * len(names)
        none = [None] * len(names)
        return Chunk(images, sizes, self._boxes(sizes), names, [*none], [*none])

    def _boxes(self, sizes: list[tuple[int, int]]) -> list[Box] | None:
        frame = self.frame
        return None if frame is None else [box_in(*size, frame) for size in sizes]
