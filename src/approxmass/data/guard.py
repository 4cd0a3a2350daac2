"""Pillow kept quiet and careful, in all threads at once."""

__all__ = ["pillow_guard"]

import warnings
from collections.abc import Callable

from PIL import Image

from ..runtime.shared import SharedChange


def _guarded() -> Callable[[], None]:
    """Make Pillow refuse decompression bombs, and keep its other warnings to itself."""
    filters = warnings.catch_warnings()
    filters.__enter__()
    warnings.filterwarnings("ignore", module=r"PIL\b")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    return lambda: filters.__exit__(None, None, None)


# What Python's warnings are filtered by is one for all threads.
pillow_guard = SharedChange(_guarded)
