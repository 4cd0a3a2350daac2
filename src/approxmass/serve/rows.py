"""Bodies of requests to a detector of rows of numbers."""

__all__ = ["RowsInJson", "UploadedRow", "check_rows_kind", "rows_in", "rows_of"]

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, FailFast, Field
from starlette.datastructures import Headers

from ..data import Chunk
from ..data.vectors import VectorSource
from ..detector import Detector
from .json_body import JSON, named, parsed
from .limits import Limits, RequestRefused
from .uploads import check_compression, kind_of, of_all, require_some


class RowsInJson(BaseModel):
    """Rows of numbers as JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)
    rows: Annotated[list[Annotated[list[float], FailFast()]], FailFast()] = Field(
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


def rows_in(body: bytearray, limits: Limits, columns: int) -> list[UploadedRow]:
    """The rows in a body that passed `check_rows_kind`, at least one, of so many numbers or not.

    Raises:
        RequestRefused: 413 too many, 422 not what it should be.
    """
    given = parsed(RowsInJson, body, limits, columns)
    names = named(given.names, len(given.rows), limits, "row")
    return [UploadedRow(name, row) for name, row in zip(names, given.rows, strict=True)]


def rows_of(rows: Sequence[UploadedRow], detector: Detector, limits: Limits) -> Chunk:
    """Every row as scoring a table of them would find it; what cannot be used has its reason.

    Raises:
        RequestRefused: 422, not one row that can be used.
    """
    columns = detector.settings.columns or ()
    names = [row.name for row in rows]
    errors = [
        None
        if len(row.values) == len(columns)
        else f"has {len(row.values)} numbers, not {len(columns)}: give those of the columns of the "
        "fit, in their order (GET /healthz)"
        for row in rows
    ]
    good = [row.values for row, error in zip(rows, errors, strict=True) if error is None]
    require_some(names, errors, "row")
    # With their names: those of an array would be its places.
    values = np.array(good, np.float64)
    uploaded = VectorSource("upload", len(good), lambda n, start: iter([values[start:]]), columns)
    (chunk,) = detector.open(uploaded).chunks(len(good), shape=detector.shape)
    return of_all(chunk, names, errors)
