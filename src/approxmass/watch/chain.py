"""A check of each row of a log and of all rows before it, by which one that was altered shows."""

__all__ = ["CHECK", "first_wrong", "with_checks"]

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

# The column of the checks.
CHECK = "check"
# Rows that are in memory as objects at a time.
_PIECE = 4096


def with_checks(rows: Any, before: str) -> Any:
    """The rows with their checks as a last column.

    Arguments:
        rows: An Arrow table.
        before: The check of the row before; empty if there is none.

    Example:
        >>> rows = pa.table({"name": ["a.png", "b.png"]})
        >>> checked = with_checks(rows, "")
        >>> first_wrong(checked), first_wrong(checked.slice(1))
        (None, 0)
    """
    return rows.append_column(CHECK, pa.array(_checks(rows, before), pa.string()))


def first_wrong(rows: Any) -> int | None:
    """The number of the first row whose check is wrong; None if there is none."""
    right = _checks(rows.drop_columns([CHECK]), "")
    pairs = zip(right, rows[CHECK].to_pylist(), strict=True)
    return next((place for place, (check, found) in enumerate(pairs) if check != found), None)


def _checks(rows: Any, check: str) -> Iterator[str]:
    for start in range(0, len(rows), _PIECE):
        piece = rows.slice(start, _PIECE)
        for row in zip(*[column.to_pylist() for column in piece.columns], strict=True):
            # A CSV file does not tell NaN from nothing.
            line = json.dumps([None if value != value else value for value in row])
            check = hashlib.blake2b((check + line).encode(), digest_size=8).hexdigest()
            yield check
