"""A region of interest: what of every image is looked at, stretched over it."""

__all__ = ["OUTSIDE", "Region", "inside_of"]

import base64
import functools
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..arrays import Bools, Pixels
from ..errors import ApproxMassError
from .checked_png import check_png
from .frame import Box

# What pixels outside become: the middle of the range, so that the edge around what is left is
# weaker than around black or white, and the same for every image, so that it tells nothing.
OUTSIDE = 128
# The long side of what is kept; and the longest text: of noise at that size, in base64.
_LONGEST, _LONGEST_TEXT = 1024, 1 << 18


@dataclass(frozen=True)
class Region:
    """What of an image is looked at, whatever its size.

    It is kept as text, so that it goes into JSON: a PNG of one bit a pixel, in base64, whose long
    side is at most 1,024 pixels. `open_region` makes one of an image or array.

    Arguments:
        text: As another `Region` had it.

    Raises:
        ApproxMassError: the text is of no region.

    Example:
        >>> region = Region.of(np.eye(2, dtype=bool))
        >>> region, Region(region.text) == region
        (Region(50% of 2x2), True)
    """

    text: str

    def __post_init__(self) -> None:
        _ = self.mask  # for its checks

    @classmethod
    def of(cls, mask: Bools) -> "Region":
        """That in which a mask `(H, W)` is True."""
        scale = min(1, _LONGEST / max(mask.shape))
        height, width = (max(1, round(scale * side)) for side in mask.shape)
        kept = _stretched(mask, height, width)
        packed = io.BytesIO()
        image = Image.fromarray(np.where(kept, 255, 0).astype(np.uint8))
        image.convert("1", dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
        return cls(base64.b64encode(packed.getvalue()).decode())

    @functools.cached_property
    def mask(self) -> Bools:
        """What is looked at, `(h, w)`, as it is kept."""
        try:
            if len(self.text) > _LONGEST_TEXT:
                raise ValueError("too long")
            data = base64.b64decode(self.text, validate=True)
            check_png(data)
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                if image.mode != "1" or max(image.size) > _LONGEST:
                    raise ValueError("another kind of image")
                mask = np.asarray(image)
            if not mask.any():
                raise ValueError("nothing is looked at")
        # Whatever a text that was edited makes of Pillow.
        except Exception as error:
            raise ApproxMassError(
                "the region of interest is damaged or was edited: give its image again",
                code="bad-option",
            ) from error
        mask.setflags(write=False)
        return mask

    def __repr__(self) -> str:
        height, width = self.mask.shape
        share = f"{self.mask.mean():.0%}" if self.mask.mean() >= 0.01 else "less than 1%"
        return f"Region({share} of {width}x{height})"

    def at(self, height: int, width: int) -> Bools:
        """Which pixels `(height, width)` of an image of that size are looked at.

        Where the image is smaller, a pixel is if anything in it is: nothing is lost.

        Example:
            >>> Region.of(np.array([[0, 1, 0, 0]], bool)).at(1, 2).tolist()
            [[True, False]]
        """
        return _at(self, height, width)

    def blanked(self, images: Pixels) -> Pixels:
        """Images `(..., H, W)`, uint8, in which all that is not looked at is mid grey.

        Example:
            >>> Region.of(np.array([[0, 1]], bool)).blanked(np.full((1, 2), 7, np.uint8))
            array([[128,   7]], dtype=uint8)
        """
        inside = self.at(*images.shape[-2:])
        return np.where(inside, images, np.uint8(OUTSIDE))

    def placed(self, box: Box, frame: tuple[int, int]) -> Bools:
        """Which pixels `(H, W)` of a frame are looked at, of an image in a box of it."""
        return _placed(self, box, frame)

    def cells(self, box: Box, frame: tuple[int, int], grid: tuple[int, int]) -> Bools:
        """Which cells of a grid `(h, w)` over the frame hold a pixel that is looked at."""
        return _stretched(self.placed(box, frame), *grid)


def inside_of(
    box: Box, shape: tuple[int, int], grid: tuple[int, int], region: Region | None = None
) -> Bools:
    """Which cells `(h, w)` of a grid over a frame have their middle in an image's box.

    At least one row and one column have. With a region, those of them that hold any pixel of it.

    Arguments:
        box: Where the image lies.
        shape: Height and width of the frame.
        grid: Rows and columns of cells.
        region: Of the image; None for all of it.

    Example:
        >>> inside_of(Box(0, 32, 64, 32), (64, 64), (4, 4)).astype(int).tolist()[0]
        [0, 0, 1, 1]
    """
    lines = []
    for start, length, of, cells in (
        (box.top, box.height, shape[0], grid[0]),
        (box.left, box.width, shape[1], grid[1]),
    ):
        middles = (np.arange(cells) + 0.5) * of / cells
        line = (middles >= start) & (middles < start + length)
        if not line.any():
            line[np.abs(middles - start - length / 2).argmin()] = True
        lines.append(line)
    inside: Bools = lines[0][:, None] & lines[1][None]
    if region is None:
        return inside
    holding = region.cells(box, shape, grid)
    both = inside & holding
    # All of a region at the image's edge may lie in cells whose middle does not.
    return both if both.any() else holding


def _stretched(mask: Bools, height: int, width: int) -> Bools:
    """A mask `(h, w)` at another size; a pixel of a side that shrinks holds all that falls in it.

    Example:
        >>> _stretched(np.array([[0, 0, 1]], bool), 2, 6).astype(int)
        array([[0, 0, 0, 0, 1, 1],
               [0, 0, 0, 0, 1, 1]])
    """
    for axis, side in enumerate((height, width)):
        have = mask.shape[axis]
        if side < have:
            starts = np.arange(side) * have // side
            mask = np.logical_or.reduceat(mask, starts, axis=axis)
        elif side > have:
            middles = (2 * np.arange(side) + 1) * have // (2 * side)
            mask = mask.take(middles, axis=axis)
    return mask


# Most sets have images of one size or a few.
@functools.lru_cache(maxsize=8)
def _at(region: Region, height: int, width: int) -> Bools:
    found = _stretched(region.mask, height, width)
    found.setflags(write=False)
    return found


@functools.lru_cache(maxsize=64)
def _placed(region: Region, box: Box, frame: tuple[int, int]) -> Bools:
    found = np.zeros(frame, bool)
    rows = slice(box.top, box.top + box.height)
    found[rows, box.left : box.left + box.width] = region.at(box.height, box.width)
    found.setflags(write=False)
    return found
