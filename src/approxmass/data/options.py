"""What may be asked of a source of images, and what its labels may be."""

__all__ = ["at_least_one", "check_seen", "one_an_image", "row_of_each"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ApproxMassError
from .colour import MODES


def at_least_one(name: str, number: int, what: str) -> None:
    """Raise `ApproxMassError` where a number is below 1; `what` says for what it is."""
    if number < 1:
        raise ApproxMassError(
            f"{name}: cannot {what.format(number)}: give 1 or more", code="bad-option"
        )


def check_seen(name: str, mode: str | None, background: int | None) -> None:
    """Raise `ApproxMassError` where there is no such mode, or no such grey."""
    if mode is not None and mode not in MODES:
        raise ApproxMassError(
            f"{name}: there is no mode {mode!r}: give one of {', '.join(MODES)}", code="bad-option"
        )
    if background is not None and not (isinstance(background, int) and 0 <= background <= 255):
        raise ApproxMassError(
            f"{name}: background is a grey from 0 (black) to 255 (white), not {background!r}",
            code="bad-option",
        )


def one_an_image(labels: NDArray[Any] | None) -> NDArray[Any] | None:
    """Labels `(N,)`, where they are a column `(N, 1)`; others as they are.

    Example:
        >>> one_an_image(np.array([[0], [2]]))
        array([0, 2])
    """
    return labels[:, 0] if labels is not None and labels.shape[1:] == (1,) else labels


def row_of_each(name: str, order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The row that each of `count` images becomes, where image `order[r]` becomes row `r`.

    Raises:
        ApproxMassError: `order` is no permutation.

    Example:
        >>> row_of_each("mine", np.array([2, 0, 1]), 3)
        array([1, 2, 0])
    """
    places = np.arange(count)
    if not np.array_equal(np.sort(order), places):
        raise ApproxMassError(
            f"{name}: order must hold each of 0 to {count - 1} once", code="bad-option"
        )
    places[order] = np.arange(count)
    return places
