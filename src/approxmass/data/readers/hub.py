"""Datasets of the Hugging Face hub, or local folders of them."""

__all__ = ["hub_labels", "open_hub"]

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ApproxMassError
from ..decode import Encoded
from ..source import ImageSource
from .common import label_name, stored


def open_hub(name: str) -> ImageSource:
    """Images of the dataset that `hf:NAME[:[CONFIG:]SPLIT]` names: its first column of images."""
    whole = _dataset(name)
    import datasets

    columns = [c for c, kind in whole.features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        raise ApproxMassError(
            f"{name}: has no image column, only {', '.join(whole.features)}: give a set of images",
            code="bad-source",
        )
    data = whole.select_columns(columns[:1]).cast_column(columns[0], datasets.Image(decode=False))

    def batches(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        for i in range(0, len(data), n):
            rows = data[i : i + n][columns[0]]
            yield (
                stored([row and row["path"] for row in rows], i),
                [_encoded(row) for row in rows],
            )

    def some(places: list[int]) -> Iterator[tuple[int, Encoded]]:
        for i in places:
            yield i, _encoded(data[i][columns[0]])

    return ImageSource(name, len(data), batches, labels=lambda: _labels(whole), some=some)


def _encoded(row: dict[str, Any] | None) -> Encoded:
    """The image of a row: its bytes, or the path of a file; None where the row is empty."""
    if row is None:
        return None
    data: bytes | None = row["bytes"]
    return data or (Path(row["path"]) if row["path"] else None)


def hub_labels(name: str) -> NDArray[Any] | None:
    """Labels of a dataset: the column `label`, `labels`, `fine_label` or `y`."""
    return _labels(_dataset(name))


def _labels(data: Any) -> NDArray[Any] | None:
    column = label_name(data.features)
    return None if column is None else np.asarray(data[column])


def _dataset(name: str) -> Any:
    """The dataset of that name; its split `train` where none is named."""
    try:
        import datasets
    except ImportError:
        raise ApproxMassError(
            f"{name}: the datasets package is missing: pip install datasets",
            code="missing-library",
        ) from None
    # A split may carry a slice, train[:100], so the last colon alone does not find it.
    match = re.fullmatch(r"hf:(.+?)(?:(?::([\w.+-]+))?:([\w.+-]+(?:\[.*\])?))?", name)
    if not match:
        raise ApproxMassError(
            f"{name}: no dataset named: give hf:NAME or hf:NAME:SPLIT", code="bad-source"
        )
    try:
        return datasets.load_dataset(match[1], match[2], split=match[3] or "train")
    except Exception as error:  # of many kinds, by the loader and by the network
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise ApproxMassError(
            f"{name}: cannot be loaded ({reason}): check the name, the split and the network",
            code="bad-source",
        ) from error
