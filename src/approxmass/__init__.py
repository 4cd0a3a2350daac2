"""Out-of-distribution detection for images, from in-distribution images alone."""

from importlib.metadata import version

import lazy_loader

# The public names are in __init__.pyi. Each is imported on first use: torch takes a second that
# `approxmass --help` need not wait for.
__getattr__, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("approxmass")


def __dir__() -> list[str]:
    return [*_names(), "__version__"]
