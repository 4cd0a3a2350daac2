"""Other detectors to compare with, one file each: `fit(images, labels, outliers)` and `score`.

`BASELINES` has them by name. Each can also be a method of the detector, which calibrates it.
"""

__all__ = [
    "BASELINES",
    "Baseline",
    "check_labels",
    "make_baseline",
    "parse_options",
]

from collections.abc import Mapping
from typing import Any

from ..errors import ApproxMassError
from .base import Baseline, check_labels, parse_options
from .energy import Energy
from .godin import GODIN
from .gradcon import GradCon
from .mahalanobis import Mahalanobis, MahalanobisSeesOOD
from .ocgan import OCGAN, Autoencoder
from .plain import Gaussian, NearestNeighbour, PCAResidual, PNGSize, UntrainedFlow

BASELINES: dict[str, type[Baseline]] = {
    "godin": GODIN,
    "mahalanobis": Mahalanobis,
    "mahalanobis-sees-ood": MahalanobisSeesOOD,
    "energy": Energy,
    "gradcon": GradCon,
    "ocgan": OCGAN,
    "autoencoder": Autoencoder,
    "nearest-neighbour": NearestNeighbour,
    "pca-residual": PCAResidual,
    "gaussian": Gaussian,
    "untrained-flow": UntrainedFlow,
    "png-size": PNGSize,
}


def make_baseline(name: str, options: Mapping[str, Any], seed: int = 0) -> Baseline:
    """An untrained baseline by its name.

    Arguments:
        name: One of `BASELINES`.
        options: What its class takes.
        seed: Fixes its training, unless `options` has one.

    Raises:
        ApproxMassError: an unknown name, an unknown option, or a value out of range.

    Example:
        >>> make_baseline("pca-residual", {"components": 8})
        PCAResidual(seed=0, components=8)
    """
    if name not in BASELINES:
        raise ApproxMassError(f"unknown method {name!r}: use one of {', '.join(BASELINES)}")
    kind = BASELINES[name]
    for option in options:
        if option not in kind.option_types():
            known = ", ".join(kind.option_types())
            raise ApproxMassError(f"{name} has no option {option!r}: it has {known}")
    return kind(**{"seed": seed, **options})
