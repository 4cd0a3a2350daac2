"""Some of the images of a source."""

__all__ = ["part_of"]

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Bools, Pixels
from ..errors import ApproxMassError
from .decode import Encoded
from .look import Batches
from .source import ImageSource
from .vectors import VectorSource


def part_of(source: ImageSource, keep: Bools, name: str) -> ImageSource:
    """Those images that are marked, in their order, with their labels.

    Arguments:
        source: Images.
        keep: `(N,)`, whether an image is among them.
        name: What errors call them.

    Raises:
        ApproxMassError: another number of marks, or none of them set.

    Example:
        >>> from approxmass.data import open_images
        >>> images = open_images(np.arange(20, dtype=np.uint8).reshape(5, 2, 2))
        >>> part_of(images, np.array([1, 0, 0, 0, 1], bool), "ends").read()[:, 0, 0, 0]
        array([ 0, 16], dtype=uint8)
    """
    if keep.shape != (len(source),):
        raise ApproxMassError(
            f"{name}: there are {keep.size} marks for {len(source)} {source.unit}s: give one each",
            code="bad-option",
        )
    if not keep.any():
        raise ApproxMassError(f"{name}: no {source.unit} is left: keep some", code="bad-source")
    if isinstance(source, VectorSource):
        return source.part(keep, name)
    batches, some, labels, remarks = source.parts()
    places = np.flatnonzero(keep)

    def kept_labels() -> NDArray[Any] | None:
        found = None if labels is None else labels()
        return None if found is None else found[keep]

    def single(wanted: list[int]) -> Iterator[Any]:
        assert some is not None
        of = {int(places[place]): place for place in wanted}
        return ((of[place], item) for place, item in some(list(of)))

    made = ImageSource(
        name,
        len(places),
        _kept(batches, keep),
        labels=kept_labels,
        some=None if some is None else single,
        remarks=remarks,
    )
    made.frame = source.frame
    # Of one mode with the whole, whatever these images alone would be taken for.
    mode = source.mode
    if mode == "auto":
        mode = "grey" if source.native_shape[0] == 1 else "rgb"
    return made.seen(mode=mode, background=source.background, region=source.region)


def _kept(batches: Batches, keep: Bools) -> Batches:
    def some(n: int) -> Iterator[tuple[list[str], Sequence[Encoded] | Pixels]]:
        start = 0
        for names, items in batches(n):
            marks = keep[start : start + len(names)]
            start += len(names)
            if not marks.any():
                continue
            those = [name for name, mark in zip(names, marks, strict=True) if mark]
            if isinstance(items, np.ndarray):
                yield those, items[marks]
            else:
                yield those, [item for item, mark in zip(items, marks, strict=True) if mark]

    return some
