"""Whether the images of a source are grey or in colour, by their pixels."""

__all__ = ["MODES", "Votes", "in_channels"]

from dataclasses import dataclass

import numpy as np

from ..arrays import Pixels
from .decode import How, finished, to_pillow
from .modes import is_blank, is_grey
from .remarks import Note, Remarks
from .shapes import NEEDED, mismatch, shape_of
from .unreadable import UnreadableError

MODES = ("auto", "grey", "rgb")

# Images in colour are strays among grey ones up to this share.
_STRAYS = 0.25


@dataclass
class Votes:
    """What some images of a source are, of which the whole is taken to be.

    Attributes:
        grey: Images stored as grey.
        grey_as_rgb: Images stored as RGB whose pixels are grey.
        colour: Images in colour.
    """

    grey: int = 0
    grey_as_rgb: int = 0
    colour: int = 0

    def count(self, pixels: Pixels) -> None:
        """Count an image `(C, H, W)`; a blank one stored as RGB may be of either kind."""
        if len(pixels) == 1:
            self.grey += 1
        elif not is_grey(pixels.transpose(1, 2, 0)):
            self.colour += 1
        elif not is_blank(pixels):
            self.grey_as_rgb += 1

    def channels(self, stored: int) -> int:
        """1 or 3 for all images; as the first one is stored where nothing speaks for either."""
        looked_at = self.grey + self.grey_as_rgb + self.colour
        if not looked_at:
            return stored
        return 3 if self.colour > _STRAYS * looked_at else 1

    def remark(self, channels: int) -> str | None:
        """What was chosen, where the images could have been read otherwise.

        Example:
            >>> Votes(grey_as_rgb=5).remark(1)
            "mode: the 5 images looked at are stored as RGB but grey, and all are read as grey;
            mode='rgb' keeps three channels"
        """
        looked_at = self.grey + self.grey_as_rgb + self.colour
        if self.colour in (0, looked_at):
            if not self.grey_as_rgb:
                return None
            some = "the" if self.grey_as_rgb == looked_at else f"{self.grey_as_rgb} of the"
            those = f"{some} {looked_at} images looked at are stored as RGB but grey, and all are"
            if looked_at == 1:
                those = "the image is stored as RGB but grey, and is"
            return f"mode: {those} read as grey; mode='rgb' keeps three channels"
        chosen, other = ("grey", "rgb") if channels == 1 else ("RGB", "grey")
        return (
            f"mode: {self.colour} of the {looked_at} images looked at "
            f"{'is' if self.colour == 1 else 'are'} in colour, the others "
            f"grey, and all are read as {chosen}; mode='{other}' reads them otherwise"
        )


def in_channels(block: Pixels, how: How, start: int, remarks: Remarks) -> Pixels:
    """Images `(k, C, H, W)`, the first at the place `start`, with the channels that `how` says.

    Raises:
        UnreadableError: One is in colour and must not become grey.

    Example:
        >>> in_channels(np.zeros((2, 3, 4, 4), np.uint8), How(channels=1), 0, Remarks()).shape
        (2, 1, 4, 4)
    """
    if how.channels in (None, block.shape[1]):
        return block
    result = np.empty((len(block), how.channels, *block.shape[2:]), np.uint8)
    for i, image in enumerate(block):
        notes: list[Note] = []
        pixels = finished(to_pillow(image), None, how, notes).pixels
        if len(pixels) != how.channels:
            raise UnreadableError(
                mismatch(shape_of(image), NEEDED, (1, *image.shape[1:])),
                index=i,
                code="wrong-shape",
            )
        remarks.note(start + i, notes)
        result[i] = pixels
    return result
