"""What a model is given to learn from besides images: classes and outliers, if it takes them."""

__all__ = ["classes_for", "outliers_for"]

from collections.abc import Callable
from typing import Any

from ..arrays import Labels, Pixels
from ..data import ImageSource, check_labels, open_labels
from ..errors import ApproxMassError
from .base import Model

# Twice what a method needs of each class, since some are held out.
_FEWEST_OF_A_CLASS = 10


def classes_for(model: Model, source: ImageSource, labels: Any) -> Labels | None:
    """The classes of all images of a source, `(N,)`, if the model needs them.

    Arguments:
        model: Says whether it needs them.
        source: Images that may carry them.
        labels: Whatever `open_labels` takes; None for those of the source.

    Raises:
        ApproxMassError: labels missing, unusable, or not asked for.
    """
    if model.needs_labels:
        found = source.labels() if labels is None else open_labels(labels)
        return check_labels(found, len(source), model.name, each=_FEWEST_OF_A_CLASS)
    if labels is not None:
        raise ApproxMassError(f"{model.name} learns from no labels: give none", code="bad-labels")
    return None


def outliers_for(
    model: Model,
    source: ImageSource,
    outliers: Any,
    open_as: Callable[[Any], ImageSource],
    *,
    threads: int | None,
) -> tuple[Pixels | None, str | None]:
    """Outliers to learn from, in the frame of the source, and what they were read from.

    Arguments:
        model: Says whether it takes some.
        source: The in-distribution images.
        outliers: Whatever `open_as` takes; None for none.
        open_as: Opens them as the source was opened.
        threads: The most that decode at once.

    Raises:
        ApproxMassError: outliers that cannot be used, or were not asked for.
    """
    if outliers is None:
        return None, None
    if not model.takes_outliers:
        raise ApproxMassError(
            f"{model.name} learns from no outliers: give none", code="bad-outliers"
        )
    opened = open_as(outliers)
    if source.frame is not None:
        opened = opened.resized(source.frame)
    return opened.read(threads=threads), opened.name
