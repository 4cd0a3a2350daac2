"""Out-of-distribution detection for images, from in-distribution images alone."""

import os
from importlib.metadata import version

import lazy_loader

# The public names are in __init__.pyi. Each is imported on first use: torch takes a second that
# `approxmass --help` need not wait for.
__getattr__, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("approxmass")

# Threads of torch that wait for each other would spin for long, and on a busy machine keep each
# other from the work. Read once, when torch is loaded; what a person has set stays.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"


def __dir__() -> list[str]:
    return [*_names(), "__version__"]
