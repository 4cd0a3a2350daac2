"""Bodies of requests to a detector of rows of numbers."""

__all__ = ["RowsInJson", "UploadedRow", "check_rows_kind", "rows_in", "rows_of"]

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers

from ..data import Chunk
from ..data.vectors import VectorSource
from ..detector import Detector
from .limits import Limits, RequestRefused
from .uploads import JSON, check_compression, kind_of, named, parsed


class RowsInJson(BaseModel):
    """Rows of numbers as JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)
    rows: list[list[float]] = Field(
        min_length=1, description="A number for each column of the fit, in their order."
    )
    names: list[str] | None = Field(None, description="A name for each row.")


@dataclass(frozen=True)
class UploadedRow:
    """One row as it came."""

    name: str
    values: list[float]


def check_rows_kind(headers: Headers) -> None:
    """Look at what a body claims to be, before it is read.

    Raises:
        RequestRefused: 415, no JSON, or compressed.
    """
    if kind_of(headers.get("content-type", "")) != JSON:
        raise RequestRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f'send rows as {JSON}: {{"rows": [[1.5, 2.0]]}}'
        )
    check_compression(headers)


def rows_in(body: bytearray, content_type: str, limits: Limits) -> list[UploadedRow]:
    """The rows in a body that passed `check_rows_kind`, at least one.

    Raises:
        RequestRefused: 413 too many, 422 not what it should be.
    """
    given = parsed(RowsInJson, body)
    names = named(given.names, len(given.rows), limits, "row")
    return [UploadedRow(name, row) for name, row in zip(names, given.rows, strict=True)]


def rows_of(rows: Sequence[UploadedRow], detector: Detector, limits: Limits) -> Chunk:
    """Every row as scoring a table of them would find it.

    Raises:
        RequestRefused: 422, a row of another length, or one that is not finite, by its name.
    """
    columns = detector.settings.columns or ()
    for row in rows:
        if len(row.values) != len(columns):
            raise RequestRefused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"row {row.name} has {len(row.values)} numbers, not {len(columns)}: give those of "
                "the columns of the fit, in their order (GET /healthz)",
            )
    # With their names: those of an array would be its places.
    values = np.array([row.values for row in rows], np.float64)
    uploaded = VectorSource("upload", len(rows), lambda n, start: iter([values[start:]]), columns)
    (chunk,) = detector.open(uploaded).chunks(len(rows), shape=detector.shape)
    for place, error in chunk.unreadable:
        raise RequestRefused(
            HTTPStatus.UNPROCESSABLE_ENTITY, f"row {rows[int(place)].name} {error}"
        )
    return chunk
