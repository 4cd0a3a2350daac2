"""What can be read only once, or otherwise at each pass: read whole, and kept on disk."""

__all__ = ["open_once"]

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import ApproxMassError
from ..decode import Encoded
from ..modes import to_uint8
from ..source import ImageSource
from ..unreadable import UnreadableError
from .array import as_array, open_array
from .items import Kind, encoded, told
from .listed import one_kind, open_encoded, same_as_first


def open_once(name: str, items: Iterable[Any], *, batched: bool = False) -> ImageSource:
    """Images of an iterator, a generator, a data set or a loader of torch, read now and in order.

    What can be had only once, or is shuffled or altered at each pass, is then the same at each
    pass over the source. It is kept in a file without a name in the folder for temporary files,
    arrays of floats as 8 bits; paths are kept as such, and loaded Pillow images in memory.

    Arguments:
        name: What an error calls it.
        items: See `told`.
        batched: Every item is a batch.

    Raises:
        ApproxMassError: there is nothing, no image, or images of several kinds or shapes.
    """
    with tempfile.TemporaryFile() as file:  # what maps it keeps it
        kept, labels = _Kept(name, file), list[Any]()
        for place, item in enumerate(items):
            for image, label in told(name, place, item, batched=batched):
                kept.add(image)
                labels.append(label)
        known = labels and all(label is not None for label in labels)
        return kept.source(np.asarray(labels) if known else None)


class _Kept:
    """Images as they come, to a file and back."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name = name
        self._kind: Kind | None = None
        self._count = 0
        self._file = file
        self._ends = [0]
        self._first: NDArray[Any] | None = None
        self._rows: NDArray[Any] | None = None  # the first, as all are written
        self._paths: list[str | None] = []
        self._items: list[Encoded] = []  # None where it is in the file

    def add(self, image: Any) -> None:
        self._kind = one_kind(self._name, self._count, image, self._kind)
        if self._kind == "an array":
            self._add_array(as_array(f"{self._name}: image {self._count}", image, code="bad-image"))
        else:
            path, item = encoded(image)
            item = _file_of(item) if isinstance(item, Image.Image) else item
            self._paths.append(path)
            self._items.append(None if isinstance(item, bytes) else item)
            self._write(item if isinstance(item, bytes) else b"")
        self._count += 1

    def _add_array(self, array: NDArray[Any]) -> None:
        if array.ndim == 1 and array.size > 1:
            raise ApproxMassError(
                f"{self._name}: image {self._count} is a row of {array.size} numbers: for "
                "embeddings and tables give encoder='vectors'",
                code="wrong-shape",
            )
        self._first = array if self._first is None else self._first
        same_as_first(self._name, self._count, array, self._first)
        if array.dtype.kind == "f" and array.size:
            try:
                array = to_uint8(array[None])[0]
            except UnreadableError as error:
                raise ApproxMassError(
                    f"{self._name}: image {self._count} {error}", code=error.code
                ) from None
        self._rows = array if self._rows is None else self._rows
        self._write(array.tobytes())

    def _write(self, data: bytes) -> None:
        with self._writing():
            self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ApproxMassError(
                f"{self._name}: what is read once is kept in {tempfile.gettempdir()}, which cannot "
                f"be written ({error.strerror}): make room, or set TMPDIR to another folder",
                code="cannot-write",
            ) from error

    def source(self, labels: NDArray[Any] | None) -> ImageSource:
        if not self._count:
            raise ApproxMassError(
                f"{self._name}: holds no images: a generator or an iterator can be read only once, "
                "so make it anew",
                code="bad-source",
            )
        with self._writing():
            self._file.flush()
        size = self._ends[-1]
        data = np.memmap(self._file, np.uint8, "r") if size else np.empty(0, np.uint8)
        if self._rows is None:
            items = _Items(self._items, data, self._ends)
            return open_encoded(self._name, self._paths, items, lambda: labels)
        rows = data.view(self._rows.dtype).reshape(self._count, *self._rows.shape)
        return open_array(self._name, rows, lambda: labels, several=True)


class _Items(Sequence[Encoded]):
    """Encoded images, of which those that are bytes lie in a file."""

    def __init__(self, items: list[Encoded], data: NDArray[np.uint8], ends: list[int]) -> None:
        self._items, self._data, self._ends = items, data, ends

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, at: int) -> Encoded: ...
    @overload
    def __getitem__(self, at: slice) -> list[Encoded]: ...
    def __getitem__(self, at: int | slice) -> Encoded | list[Encoded]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        kept = self._items[at]
        return (
            kept if kept is not None else self._data[self._ends[at] : self._ends[at + 1]].tobytes()
        )


def _file_of(image: Image.Image) -> Encoded:
    """The file behind an image that a person opened and that is not yet read: it may be closed."""
    file: Any = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None) or image.tell():
        with suppress(Exception):  # the stream will name it
            image.load()
        return image
    place = file.tell()
    file.seek(0)
    data: bytes = file.read()
    file.seek(place)
    return data
