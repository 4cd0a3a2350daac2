"""The statistics of a trained flow: how far out an image is, in several senses."""

__all__ = ["FUSED", "OVERFLOW", "STATISTICS", "capped", "fused", "nll_and_mass", "range_of"]

import math

import torch
from torch import Tensor

from ..errors import ApproxMassError
from ..flows import VectorFlow
from .base import Statistic

# Stands for a score that overflows: larger than any other, and still a number.
OVERFLOW = 1e30
# Of a statistic on in-distribution images, as a share of 1 and its mean: in float32 a score has
# six digits, and no set of different images is known that comes near.
_LEAST_SPREAD = 1e-3
# Of a mass, as a share of that of a normal density. Rounding of a code can flip a unit of the flow
# between its two slopes, and so move a gradient by far more than a score.
_LEAST_OF_MASS = 1e-2

# Larger = more out-of-distribution, all of them.
STATISTICS = {
    statistic.name: statistic
    for statistic in (
        Statistic("nll", "negative log-likelihood", "nats", "log-likelihood"),
        # The norm of the gradient of the log-likelihood.
        Statistic("mass", "approximate mass"),
        # Of image flows.
        Statistic("latent_fit", "latent fit: departure of the latents from white noise"),
        # Of encoders that are networks: how far what it sees is from the span of usual images,
        # and from the nearest of them.
        Statistic("residual", "residual of the principal components"),
        Statistic("neighbour", "distance from the nearest usual one"),
        # Of the places of an image, as a network sees them: the mean of the highest twentieth.
        Statistic("patch_nll", "negative log-likelihood of its parts", "nats"),
        Statistic("patch_mass", "approximate mass of its parts"),
        Statistic("patch_residual", "residual of its parts"),
        # Distance of the NLL from its in-distribution mean (Nalisnick et al., 2019).
        Statistic("typicality", "typicality", "nats"),
        # The smooth largest of those that there are, but for the typicality; see `fused`.
        Statistic("fused", "fused score", "standard deviations"),
    )
}
FUSED = (
    "nll",
    "mass",
    "latent_fit",
    "residual",
    "neighbour",
    "patch_nll",
    "patch_mass",
)


def capped(scores: Tensor) -> Tensor:
    """Scores with 1e30 for those that overflowed or are no number.

    Example:
        >>> capped(torch.tensor([1.0, torch.nan, torch.inf]))
        tensor([1.0000e+00, 1.0000e+30, 1.0000e+30])
    """
    return scores.nan_to_num(nan=OVERFLOW, posinf=OVERFLOW, neginf=OVERFLOW).clamp_max(OVERFLOW)


def range_of(name: str, values: Tensor, dimension: int) -> Tensor:
    """Mean and standard deviation `(2,)` of a statistic on in-distribution images.

    Arguments:
        name: Of the statistic.
        values: `(N,)`, float64.
        dimension: Of what its density is of.

    Raises:
        ApproxMassError: a value overflows.

    Example:
        >>> range_of("nll", torch.tensor([1.0, 3.0], dtype=torch.float64), 4)
        tensor([2., 1.], dtype=torch.float64)
    """
    if values.max() >= OVERFLOW:
        raise ApproxMassError(
            f"the {name} of in-distribution images overflows: the flow did not learn; fit again "
            "with a smaller alpha or more images",
            code="diverged",
        )
    center, spread = values.mean(), values.std(correction=0)
    # Where all images score alike, one standard deviation is well above rounding.
    least = _LEAST_SPREAD * (1 + float(center.abs()))
    if name in ("mass", "patch_mass"):
        least = max(least, _LEAST_OF_MASS * math.sqrt(dimension))
    return torch.stack([center, spread.clamp_min(least)])


def nll_and_mass(flow: VectorFlow, codes: Tensor) -> tuple[Tensor, Tensor]:
    """NLL and mass `(N,)`, float64, of codes `(N, D)`.

    Example:
        >>> nll_and_mass(VectorFlow("gaussian", 2), torch.tensor([[3.0, 4.0]]))[1].detach()
        tensor([5.], dtype=torch.float64)
    """
    log_p, gradient = flow.log_prob_and_gradient(codes)
    mass = torch.linalg.vector_norm(gradient, dim=1)
    return capped(-log_p.double()), capped(mass.double())


def fused(scores: dict[str, Tensor], moments: dict[str, Tensor]) -> Tensor:
    """The smooth largest of the statistics in `FUSED`, `(N,)`: the log of the mean of exp(z).

    z is each in standard deviations. Were their tails exponential, that would be the harmonic mean
    of their p-values (Wilson, 2019), which needs no independence; like the largest it goes by the
    one that is furthest out, but two that agree count more than one.

    Arguments:
        scores: Statistics `(N,)` by name.
        moments: Of each, mean and standard deviation on in-distribution images, `(2,)`.

    Example:
        >>> scores = {"nll": torch.tensor([3.0]), "mass": torch.tensor([5.0])}
        >>> fused(scores, {"nll": torch.tensor([1.0, 1.0]), "mass": torch.tensor([1.0, 4.0])})
        tensor([1.6201])
    """
    standard = [(scores[n] - moments[n][0]) / moments[n][1] for n in FUSED if n in scores]
    return torch.stack(standard).logsumexp(0) - math.log(len(standard))
