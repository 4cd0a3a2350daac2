"""The classes of images, from wherever they are kept beside them."""

__all__ = ["check_labels", "open_labels"]

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Labels
from ..errors import ApproxMassError
from .options import one_an_image
from .readers import reader_of
from .readers.array import as_array
from .readers.hub import hub_labels
from .source import ImageSource


def open_labels(source: object) -> NDArray[Any] | None:
    """Labels as they are written, in the order of `open_images`; None where there are none.

    A column `(N, 1)` becomes `(N,)`.

    Arguments:
        source: One of

            - an array, a list or a tensor of labels;
            - a `.npy`, an IDX file of labels, or a `.npz` with the array `labels` or `y`, or
              `train_labels` or `y_train` (`FILE.npz:SPLIT` where it has several splits);
            - a source of images that carries them: a `.parquet` file or `hf:NAME[:[CONFIG:]SPLIT]`
              with a column `label`, or a folder with a subfolder for each class (numbered by name);
            - an `ImageSource`.

    Raises:
        ApproxMassError: There is no such file, or it cannot be read.

    Example:
        >>> open_labels([0, 1, 1])
        array([0, 1, 1])
    """
    found = _open(source)
    if found is not None and not isinstance(found, np.ndarray):  # a member that is no array
        raise _bad(f"{source}: its labels are no array: save them again with numpy.savez")
    return one_an_image(found)


def _open(source: object) -> NDArray[Any] | None:
    if isinstance(source, ImageSource):
        return source.labels()
    if not isinstance(source, str | os.PathLike):
        return as_array("labels", source, code="bad-labels")
    if isinstance(source, str) and source.startswith("sample:"):
        return None
    if isinstance(source, str) and source.startswith("hf:"):
        return hub_labels(source)
    name, path = os.fspath(source), Path(source)
    reader = reader_of(name, path)
    if reader is None:
        raise _bad(f"{name}: there is no such file of labels")
    return reader.labels(name, path)


def check_labels(labels: Any, count: int, needed_by: str, *, each: int = 5) -> Labels:
    """Classes as int64 `(count,)`.

    Arguments:
        labels: One whole number an image, or None.
        count: Of images.
        needed_by: Whoever needs them, for the errors.
        each: Fewest images of a class.

    Raises:
        ApproxMassError: None given, not one whole number an image, only one class, a class with
            too few images, or numbers that are not 0, 1, ..., K-1 without gaps.

    Example:
        >>> check_labels([0, 1, 1], 3, "energy", each=1)
        array([0, 1, 1])
    """
    if labels is None:
        raise _bad(
            f"{needed_by} learns a classifier and needs the classes of the images: give labels (a "
            "column label, a subfolder for each class, or --labels)"
        )
    array: NDArray[Any] = np.asarray(one_an_image(as_array("labels", labels, code="bad-labels")))
    if array.ndim != 1 or len(array) != count:
        raise _bad(
            f"{needed_by} needs one label an image: {count:,} images, labels of shape {array.shape}"
        )
    if array.dtype.kind not in "iu":
        raise _bad(f"labels must be whole numbers, not {array.dtype}: number the classes")
    present = np.unique(array)
    if len(present) == 1:
        raise _bad(
            f"all labels are {present[0]}: {needed_by} needs at least two classes to tell apart"
        )
    if present[0] != 0 or present[-1] != len(present) - 1:
        listed = ", ".join(map(str, present[:6])) + (", ..." if len(present) > 6 else "")
        raise _bad(
            f"labels must be 0 to {len(present) - 1} for {len(present)} classes, with no gaps, not "
            f"{listed}: number the classes anew"
        )
    counts = np.bincount(array.astype(np.int64))
    if counts.min() < each:
        raise ApproxMassError(
            f"class {counts.argmin()} has {counts.min()} of the images: give {needed_by} at least "
            f"{each} of each class",
            code="too-few",
        )
    return array.astype(np.int64)


def _bad(message: str) -> ApproxMassError:
    return ApproxMassError(message, code="bad-labels")
