"""Where results of long work are kept for the next time."""

__all__ = ["cache_folder", "cache_key", "check_cache"]

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from ..errors import ApproxMassError
from .atomic import check_file


def cache_folder() -> Path:
    """`$APPROXMASS_CACHE`, or `approxmass` where this system has the caches of users."""
    given = os.environ.get("APPROXMASS_CACHE")
    return Path(given) if given else user_cache_path("approxmass", appauthor=False)


def cache_key(identity: Mapping[str, Any]) -> str:
    """A short name for all that a result depends on.

    Arguments:
        identity: JSON-ready.

    Example:
        >>> cache_key({"a": 1, "b": 2}) == cache_key({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def check_cache(place: Path) -> None:
    """Before any work: a file of the cache can be written.

    Raises:
        ApproxMassError: it cannot.
    """
    try:
        check_file(place)
    except ApproxMassError as error:
        raise ApproxMassError(
            f"{error}: set APPROXMASS_CACHE to another folder", code=error.code
        ) from error
