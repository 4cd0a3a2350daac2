"""Whitening by a covariance shrunk as Ledoit and Wolf (2004) do, in all dimensions."""

__all__ = ["shrunk_covariance", "symmetric_root", "unit"]

import torch
from torch import Tensor

from ..errors import ApproxMassError
from ..runtime.machine import one_blas_thread

# Of a vector without length.
_FLOOR = 1e-12


def shrunk_covariance(centered: Tensor, *, times: float = 1.0) -> tuple[Tensor, Tensor]:
    """Variances `(D,)`, growing, and axes `(D, D)`, in columns, of rows of mean 0, `(N, D)`.

    Arguments:
        centered: The rows.
        times: How often each is there. By copies a covariance is no better known, and so it is
            shrunk that much more than Ledoit and Wolf would shrink one of so many rows; by one
            part in the number of different rows, at least.

    Raises:
        ApproxMassError: the rows are all the same.

    Example:
        >>> rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).double()
        >>> variances, axes = shrunk_covariance(rows * torch.tensor([1.0, 10.0]))
        >>> variances.sqrt().round().tolist()
        [1.0, 10.0]
        >>> few = rows[:20]
        >>> twice = shrunk_covariance(few.repeat(2, 1), times=2)[0]
        >>> bool(torch.allclose(twice, shrunk_covariance(few)[0]))
        True
    """
    with one_blas_thread():
        plain = centered.T @ centered / len(centered)
    shrinkage = _shrinkage(centered, plain)
    # Two different images give no reason to doubt; but what is not seen is not known to be 0.
    share = min(1.0, max(shrinkage, times * max(shrinkage, 1 / len(centered))))
    equal = plain.diagonal().mean() * torch.eye(len(plain), dtype=plain.dtype)
    covariance = (1 - share) * plain + share * equal
    variances, axes = torch.linalg.eigh(covariance)
    if not variances[0] > 0:
        raise ApproxMassError(
            "nearly all images are the same: there is nothing to learn from them",
            code="no-variation",
        )
    return variances, axes


def _shrinkage(centered: Tensor, plain: Tensor) -> float:
    """The share of the sphere that Ledoit and Wolf (2004, lemma 3.2 to 3.5) mix in.

    As scikit-learn's, which for wide rows takes as long as all else: a sum over the products of
    all pairs of squared columns is one over the fourth powers of the lengths of rows.
    """
    count, columns = centered.shape
    mean, size = plain.diagonal().mean(), plain.square().sum()
    error = (centered.square().sum(1).square().mean() - size) / count
    spread = size - columns * mean**2
    return 0.0 if error <= 0 or spread <= 0 else float(min(error / spread, torch.tensor(1.0)))


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
