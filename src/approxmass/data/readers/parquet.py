"""Parquet: encoded images in the column `image`, and perhaps a column of labels."""

__all__ = ["column_of", "images_of", "open_parquet", "parquet_labels", "texts_of"]

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ApproxMassError
from ..decode import Encoded
from ..source import ImageSource
from .common import label_name, reading, stored
from .shards import Shards, encoded_columns, image_column, shards_of


def open_parquet(name: str) -> ImageSource:
    """Images of Parquet files, of which a few rows are in memory at a time; see `shards_of`."""
    files, asked = _found(name)
    return images_of(Shards(name, files), asked, lambda: parquet_labels(name))


def images_of(
    table: Shards,
    asked: str | None = None,
    labels: Callable[[], NDArray[Any] | None] | None = None,
) -> ImageSource:
    """Images of a table: of the column asked for, or of that which holds them."""
    column = asked or _image_column(table)
    _check_encoded(table, column)

    def batches(n: int, start: int = 0) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        for batch in table.iter_batches(n, [column], start):
            rows = batch.column(0)
            paths = _texts(_field(rows, "path"))
            yield stored(paths, start), _images(rows, paths)
            start += len(rows)

    def some(places: list[int]) -> Iterator[tuple[int, Encoded]]:
        for place, rows, row in table.rows(column, places):
            one = rows.slice(row, 1)
            yield place, _images(one, _texts(_field(one, "path")))[0]

    return ImageSource(
        table.name,
        table.num_rows,
        batches,
        labels=labels,
        some=some,
        remarks=table.remarks(),
        onward=batches,
    )


def parquet_labels(name: str) -> NDArray[Any] | None:
    """Labels of Parquet files: the column `label`, `labels`, `fine_label` or `y`."""
    table = Shards(name, _found(name)[0])
    column = label_name(table.schema.names)
    if column is None:
        return None
    with reading(name, "a table with labels"):
        return np.asarray(table.column(column).to_numpy())


def texts_of(table: Shards, column: str) -> list[str | None]:
    """A column as text, a row each.

    Raises:
        ApproxMassError: it holds something that is neither text nor numbers.
    """
    import pyarrow as pa

    values = table.column(column)
    try:
        return _texts(values.cast(pa.string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ApproxMassError(
            f"{table.name}: the column {column} is {values.type}: give one of names or numbers",
            code="bad-source",
        ) from error


def column_of(table: Shards, column: str) -> Callable[[], Iterator[bytes | None]]:
    """What opens a column of encoded images anew.

    Raises:
        ApproxMassError: it holds something else.
    """
    _check_encoded(table, column)

    def stream() -> Iterator[bytes | None]:
        for batch in table.iter_batches(64, [column]):
            yield from _field(batch.column(0), "bytes").to_pylist()

    return stream


def _found(name: str) -> tuple[list[Path], str | None]:
    found = shards_of(name)
    assert found is not None  # whoever opens it has looked
    return found


def _image_column(table: Shards) -> str:
    images = encoded_columns(table.schema)
    return image_column(table.name, table.schema.names, images, f"{table.name}:{{}}")


def _check_encoded(table: Shards, column: str) -> None:
    kind = table.kind(column)
    if column not in encoded_columns(table.schema, plain=True):
        raise ApproxMassError(
            f"{table.name}: the column {column} is {kind}: give encoded images as binary or "
            "struct<bytes>",
            code="bad-source",
        )


def _images(rows: Any, paths: list[str | None]) -> list[Encoded]:
    """The bytes of each row; where it has none the file at its path, and None without either."""
    found = _field(rows, "bytes").to_pylist()
    return [
        Path(at) if data is None and at else data for data, at in zip(found, paths, strict=True)
    ]


def _texts(column: Any) -> list[str | None]:
    """A column of text; what is not valid text in it is shown as bytes, as of names of files."""
    import pyarrow as pa

    try:
        found: list[str | None] = column.to_pylist()
    except UnicodeDecodeError:
        data = column.cast(pa.binary()).to_pylist()
        found = [each and each.decode(errors="backslashreplace") for each in data]
    return found


def _field(rows: Any, field: str) -> Any:
    """A field of encoded images: of plain bytes these alone; null where a row has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(rows.type):
        return rows if field == "bytes" else pa.nulls(len(rows), pa.string())
    if rows.type.get_field_index(field) < 0:
        return pa.nulls(len(rows), pa.string())
    return pc.struct_field(rows, field)
