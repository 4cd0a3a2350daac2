"""Rows of numbers that come one by one or in batches: data sets, loaders, generators."""

__all__ = ["first_row", "rows_in_order"]

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ApproxMassError
from .array import as_array


def rows_in_order(name: str, items: Iterable[Any]) -> NDArray[Any]:
    """The rows `(N, D)` of a data set or a loader of torch, or of a generator, read now.

    Arguments:
        name: What an error calls it.
        items: Each a row `(D,)`, or a batch of some: an array `(k, D)`, or a list of rows; or a
            tuple or a list whose first entry is one, as with labels.

    Raises:
        ApproxMassError: there is nothing, an item is neither, or rows are of several lengths.

    Example:
        >>> rows_in_order("generator", (np.full(2, i) for i in range(3))).tolist()
        [[0, 0], [1, 1], [2, 2]]
    """
    found: list[NDArray[Any]] = []
    for place, item in enumerate(items):
        # A copy: it may be given again with other numbers in it, or be kept open.
        rows = np.array(as_array(f"{name}: item {place}", _alone(item)))
        if rows.ndim not in (1, 2) or rows.dtype.kind not in "biuf":
            raise ApproxMassError(
                f"{name}: item {place} is {rows.dtype} of shape {rows.shape}: rows of numbers are "
                "arrays (D,), or (k, D) for a batch",
                code="bad-source",
            )
        if found and rows.shape[-1] != found[0].shape[-1]:
            raise ApproxMassError(
                f"{name}: item {place} has rows of {rows.shape[-1]} numbers, and those before it "
                f"of {found[0].shape[-1]}: give all the same",
                code="wrong-shape",
            )
        found.append(np.atleast_2d(rows))
    if not found:
        raise ApproxMassError(
            f"{name}: holds no rows: a generator or an iterator can be read only once, so make it "
            "anew",
            code="bad-source",
        )
    return np.concatenate(found)


def first_row(source: Any) -> Any:
    """The first item of a data set of torch, or of what a loader loads, without its label.

    None where nobody can look without taking it away, as from a generator, or where what comes
    out is made of several.

    Example:
        >>> first_row(iter([1, 2])) is None
        True
    """
    data = source
    if hasattr(source, "dataset") and hasattr(source, "collate_fn"):  # a loader
        if getattr(source.collate_fn, "__module__", "") != "torch.utils.data._utils.collate":
            return None
        data = source.dataset
    if isinstance(data, Iterator) or not hasattr(data, "__getitem__"):
        return None
    try:
        return _alone(data[0]) if len(data) else None
    except (TypeError, LookupError, NotImplementedError):  # of streams, and of what is no list
        return None


def _alone(item: Any) -> Any:
    """An item without its labels, if it has some."""
    if not isinstance(item, tuple | list) or not len(item):
        return item
    if isinstance(item, list) and isinstance(item[0], tuple):  # each with its label
        return [_alone(each) for each in item]
    axes = [_axes(each) for each in item]
    rows = len(set(axes)) == 1 and axes[0] == 1 and len({len(each) for each in item}) == 1
    if rows and (isinstance(item, list) or len(item) > 2):
        return item if not hasattr(item[0], "detach") else [as_array("", each) for each in item]
    return item[0] if axes[0] else item


def _axes(value: Any) -> int:
    """Of an array, a tensor or nested lists; 0 of what is none."""
    if hasattr(value, "ndim"):
        return int(value.ndim)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return 0
    return 1 + _axes(value[0]) if len(value) else 1
