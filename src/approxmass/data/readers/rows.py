"""Rows of numbers that come one by one or in batches: data sets, loaders, generators."""

__all__ = ["first_row", "rows_in_order"]

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ApproxMassError
from .array import as_array


def rows_in_order(name: str, items: Iterable[Any]) -> NDArray[Any]:
    """The rows `(N, D)` of a data set or a loader of torch, or of a generator, read now.

    Arguments:
        name: What an error calls it.
        items: Each a row `(D,)`, or a batch of some `(k, D)`; or a tuple or a list whose first
            entry is one, as with labels.

    Raises:
        ApproxMassError: there is nothing, an item is neither, or rows are of several lengths.

    Example:
        >>> rows_in_order("generator", (np.full(2, i) for i in range(3))).tolist()
        [[0, 0], [1, 1], [2, 2]]
    """
    found: list[NDArray[Any]] = []
    for place, item in enumerate(items):
        rows = np.atleast_2d(as_array(f"{name}: item {place}", _alone(item)))
        if rows.ndim != 2 or rows.dtype.kind not in "biuf":
            raise ApproxMassError(
                f"{name}: item {place} is {rows.dtype} of shape {rows.shape}: rows of numbers are "
                "arrays (D,), or (k, D) for a batch",
                code="bad-source",
            )
        if found and rows.shape[1] != found[0].shape[1]:
            raise ApproxMassError(
                f"{name}: item {place} has rows of {rows.shape[1]} numbers, and those before it of "
                f"{found[0].shape[1]}: give all the same",
                code="wrong-shape",
            )
        found.append(rows)
    if not found:
        raise ApproxMassError(
            f"{name}: holds no rows: a generator or an iterator can be read only once, so make it "
            "anew",
            code="bad-source",
        )
    return np.concatenate(found)


def first_row(source: Any) -> Any:
    """The first item of a data set or a loader of torch, without its label; None where nobody
    can look without taking it away, as from a generator.

    Example:
        >>> first_row(iter([1, 2])) is None
        True
    """
    data = getattr(source, "dataset", source)  # of a loader, which may have workers to start
    if isinstance(data, Mapping | Iterator):
        return None
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _alone(data[0]) if len(data) else None
    return _alone(next(iter(data), None)) if isinstance(data, Iterable) else None


def _alone(item: Any) -> Any:
    """An item without its label."""
    pair = isinstance(item, tuple | list) and len(item) > 0 and np.ndim(item[0]) > 0
    return item[0] if pair else item
