"""Tell, for one input, whether a model has any business with it."""

__all__ = [
    "ApproxMassError",
    "Detector",
    "Scores",
    "approximate_mass",
    "log_prob_and_mass",
    "open_images",
    "penalized_nll",
]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import open_images as open_images
    from .detector import Detector as Detector
    from .detector import Scores as Scores
    from .errors import ApproxMassError as ApproxMassError
    from .mass import approximate_mass as approximate_mass
    from .mass import log_prob_and_mass as log_prob_and_mass
    from .mass import penalized_nll as penalized_nll

_HOME = {
    "ApproxMassError": "errors",
    "Detector": "detector",
    "Scores": "detector",
    "approximate_mass": "mass",
    "log_prob_and_mass": "mass",
    "open_images": "data",
    "penalized_nll": "mass",
}


def __getattr__(name: str) -> Any:
    # On first use: importing torch takes a second that `approxmass --help` need not wait for.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
