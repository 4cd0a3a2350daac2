"""The images that say most about a detector: the most and least typical, and its mistakes."""

__all__ = ["Card", "Gallery", "Picture", "galleries"]

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..arrays import Bools, Pixels
from ..data import Chunk
from ..data.frame import Box
from ..data.masks import Kept
from ..data.png import png_bytes
from ..detector import Detector
from ..evaluation.assess import Assessment, ScoredSet
from ..explain.picture import outlined, overlay, plain

_CARDS = 10
# Columns named of a row of numbers.
_COLUMNS = 3
# Images of no longer sides are shown pixel by pixel, and about so large on the screen.
_SMALL, _SIDE = 64, 112
# Others as large as that square, but no longer.
_SQUARE, _LONGEST = 150, 300
# Pixels of a picture for one of the screen, of small images and of others.
_CRISP, _FINE = 2, 1.5

Size = tuple[int, int]


@dataclass(frozen=True)
class Picture:
    """A picture as an address that holds it, and its size on the screen in pixels."""

    address: str
    width: int
    height: int


# Of an image its picture and that of its map; of a row of numbers words.
_Shown = tuple[Picture | None, Picture | None, str]


@dataclass(frozen=True)
class Card:
    """An image.

    Attributes:
        name: Of the image.
        picture: Of it; None of a row of numbers.
        map: The same in grey under its map; None where the detector has none.
        columns: Of a row of numbers those that say most, with their shares; else empty.
        p_value: Small = out-of-distribution.
        is_outlier: Called one.
    """

    name: str
    picture: Picture | None
    map: Picture | None
    columns: str
    p_value: float
    is_outlier: bool

    @property
    def stacked(self) -> bool:
        """A long image lies above its map, not beside it."""
        if self.map is None or self.picture is None:
            return False
        return self.picture.width > 1.3 * self.picture.height

    @property
    def width(self) -> int:
        """On the screen."""
        if self.picture is None:
            return _LONGEST // 2
        return self.picture.width * (2 if self.map is not None and not self.stacked else 1)


@dataclass(frozen=True)
class Gallery:
    """Some images under a title; `note` says of how many, and which they are."""

    title: str
    note: str
    cards: list[Card]


def galleries(assessment: Assessment) -> list[Gallery]:
    """The most and least typical images of every set, the false alarms, and the misses.

    Of false alarms and misses a seeded sample, in order of their p-values.
    """
    rng = np.random.default_rng(assessment.seed)
    statistic = assessment.detector.statistic
    found = []
    for place, (name, scored) in enumerate(assessment.sets.items()):
        order = np.argsort(scored.statistics[statistic], kind="stable")
        wrong = np.flatnonzero(scored.is_outlier if place == 0 else ~scored.is_outlier)
        sample = rng.permutation(wrong)[:_CARDS]
        sample = sample[np.argsort(scored.p_value[sample], kind="stable")]
        most, least = order[:_CARDS], order[::-1][:_CARDS]
        cards = _cards(assessment.detector, scored, np.concatenate([most, least, sample]))
        total = f"of {len(order):,}"
        mistake = "False alarms" if place == 0 else "Misses"
        cause = "called outliers at 5%" if place == 0 else "not called outliers at 5%"
        shown = f", {len(sample)} of them at random" if len(sample) < len(wrong) else ""
        found += [
            Gallery(f"Most typical of {name}", total, cards[: len(most)]),
            Gallery(f"Least typical of {name}", total, cards[len(most) : len(most) + len(least)]),
            Gallery(
                f"{mistake} in {name}",
                f"{len(wrong):,} {total} are {cause}{shown}",
                cards[len(most) + len(least) :],
            ),
        ]
    return found


def _cards(detector: Detector, scored: ScoredSet, places: NDArray[np.int64]) -> list[Card]:
    pictures = dict(_pictures(detector, scored, set(places.tolist())))
    return [
        Card(scored.names[i], *pictures[i], float(scored.p_value[i]), bool(scored.is_outlier[i]))
        for i in places.tolist()
    ]


def _pictures(
    detector: Detector, scored: ScoredSet, places: set[int]
) -> Iterator[tuple[int, _Shown]]:
    """Images by their places, read again from their source: all of them would not fit in memory."""
    start, last = 0, max(places, default=-1)
    marks = None if scored.masks is None else scored.masks.stream()
    for chunk in detector.chunks(scored.source):
        rows = [i for i in range(len(chunk.images)) if start + i in places]
        kept = None if marks is None else [next(marks) for _ in chunk.names]
        if rows and detector.fitted.vectors:
            said = _said(detector, chunk, rows)
            yield from zip((start + i for i in rows), said, strict=True)
        elif rows:
            drawn = _drawn(detector, chunk, rows, _masks(scored, chunk, rows, kept))
            yield from zip((start + i for i in rows), drawn, strict=True)
        start += len(chunk.images)
        if start > last:  # the rest need not be read
            break


def _masks(
    scored: ScoredSet, chunk: Chunk, rows: list[int], kept: list[Kept] | None
) -> list[Bools | None]:
    if kept is None or scored.masks is None:
        return [None] * len(rows)
    return [scored.masks.read(kept[i], chunk.names[i], chunk.sizes[i]) for i in rows]


def _said(detector: Detector, chunk: Chunk, rows: list[int]) -> Iterator[_Shown]:
    """Of some rows of numbers the columns that say most, where the model tells."""
    if not detector.model.explains:
        yield from ((None, None, "") for _ in rows)
        return
    found = detector.explain_pixels(chunk.images[rows])
    for shares in found.components:
        most = shares.argsort()[::-1][:_COLUMNS].tolist()
        yield None, None, ", ".join(f"{found.names[k]} {shares[k]:.0%}" for k in most)


def _drawn(
    detector: Detector, chunk: Chunk, rows: list[int], masks: list[Bools | None]
) -> Iterator[_Shown]:
    """Some images of a chunk, each with its map."""
    images = chunk.images[rows]
    boxes = [None if chunk.boxes is None else chunk.boxes[i] for i in rows]
    cuts = [_cut(image, box) for image, box in zip(images, boxes, strict=True)]
    screen = [_screen(cut.shape[1:], chunk.sizes[i]) for cut, i in zip(cuts, rows, strict=True)]
    found = None
    if detector.model.explains:
        within = None if chunk.boxes is None else [chunk.boxes[i] for i in rows]
        found = detector.explain_pixels(images, within, [fine for _, fine in screen])
    for k, (cut, (size, fine), mask) in enumerate(zip(cuts, screen, masks, strict=True)):
        shown = None if found is None else _picture(overlay(cut, None, found, k), size)
        if mask is not None and mask.any():
            yield _picture(outlined(plain(cut, None, fine), mask), size), shown, ""
        elif max(cut.shape[1:]) <= _SMALL:  # as it is, pixel by pixel
            yield Picture(_address("png", png_bytes(cut)), size[1], size[0]), shown, ""
        else:
            yield _picture(plain(cut, None, fine), size), shown, ""


def _cut(image: Pixels, box: Box | None) -> Pixels:
    """An image without what is around it in its frame."""
    if box is None:
        return image
    inside = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
    return np.ascontiguousarray(inside)


def _screen(cut: tuple[int, ...], given: Size) -> tuple[Size, Size]:
    """Height and width on the screen, and of the picture, of an image that had others once."""
    scale = min(_SQUARE / math.sqrt(given[0] * given[1]), _LONGEST / max(given))
    whole, fine = given, _FINE
    if max(cut) <= _SMALL:
        whole, scale, fine = (cut[0], cut[1]), max(1, round(_SIDE / max(cut))), _CRISP
    sides = [max(1, round(side * scale)) for side in whole]
    return (sides[0], sides[1]), (round(sides[0] * fine), round(sides[1] * fine))


def _picture(drawn: Image.Image, size: Size) -> Picture:
    buffer = io.BytesIO()
    # No subsampling: a contour is one pixel wide.
    drawn.save(buffer, "JPEG", quality=82, subsampling=0)
    return Picture(_address("jpeg", buffer.getvalue()), size[1], size[0])


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
