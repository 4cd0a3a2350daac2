"""JSON of a request: counted before it is read, so that a wrong one costs little."""

__all__ = ["JSON", "check_count", "named", "parsed"]

import re
from http import HTTPStatus
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from .limits import Limits, RequestRefused

M = TypeVar("M", bound=BaseModel)

JSON = "application/json"
# Keys that are read before they are too many: those wanted, and the first that is not.
_KEYS = 8
# Before each value stands a sign, and where no quote is escaped a string ends at the next one.
_SIGNS = re.compile(rb'"[^"]*"?|[,:\[{]')
_QUOTE, _COLON = b'":'


def parsed(model: type[M], body: bytearray, limits: Limits, numbers: int) -> M:
    """A body as JSON of that model.

    Of one with more values than any right body has, only so many are read: the first that is wrong
    tells why, and where none is there are too many.

    Arguments:
        model: What it should be: a list of items, and one of their names.
        body: The JSON.
        limits: How many items there may be.
        numbers: Values of an item.

    Raises:
        RequestRefused: 422 it is not, 413 too many values.
    """
    text = bytes(body)
    most = limits.images * (numbers + 2) + _KEYS
    try:
        start = _start_of(text, most)
        if start is None:
            return model.model_validate_json(text)
        model.model_validate(from_json(start, allow_partial=True))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _wrong(f"{where + ': ' if where else ''}{first['msg']}") from None
    except ValueError as error:
        raise _wrong(f"Invalid JSON: {error}") from None
    raise RequestRefused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the JSON holds more values than {limits.images} in one request need: send them in "
        "several",
    )


def named(names: list[str] | None, count: int, limits: Limits, unit: str) -> list[str]:
    """The names of so many images or rows: those given, or their numbers.

    Raises:
        RequestRefused: 413 too many, 422 another number of names.
    """
    check_count(count, limits, unit)
    if names is None:
        return [str(i) for i in range(count)]
    if len(names) != count:
        raise RequestRefused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"there are {len(names)} names for {count} {unit}s: give one to each",
        )
    return names


def check_count(count: int, limits: Limits, unit: str = "image") -> None:
    """Refuse, 413, more images or rows than one request may have."""
    if count > limits.images:
        raise RequestRefused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"more than {limits.images} {unit}s in one request: send them in several",
        )


def _start_of(text: bytes, most: int) -> bytes | None:
    """What a JSON with more values, or too many keys, begins with; None where it has fewer.

    Escaped quotes and backslashes are lost on the way, which changes the type of nothing.
    """
    if text.count(b":") <= _KEYS and sum(map(text.count, (b",", b"[", b"{"))) <= most:
        return None
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    values = keys = 0
    for match in _SIGNS.finditer(text):
        sign = text[match.start()]
        keys += sign == _COLON
        values += sign != _QUOTE
        if values > most or keys > _KEYS:
            return text[: match.start()]
    return None


def _wrong(reason: str) -> RequestRefused:
    return RequestRefused(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"the JSON is not as it should be: {reason}"
    )
