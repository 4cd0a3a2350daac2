"""The approximate mass of a density, and the training objective that contains it.

The approximate mass of an input is the Euclidean norm of the gradient of its log-density,
``||d log p(x) / dx||`` (Grathwohl et al., 2020, arXiv:1912.03263). Chali et al. (CVPRW 2023,
equation 2) add it to the maximum-likelihood loss of a normalizing flow. Everything here takes
*any* callable that maps ``(N, ...)`` inputs to ``(N,)`` log-densities in nats.
"""

__all__ = [
    "LogProb",
    "Reduction",
    "approximate_mass",
    "log_prob_and_mass",
    "penalized_loss",
    "penalized_nll",
    "training_terms",
]

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .errors import ApproxMassError

LogProb = Callable[[Tensor], Tensor]
Reduction = Literal["per-sample", "batch-mean"]


def log_prob_and_mass(
    log_prob: LogProb, x: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-density and approximate mass from one forward and one backward pass.

    The gradient taken is that of the batch *sum*, so each row depends on its own input alone
    as long as `log_prob` itself does not mix the rows (BatchNorm in training mode does).

    Arguments:
        log_prob: Maps a tensor `(N, ...)` to log-densities `(N,)` in nats.
        x: Inputs `(N, ...)`, floating point.
        create_graph: Keep the graph, so that both results can be differentiated again.

    Returns:
        `log p(x)` in nats and `||d log p(x) / dx|| >= 0` in nats per unit of `x`, each `(N,)`.

    Raises:
        ApproxMassError: `x` is no floating-point tensor, `log_prob` returns another shape than
            `(N,)`, or what it returns depends on `x` without having a gradient.

    Example:
        >>> normal = torch.distributions.MultivariateNormal(torch.zeros(2), 4 * torch.eye(2))
        >>> log_p, mass = log_prob_and_mass(normal.log_prob, torch.tensor([[3.0, 4.0]]))
        >>> mass  # ||x|| / variance
        tensor([1.2500])
    """
    _check_input(log_prob, x)
    # A gradient is needed whatever mode the caller is in; inference tensors cannot carry one.
    with torch.inference_mode(False), torch.enable_grad():
        if x.is_inference():
            x = x.clone()
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        log_p = _values(log_prob, x)
        gradient = None
        if log_p.requires_grad:
            (gradient,) = torch.autograd.grad(
                log_p.sum(), x, create_graph=create_graph, allow_unused=True
            )
        if gradient is None:
            _check_flat(log_prob, x, log_p)
            gradient = torch.zeros_like(x)
        mass = torch.linalg.vector_norm(gradient.reshape(x.shape[0], x.shape[1:].numel()), dim=1)
    return (log_p, mass) if create_graph else (log_p.detach(), mass)


def _check_input(log_prob: LogProb, x: Tensor) -> None:
    if not callable(log_prob):
        raise ApproxMassError(
            f"log_prob must be a function of x, not {type(log_prob).__name__}: give the method "
            "log_prob of a density",
            code="no-density",
        )
    if not isinstance(x, Tensor):
        raise ApproxMassError(
            f"x must be a tensor, not {type(x).__name__}: torch.as_tensor makes one",
            code="no-density",
        )
    if not x.is_floating_point():
        raise ApproxMassError(
            f"x must be floating point to have a gradient, not {x.dtype}", code="no-density"
        )
    if x.dim() == 0:
        raise ApproxMassError("x must be (N, ...), and is a single number", code="no-density")


def _values(log_prob: LogProb, x: Tensor) -> Tensor:
    """Log-densities `(N,)`, known to be such."""
    found: object = log_prob(x)
    if isinstance(found, Tensor) and found.shape == x.shape[:1]:
        return found
    wanted = f"log_prob must map {tuple(x.shape)} to ({len(x)},), but it returned "
    if not isinstance(found, Tensor):
        raise ApproxMassError(
            f"{wanted}{type(found).__name__}: give the method log_prob of a density, not the "
            "density or flow itself",
            code="no-density",
        )
    raise ApproxMassError(f"{wanted}{tuple(found.shape)}", code="no-density")


@torch.no_grad()
def _check_flat(log_prob: LogProb, x: Tensor, log_p: Tensor) -> None:
    """Refuse log-densities without a gradient in x that are not flat: a mass of 0 would be wrong.

    Some densities are flat, as the uniform one is; others were cut off from x.
    """
    for step in (1e-3, -1e-3):
        try:
            beside = log_prob(x + step * (1 + x.abs()))
        except ValueError:  # outside of the support, says the density
            continue
        # Where it becomes infinite, the edge of the support lies between.
        if bool(((beside != log_p) & beside.isfinite() & log_p.isfinite()).any()):
            raise ApproxMassError(
                "log_prob depends on x but has no gradient in it: compute it without no_grad, "
                "detach or NumPy",
                code="no-density",
            )


def approximate_mass(log_prob: LogProb, x: Tensor, *, create_graph: bool = False) -> Tensor:
    """Approximate mass `||d log p(x) / dx||` of each input, `(N,)`; see `log_prob_and_mass`.

    Example:
        >>> normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> approximate_mass(normal.log_prob, torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([5., 0.])
    """
    return log_prob_and_mass(log_prob, x, create_graph=create_graph)[1]


def training_terms(log_prob: LogProb, x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """What `penalized_loss` needs, each `(N,)` and differentiable: log-densities and masses.

    At `alpha` 0 the mass would not count: it is given as 0, and no second derivative is taken.
    """
    if alpha:
        return log_prob_and_mass(log_prob, x, create_graph=True)
    _check_input(log_prob, x)
    log_p = _values(log_prob, x)
    if torch.is_grad_enabled() and not log_p.requires_grad:  # nothing to learn, or cut off
        log_prob_and_mass(log_prob, x)  # refuses what it would at any other alpha
    return log_p, torch.zeros_like(log_p)


def penalized_loss(
    log_p: Tensor, mass: Tensor, alpha: float, reduction: Reduction = "per-sample"
) -> Tensor:
    """Combine log-densities and masses, each `(N,)`, into the scalar of `penalized_nll`.

    Example:
        >>> penalized_loss(torch.tensor([-1.0, -3.0]), torch.tensor([1.0, 3.0]), alpha=0.5)
        tensor(3.)
    """
    if reduction not in ("per-sample", "batch-mean"):
        raise ApproxMassError(
            f"reduction must be 'per-sample' or 'batch-mean', not {reduction!r}", code="bad-option"
        )
    # The gradient of the batch mean is 1/N of each row's own gradient.
    weight = alpha if reduction == "per-sample" else alpha / len(log_p)
    return weight * mass.mean() - log_p.mean()


def penalized_nll(
    log_prob: LogProb, x: Tensor, alpha: float, *, reduction: Reduction = "per-sample"
) -> Tensor:
    """Training objective: negative log-likelihood plus `alpha` times the approximate mass.

    `per-sample` is `mean_i [ -log p(x_i) + alpha ||d log p(x_i) / dx_i|| ]` (equation 2 of the
    paper, read per image). `batch-mean` differentiates the *mean* log-likelihood of the batch
    instead, as the authors' released code does: each norm then carries 1/N, so their `alpha` is
    `alpha / N` here.

    Arguments:
        log_prob: Maps a tensor `(N, ...)` to log-densities `(N,)` in nats.
        x: Inputs `(N, ...)`, floating point.
        alpha: Weight of the penalty, `>= 0`. At 0 no second derivative is taken.
        reduction: `per-sample` or `batch-mean`.

    Returns:
        A scalar in nats, differentiable with respect to the parameters of `log_prob`.

    Raises:
        ApproxMassError: a negative `alpha`, an unknown reduction, or as `log_prob_and_mass`.

    Example:
        >>> mean = torch.zeros(2, requires_grad=True)
        >>> density = torch.distributions.MultivariateNormal(mean, torch.eye(2)).log_prob
        >>> penalized_nll(density, torch.tensor([[3.0, 4.0]]), alpha=1.0).backward()
        >>> mean.grad  # of ||x - mean||^2 / 2 + ||x - mean||
        tensor([-3.6000, -4.8000])
    """
    if not alpha >= 0:
        raise ApproxMassError(f"alpha must be at least 0, not {alpha}", code="bad-option")
    log_p, mass = training_terms(log_prob, x, alpha)
    return penalized_loss(log_p, mass, alpha, reduction)
