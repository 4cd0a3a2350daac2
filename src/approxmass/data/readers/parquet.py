"""Parquet files: encoded images in the column `image`, and perhaps a column of labels."""

__all__ = ["column_of", "has_column", "open_parquet", "parquet_labels", "values_of"]

from collections.abc import Callable, Iterator, Sequence
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
    _check_encoded(name, "image", kind)

    def batches(n: int) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        done = 0
        with reading(name, _WANTED):
            for batch in file.iter_batches(n, columns=["image"]):
                column = batch.column(0)
                paths: list[str | None] = [None] * len(column)
                if _has_field(kind, "path"):
                    paths = column.field("path").to_pylist()
                yield stored(paths, done), _encoded(column).to_pylist()
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
            encoded = _encoded(column)
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


def has_column(name: str, path: Path, column: str) -> bool:
    """Whether a Parquet file has a column of that name."""
    import pyarrow.parquet as pq

    with reading(name, _WANTED):
        return column in pq.ParquetFile(path).schema_arrow.names


def values_of(name: str, path: Path, column: str) -> list[Any]:
    """The values of a column, None where there is none."""
    import pyarrow.parquet as pq

    with reading(name, _WANTED):
        found: list[Any] = pq.ParquetFile(path).read([column]).column(0).to_pylist()
    return found


def column_of(
    name: str, path: Path, column: str
) -> tuple[int, Callable[[], Iterator[bytes | None]]]:
    """How many rows there are, and what opens a column of encoded images anew.

    Raises:
        ApproxMassError: it holds something else.
    """
    import pyarrow.parquet as pq

    with reading(name, _WANTED):
        file = pq.ParquetFile(path)
        kind, count = file.schema_arrow.field(column).type, file.metadata.num_rows
    _check_encoded(name, column, kind)

    def stream() -> Iterator[bytes | None]:
        with reading(name, _WANTED):
            for batch in file.iter_batches(64, columns=[column]):
                yield from _encoded(batch.column(0)).to_pylist()

    return count, stream


def _check_encoded(name: str, column: str, kind: Any) -> None:
    import pyarrow as pa

    data = kind.field("bytes").type if _has_field(kind, "bytes") else kind
    if not (pa.types.is_binary(data) or pa.types.is_large_binary(data)):
        raise ApproxMassError(
            f"{name}: the column {column} is {kind}: give encoded images as binary or "
            "struct<bytes>",
            code="bad-source",
        )


def _encoded(column: Any) -> Any:
    """The bytes of a column of encoded images; null where a row has none."""
    import pyarrow.compute as pc

    return pc.struct_field(column, "bytes") if _has_field(column.type, "bytes") else column


def _has_field(kind: Any, field: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind) and kind.get_field_index(field) >= 0)
