"""Images in folds: each calibrates a model that was trained without its fold."""

__all__ = ["Folds", "in_folds"]

from dataclasses import dataclass

import numpy as np

from .holdout import FEWEST_UNITS, Places, Units

# The share for reference of what is not of a fold, and its bounds: the flow needs the others more.
_REFERENCE, _FEWEST_REFERENCE, _MOST_REFERENCE = 0.1, 5, 10


@dataclass(frozen=True, eq=False)
class Folds:
    """The images of a fit in the order in which they are kept, each in a fold.

    Attributes:
        units: What belongs together, and is in one fold.
        order: Places of the images in their source, `(N,)`; first one image of each unit that
            calibrates.
        fold: That of each of these, `(n,)` of 0 to K-1: it calibrates the model of its fold.
        reference: By fold, the rows of other folds for the in-distribution range of its model.
        training: By fold, the rows of other folds that its model is trained on.
    """

    units: Units
    order: Places
    fold: Places
    reference: list[Places]
    training: list[Places]

    def sides(self) -> list[tuple[Places, Places]]:
        """Places held out, and of those then trained on, of each fold."""
        found = []
        for k, (reference, training) in enumerate(zip(self.reference, self.training, strict=True)):
            own = np.concatenate([np.flatnonzero(self.fold == k), reference])
            found.append((self.order[own], self.order[training]))
        return found


def in_folds(units: Units, folds: int, seed: int, *, every: bool = False) -> Folds:
    """Who calibrates which of several models, and who trains each.

    A unit is in one fold, and calibrates by one image, drawn at random; the others, and all of
    units that are never held out, only train. See `three_shares`.

    Arguments:
        units: What belongs together, at least 30.
        folds: How many.
        seed: Draws them.
        every: All images of a unit that may be held out calibrate, not one of them.

    Example:
        >>> units = Units.among(np.arange(100), None, "array")
        >>> folds = in_folds(units, 4, 0)
        >>> [len(rows) for rows in (folds.training[0], folds.reference[0])], folds.fold[:6]
        ([67, 8], array([0, 1, 2, 3, 0, 1]))
    """
    rank = units.ranked(seed)[units.of]
    free = units.free[units.of]
    used = free & units.one_of_each(seed)
    by_unit = np.lexsort((np.arange(len(rank)), rank))
    order = np.concatenate([by_unit[used[by_unit]], by_unit[~used[by_unit]]])
    # Others of a unit that may be held out come before those of units that may not.
    count = int(free.sum()) if every else units.count
    ranks, calibrates = rank[order], np.arange(len(order)) < count
    fold = np.where(ranks < units.count, ranks % folds, -1)
    reference, training = [], []
    for k in range(folds):
        rest = np.flatnonzero(calibrates & (fold != k))
        some = round(_REFERENCE * len(rest))
        if units.count >= FEWEST_UNITS:
            some = min(_MOST_REFERENCE, max(_FEWEST_REFERENCE, some))
        own = calibrates & (fold == k)
        own[rest[:some]] = True
        others = (fold != k) & ~np.isin(ranks, ranks[rest[:some]])
        marked = np.zeros(len(order), bool)
        marked[order[own]] = True
        copied = units.copied(marked, ~marked)[order]
        reference.append(rest[:some])
        training.append(np.flatnonzero(others & ~copied))
    return Folds(units, order, fold[:count], reference, training)
