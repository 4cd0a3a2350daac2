"""What is read from JSON, held to the types that Python's annotations give it.

The types of what is saved are its schema: `held_to` checks names, types and ranges and converts
nothing, so that `true` is no 1 and 1.0 no 1.
"""

__all__ = ["Count", "Digest", "Finite", "Positive", "Side", "held_to"]

import sys
import typing
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar

from msgspec import Meta, ValidationError, convert

T = TypeVar("T")

_LARGEST = sys.float_info.max
# How many of something.
Count = Annotated[int, Meta(ge=0, le=2**53)]
# Pixels of an image along an axis, its channels, or numbers of a row.
Side = Annotated[int, Meta(ge=1, le=2**31)]
# A number, neither infinite nor NaN.
Finite = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
Positive = Annotated[float, Meta(ge=0, le=_LARGEST)]
# SHA-256, in hexadecimal digits.
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


def held_to(kind: type[T], found: Any, what: str) -> T:
    """What JSON holds, as a dataclass or another type.

    Arguments:
        kind: The type; of a dataclass every field must be there, and no other.
        found: As `json.loads` gave it.
        what: What an error calls it.

    Raises:
        ValueError: another type, a number out of range, or a name missing or unknown.

    Example:
        >>> held_to(list[Count], [3, 4], "counts")
        [3, 4]
        >>> held_to(int, True, "seed")
        Traceback (most recent call last):
            ...
        ValueError: seed: Expected `int`, got `bool`
    """
    try:
        _check_names(kind, found, what)
        return convert(found, kind)
    except ValidationError as error:
        raise ValueError(f"{what}: {error}") from error


def _check_names(kind: Any, found: Any, what: str) -> None:
    """Of a dataclass, and those in its fields and lists: each name is there, and no other."""
    if typing.get_origin(kind) is list and isinstance(found, list):
        for each in found:
            _check_names(typing.get_args(kind)[0], each, what)
    if typing.get_origin(kind) is dict and isinstance(found, dict):
        for each in found.values():
            _check_names(typing.get_args(kind)[1], each, what)
    if not (is_dataclass(kind) and isinstance(found, dict)):
        return
    names = {field.name for field in fields(kind)}
    if different := sorted(map(str, names ^ found.keys())):
        raise ValueError(f"{what}: {different[0]} is missing, or unknown")
    for name, inner in typing.get_type_hints(kind).items():
        if name in names:
            _check_names(inner, found[name], f"{what}: {name}")
