"""Lists of images: all arrays, all paths, all Pillow images, or all encoded as bytes."""

__all__ = ["open_encoded", "open_list"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ApproxMassError
from ..decode import Encoded
from ..source import ImageSource
from .array import as_array, open_array
from .folder import shown_name
from .items import Kind, encoded, kind_of

_Labels = Callable[[], NDArray[Any] | None]


def open_list(name: str, items: Sequence[Any], labels: _Labels | None = None) -> ImageSource:
    """Images of a list: arrays of one shape and dtype, or other images of one kind.

    Raises:
        ApproxMassError: they are of several kinds, or one is none.
    """
    kind: Kind | None = None
    for place, item in enumerate(items):
        kind = one_kind(name, place, item, kind)
    if kind in (None, "an array"):
        return _open_arrays(name, items, labels)
    pairs = [encoded(item) for item in items]
    return open_encoded(name, [path for path, _ in pairs], [item for _, item in pairs], labels)


def one_kind(name: str, place: int, item: Any, kind: Kind | None) -> Kind:
    """The kind of an item, which must be that of the others.

    Raises:
        ApproxMassError: it is another, or no image.
    """
    found = kind_of(item)
    if found is None:
        what = f"a dict of {', '.join(map(str, item))}" if isinstance(item, Mapping) else repr(item)
        raise ApproxMassError(
            f"{name}: item {place} is {what:.80}, and no image: leave it out, or give an array, a "
            "path, a Pillow image or the bytes of an image file",
            code="bad-image",
        )
    if kind not in (None, found):
        raise ApproxMassError(
            f"{name}: image {place} is {found}, and those before it are not ({kind}): give only "
            "one kind",
            code="bad-source",
        )
    return found


def open_encoded(
    name: str,
    paths: Sequence[str | None],
    items: Sequence[Encoded],
    labels: _Labels | None = None,
) -> ImageSource:
    """Images that are to be decoded, called by their paths where they have one, else by number."""

    def batches(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        for i in range(0, len(items), n):
            names = [
                str(place) if path is None else shown_name(path)
                for place, path in enumerate(paths[i : i + n], i)
            ]
            yield names, items[i : i + n]

    def some(places: list[int]) -> Iterator[tuple[int, Encoded]]:
        for i in places:
            yield i, items[i]

    return ImageSource(name, len(items), batches, labels=labels, some=some)


def _open_arrays(name: str, items: Sequence[Any], labels: _Labels | None) -> ImageSource:
    arrays = [
        as_array(f"{name}: image {i}", item, code="bad-image") for i, item in enumerate(items)
    ]
    for i, array in enumerate(arrays):
        if array.dtype.kind in "SU":
            raise ApproxMassError(
                f"{name}: item {i} is {array.tolist()!r:.80}, and no image: give paths, or pairs "
                "(path, label) as tuples",
                code="bad-image",
            )
        same_as_first(name, i, array, arrays[0])
    if not arrays:
        return open_array(name, np.empty(0))
    return open_array(name, np.stack(arrays), labels, several=arrays[0].ndim > 1)


def same_as_first(name: str, place: int, array: NDArray[Any], first: NDArray[Any]) -> None:
    """Refuse an array of another shape or dtype than the first."""
    if (array.shape, array.dtype) != (first.shape, first.dtype):
        raise ApproxMassError(
            f"{name}: image {place} is {array.dtype} {array.shape}, but the first is "
            f"{first.dtype} {first.shape}: give all the same shape and dtype",
            code="bad-image" if array.shape == first.shape else "wrong-shape",
        )
