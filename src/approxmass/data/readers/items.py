"""The items of a list or of a data set: images of one kind, each perhaps with a label."""

__all__ = ["Kind", "encoded", "is_pair", "kind_of", "told"]

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ...errors import ApproxMassError
from ..decode import Encoded
from ..formats import image_suffixes
from .common import label_name

Kind = Literal["bytes", "a path", "a Pillow image", "a row of bytes or a path", "an array"]


def kind_of(item: Any) -> Kind | None:
    """What an image is given as; None of what is no image.

    Example:
        >>> kind_of("a.png"), kind_of(b""), kind_of(None)
        ('a path', 'bytes', None)
    """
    if isinstance(item, bytes | bytearray | memoryview):
        return "bytes"
    if isinstance(item, str | os.PathLike):
        return None if "\0" in str(item) else "a path"  # which no path can hold
    if isinstance(item, Image.Image):
        return "a Pillow image"
    if isinstance(item, Mapping):
        return "a row of bytes or a path" if {"bytes", "path"} & set(item) else None
    return "an array" if hasattr(item, "__array__") or isinstance(item, list | tuple) else None


def is_pair(item: Any, *, texts: bool = False) -> bool:
    """Whether an item is an image with its label, or a dict of such, not an image alone.

    Arguments:
        item: Of a list or a data set.
        texts: Two texts in a tuple are a path and its label, if the second is not called like
            an image; otherwise they are two paths.

    Example:
        >>> is_pair(("a.png", "cat"), texts=True), is_pair(["a.png", 3]), is_pair([[0, 1], [2, 3]])
        (True, True, False)
    """
    if isinstance(item, Mapping):
        return kind_of(item) is None
    if not isinstance(item, tuple | list) or len(item) < 2 or isinstance(item[0], list | tuple):
        return False
    if kind_of(item[0]) is None or _label(item[1]) is None:
        return False
    if kind_of(item[1]) != kind_of(item[0]):
        return True
    both = isinstance(item, tuple) and all(isinstance(each, str) for each in item[:2])
    return texts and both and Path(item[1]).suffix.lower() not in image_suffixes()


def encoded(item: Any) -> tuple[str | None, Encoded]:
    """An item that is no array as the decoder takes it, and the path by which it is called."""
    if isinstance(item, Mapping):
        data, path = item.get("bytes"), item.get("path")
        return path, bytes(data) if data else (Path(path) if path else None)
    if isinstance(item, str | os.PathLike):
        return os.fspath(item), Path(item)
    return None, item if isinstance(item, Image.Image) else bytes(item)


def told(name: str, place: int, item: Any, *, batched: bool) -> Iterator[tuple[Any, Any]]:
    """The images of an item of a data set, each with its label, or None.

    Arguments:
        name: What an error calls the data set.
        place: Of the item.
        item: An image; a batch of some, as an array of four axes or a list; or images and labels,
            as a tuple or a list of both; or a dict, where the images are called `image`.
        batched: Every item is known to be a batch.

    Raises:
        ApproxMassError: there is no image in it, or no one can say which it is.
    """
    if isinstance(item, list) and item and is_pair(item[0]):
        for each in item:
            yield from told(name, place, each, batched=False)
        return
    images, label = _parts(name, place, item)
    if batched or _encoded(images, list | tuple) or getattr(images, "ndim", 0) == 4:
        yield from zip(images, _labels(label, len(images)), strict=True)
    else:
        yield images, _label(label)


def _parts(name: str, place: int, item: Any) -> tuple[Any, Any]:
    """The image or images of an item, and what goes with them."""
    if isinstance(item, Mapping) and kind_of(item) is None:
        called = label_name(item)
        if "image" not in item:
            raise _unclear(
                f"{name}: item {place} is a dict of {', '.join(map(str, item)) or 'nothing'}: call "
                'the image "image"'
            )
        return item["image"], None if called is None else item[called]
    if not isinstance(item, tuple | list) or _encoded(item, list):
        return item, None
    first = item[0] if item else None
    if _encoded(first, list | tuple) or kind_of(first) not in ("an array", None):
        return first, item[1] if len(item) > 1 else None
    if isinstance(first, list | tuple | int | float | None):  # numbers alone
        return item, None
    images = [getattr(each, "ndim", 0) in (2, 3) for each in item]
    if isinstance(item, list) and len(images) > 1 and all(images):
        raise _unclear(f"{name}: item {place} is a list of several arrays: give them as one")
    return first, item[1] if len(item) > 1 else None


def _unclear(message: str) -> ApproxMassError:
    return ApproxMassError(
        f"{message}, or give the images alone, (item[KEY] for item in data)", code="bad-source"
    )


def _encoded(item: Any, kind: Any) -> bool:
    """Whether an item is a list of images that are no arrays."""
    return (
        isinstance(item, kind)
        and len(item) > 0
        and all(kind_of(each) not in ("an array", None) for each in item)
    )


def _labels(labels: Any, count: int) -> Sequence[Any]:
    if labels is None or not hasattr(labels, "__len__") or len(labels) != count:
        return [None] * count
    return [_label(each) for each in labels]


def _label(label: Any) -> Any:
    """A class, as plain Python has it; None of anything else."""
    label = label.item() if getattr(label, "ndim", None) == 0 else label
    return label if isinstance(label, int | str) else None
