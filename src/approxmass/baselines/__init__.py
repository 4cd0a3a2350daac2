"""Baselines: other methods to compare with, one file each, each a `Model`.

`BASELINES` has them by name. Each can also be the method of a detector, which calibrates it.
"""

__all__ = [
    "BASELINES",
    "GODIN",
    "OCGAN",
    "Autoencoder",
    "Baseline",
    "Energy",
    "Gaussian",
    "GradCon",
    "Mahalanobis",
    "MahalanobisSeesOOD",
    "NearestNeighbour",
    "PCAResidual",
    "PNGSize",
    "UntrainedFlow",
]

from .base import Baseline
from .energy import Energy
from .godin import GODIN
from .gradcon import GradCon
from .mahalanobis import Mahalanobis, MahalanobisSeesOOD
from .ocgan import OCGAN, Autoencoder
from .plain import Gaussian, NearestNeighbour, PCAResidual, PNGSize, UntrainedFlow

BASELINES: dict[str, type[Baseline]] = {
    kind.name: kind
    for kind in (
        GODIN,
        Mahalanobis,
        MahalanobisSeesOOD,
        Energy,
        GradCon,
        OCGAN,
        Autoencoder,
        NearestNeighbour,
        PCAResidual,
        Gaussian,
        UntrainedFlow,
        PNGSize,
    )
}
