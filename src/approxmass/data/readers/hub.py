"""Data sets of the library datasets: in memory, of the Hugging Face hub, or of a local folder."""

__all__ = ["hub_labels", "is_dataset", "open_dataset", "open_hub"]

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ApproxMassError
from ..decode import Encoded
from ..source import ImageSource
from .common import label_name, one_column, stored
from .once import open_once
from .shards import image_column


def open_hub(name: str) -> ImageSource:
    """Images of the data set that `hf:NAME[:[CONFIG:]SPLIT]` names.

    Those of its column `image`, of its only one of images, or of the one that
    `hf:NAME:CONFIG:SPLIT:COLUMN` names.
    """
    whole, asked, how = _dataset(name)
    return _open_rows(name, whole, _column(name, whole.features, asked, how))


def is_dataset(source: object) -> bool:
    """Whether something is of the library datasets: a set, a stream of one, or a column of one."""
    datasets = sys.modules.get("datasets")
    if datasets is None:
        return False
    kinds = (datasets.Dataset, datasets.IterableDataset)
    return isinstance(source, kinds) or isinstance(getattr(source, "source", None), kinds)


def open_dataset(source: Any) -> ImageSource:
    """Images of a `datasets.Dataset` or `IterableDataset`, or of a column of one.

    Of a stream, which may be shuffled at each pass, what is read is kept. What is stored is read,
    whatever format or transform is set.

    Raises:
        ApproxMassError: there is no column of images, or several.
    """
    import datasets

    name, asked = "dataset", getattr(source, "column_name", None)
    data = source if asked is None else source.source
    if data.features is None:  # of a stream that does not say
        return open_once(name, source)
    column = _column(name, data.features, asked, "data['{}']")
    if not isinstance(data, datasets.IterableDataset):
        return _open_rows(name, data.with_format(None), column)
    if _is_image(data.features[column]):
        data = data.cast_column(column, datasets.Image(decode=False))
    label = label_name(data.features)
    rows: Iterable[Any] = ((row[column], None if label is None else row[label]) for row in data)
    return open_once(name, rows)


def _open_rows(name: str, whole: Any, column: str) -> ImageSource:
    """Images of a column of a data set that is indexed by row."""
    import datasets

    kind = whole.features[column]
    if not (_is_image(kind) or getattr(kind, "dtype", "") in ("binary", "large_binary", "string")):
        return open_once(name, whole.select_columns([column])[column])
    data = whole.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def batches(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        for i in range(0, len(data), n):
            rows = data[i : i + n][column]
            yield (
                stored([row and row["path"] for row in rows], i),
                [_encoded(row) for row in rows],
            )

    def some(places: list[int]) -> Iterator[tuple[int, Encoded]]:
        for i in places:
            yield i, _encoded(data[i][column])

    return ImageSource(name, len(data), batches, labels=lambda: _labels(whole), some=some)


def _column(name: str, features: Any, asked: str | None, how: str) -> str:
    if asked is not None:
        return one_column(name, asked, list(features))
    images = [column for column, kind in features.items() if _is_image(kind)]
    return image_column(name, list(features), images, how)


def _is_image(kind: object) -> bool:
    import datasets

    return isinstance(kind, datasets.Image)


def _encoded(row: dict[str, Any] | None) -> Encoded:
    """The image of a row: its bytes, or the path of a file; None where the row is empty."""
    if row is None:
        return None
    data: bytes | None = row["bytes"]
    return data or (Path(row["path"]) if row["path"] else None)


def hub_labels(name: str) -> NDArray[Any] | None:
    """Labels of a data set: the column `label`, `labels`, `fine_label` or `y`."""
    return _labels(_dataset(name)[0])


def _labels(data: Any) -> NDArray[Any] | None:
    column = label_name(data.features)
    return None if column is None else np.asarray(data[column])


def _dataset(name: str) -> tuple[Any, str | None, str]:
    """The data set of that name, its split `train` where none is named, the column that is named.

    And how to name one.
    """
    try:
        import datasets
    except ImportError:
        raise ApproxMassError(
            f"{name}: the datasets package is missing: pip install datasets",
            code="missing-library",
        ) from None
    # A split may carry a slice, train[:100], so the last colon alone does not find it.
    config, split = r"([\w.+-]+)", r"([\w.+-]+(?:\[.*\])?)"
    match = re.fullmatch(rf"hf:(.+?):{config}:{split}:(\w[\w .-]*)", name)
    match = match or re.fullmatch(rf"hf:(.+?)(?:(?::{config})?:{split})?()", name)
    if not match:
        raise ApproxMassError(
            f"{name}: no dataset named: give hf:NAME or hf:NAME:SPLIT", code="bad-source"
        )
    how = f"hf:{match[1]}:{match[2] or 'default'}:{match[3] or 'train'}:{{}}"
    try:
        whole = datasets.load_dataset(match[1], match[2], split=match[3] or "train")
    except Exception as error:  # of many kinds, by the loader and by the network
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise ApproxMassError(
            f"{name}: cannot be loaded ({reason}): check the name, the split and the network",
            code="bad-source",
        ) from error
    return whole, match[4] or None, how
