"""Parquet files: encoded images in the column `image`, and perhaps a column of labels."""

__all__ = ["open_parquet", "parquet_labels"]

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import ApproxMassError
from ..decode import Encoded
from ..source import ImageSource
from .common import label_name, reading, stored

_WANTED = "a Parquet file: copy it again"


def open_parquet(name: str, path: Path) -> ImageSource:
    """Images of a Parquet file, of which a few rows are in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(name, _WANTED):
        file = pq.ParquetFile(path)
        schema, count = file.schema_arrow, file.metadata.num_rows
    if "image" not in schema.names:
        raise ApproxMassError(
            f"{name}: has no column image, only {', '.join(schema.names) or 'an empty schema'}: "
            "rename the one that holds the images",
            code="bad-source",
        )
    kind = schema.field("image").type
    data = kind.field("bytes").type if _has_field(kind, "bytes") else kind
    if not (pa.types.is_binary(data) or pa.types.is_large_binary(data)):
        raise ApproxMassError(
            f"{name}: the column image is {kind}: give encoded images as binary or struct<bytes>",
            code="bad-source",
        )

    def batches(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        done = 0
        with reading(name, _WANTED):
            for batch in file.iter_batches(n, columns=["image"]):
                column = batch.column(0)
                paths: list[str | None] = [None] * len(column)
                if _has_field(kind, "path"):
                    paths = column.field("path").to_pylist()
                encoded = column.field("bytes") if pa.types.is_struct(kind) else column
                yield stored(paths, done), encoded.to_pylist()
                done += len(column)

    def some(places: list[int]) -> Iterator[tuple[int, Encoded]]:
        with reading(name, _WANTED):
            yield from _rows(file, places)

    return ImageSource(name, count, batches, labels=lambda: parquet_labels(name, path), some=some)


def _rows(file: Any, places: list[int]) -> Iterator[tuple[int, Encoded]]:
    """The images of these rows, out of the groups that they are in."""
    start = 0
    for group in range(file.metadata.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        inside = [place for place in places if start <= place < end]
        for batch in (
            file.iter_batches(256, row_groups=[group], columns=["image"]) if inside else ()
        ):
            column = batch.column(0)
            encoded = column.field("bytes") if _has_field(column.type, "bytes") else column
            for place in inside:
                if start <= place < start + len(column):
                    yield place, encoded[place - start].as_py()
            start += len(column)
            if start > inside[-1]:
                break
        start = end


def parquet_labels(name: str, path: Path) -> NDArray[Any] | None:
    """Labels of a Parquet file: the column `label`, `labels`, `fine_label` or `y`."""
    import pyarrow.parquet as pq

    with reading(name, _WANTED):
        file = pq.ParquetFile(path)
        column = label_name(file.schema_arrow.names)
        if column is None:
            return None
        labels: NDArray[Any] = file.read([column]).column(0).to_numpy()
    return labels


def _has_field(kind: Any, field: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind) and kind.get_field_index(field) >= 0)
