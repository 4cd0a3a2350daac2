"""Pillow kept quiet and careful, in all threads at once."""

__all__ = ["pillow_guard"]

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image


class _Guard:
    """What Python's warnings are filtered by is one for all threads: the first one in changes it
    and the last one out changes it back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.filters = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Make Pillow refuse decompression bombs, and keep its other warnings to itself."""
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.filters = warnings.catch_warnings()
                self.filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if self.inside == 0:
                    self.filters.__exit__(None, None, None)


pillow_guard = _Guard()
