"""Whitening by a covariance shrunk as Ledoit and Wolf (2004) do, in all dimensions."""

__all__ = ["shrunk_covariance", "symmetric_root", "unit"]

import torch
from sklearn.covariance import LedoitWolf
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..errors import ApproxMassError

# Of a vector without length.
_FLOOR = 1e-12


def shrunk_covariance(centered: Tensor) -> tuple[Tensor, Tensor]:
    """Variances `(D,)`, growing, and axes `(D, D)`, in columns, of rows of mean 0, `(N, D)`.

    Raises:
        ApproxMassError: the rows are all the same.

    Example:
        >>> rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).double()
        >>> variances, axes = shrunk_covariance(rows * torch.tensor([1.0, 10.0]))
        >>> variances.sqrt().round().tolist()
        [1.0, 10.0]
    """
    with threadpool_limits(1):  # so that the numbers do not depend on the number of threads
        fitted = LedoitWolf(assume_centered=True).fit(centered.numpy())
    variances, axes = torch.linalg.eigh(torch.from_numpy(fitted.covariance_))
    if not variances[0] > 0:
        raise ApproxMassError(
            "nearly all images are the same: there is nothing to learn from them",
            code="no-variation",
        )
    return variances, axes


def symmetric_root(variances: Tensor, axes: Tensor) -> Tensor:
    """The symmetric inverse root `(D, D)`: rows times it are uncorrelated, each of variance 1."""
    return (axes * variances.rsqrt()) @ axes.T


def unit(rows: Tensor) -> Tensor:
    """Each row `(..., D)` divided by its length.

    Example:
        >>> unit(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    scaled: Tensor = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(_FLOOR)
    return scaled
