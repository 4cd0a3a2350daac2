"""Embeddings and tables: columns brought to one scale and whitened in all dimensions."""

__all__ = ["VectorEncoder"]


import torch
from torch import Tensor

from ..arrays import Shape
from ..data.copies import among, folds_of, times_of
from ..errors import ApproxMassError
from ..runtime.random import seeded_generator
from .base import Encoder, UnitOf
from .ledoit_wolf import shrunk_covariance, symmetric_root

# The whitening sees at most this many numbers, of rows drawn at random.
_NUMBERS = 2**24
_FOLDS = 5
# A column that varies by less than this share of its size does not vary.
_FLAT = 1e-9


class VectorEncoder(Encoder):
    """Rows of numbers, each column less its mean and over its deviation, then made uncorrelated.

    The whitening is the symmetric inverse root of the correlations, shrunk by Ledoit and Wolf. So
    a code has a number for each column, and its squared length is a squared Mahalanobis distance. A
    column that does not vary keeps the unit that it has.

    Arguments:
        columns: How many.

    Example:
        >>> rows = torch.randn(500, 1, 1, 3, generator=torch.Generator().manual_seed(0)) * 9 + 5
        >>> codes = VectorEncoder(3).fit_transform(rows.double())
        >>> codes.shape, round(float(codes.std()), 1)
        (torch.Size([500, 3]), 1.0)
    """

    center: Tensor
    scale: Tensor
    whitening: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(columns, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(columns, dtype=torch.float64))
        self.register_buffer("whitening", torch.zeros(columns, columns))

    @property
    def dimension(self) -> int:
        """Numbers of a code: one a column."""
        return len(self.center)

    @property
    def names(self) -> list[str]:
        """None: a number of a code is mixed with others."""
        return []

    def fits(self, shape: Shape) -> bool:
        """Rows of as many numbers."""
        return shape == (1, 1, self.dimension)

    def features(self, views: Tensor) -> dict[str, Tensor]:
        """The columns at one scale."""
        return {"columns": self.scaled(views)}

    @torch.no_grad()
    def fit_transform(
        self,
        views: Tensor,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        units: UnitOf | None = None,
    ) -> Tensor:
        """Learn scales and correlations; returns codes `(N, D)` as new rows have them.

        The code of each row is by a whitening that has not seen it, nor its unit (five folds).

        Raises:
            ApproxMassError: fewer than five rows, or rows that do not differ.
        """
        rows = views.flatten(1).double()
        if len(rows) < _FOLDS:
            raise ApproxMassError(
                f"whitening needs at least {_FOLDS} rows, not {len(rows)}", code="too-few"
            )
        order = torch.randperm(len(rows), generator=seeded_generator(seed, "folds", 0))
        most = max(10, _NUMBERS // rows.shape[1])
        seen, codes = order[:most], torch.empty(rows.shape)
        for held, others in folds_of(seen, units, _FOLDS):
            self._learn(rows[others], among(units, others))
            codes[held] = self.codes(rows[held])
        self._learn(rows[seen], among(units, seen))
        codes[order[most:]] = self.codes(rows[order[most:]])
        self.to(device or "cpu")
        return codes

    def _learn(self, rows: Tensor, units: UnitOf | None) -> None:
        center = rows.mean(0)
        spread = (rows - center).square().mean(0).sqrt()
        flat = spread <= _FLAT * center.abs()
        if bool(flat.all()):
            raise ApproxMassError(
                "all rows are the same: there is nothing to learn from them", code="no-variation"
            )
        self.center, self.scale = center, torch.where(flat, 1.0, spread)
        values = (rows - center) / self.scale
        variances, axes = shrunk_covariance(values, times=times_of(units))
        self.whitening = symmetric_root(variances, axes).float()

    def scaled(self, views: Tensor) -> Tensor:
        """Columns at one scale, `(N, D)` float32: differences of large numbers are taken before."""
        return ((views.flatten(1).double() - self.center) / self.scale).float()

    def whitened(self, scaled: Tensor) -> Tensor:
        """Codes `(N, D)` of columns at one scale."""
        return scaled @ self.whitening

    def codes(self, views: Tensor) -> Tensor:
        """Codes `(N, D)` of views."""
        return self.whitened(self.scaled(views))

    def summary(self, views: Tensor) -> Tensor:
        """The codes, in which rows are near to each other or far."""
        return self.codes(views)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows `(N, 1, 1, D)` to codes `(N, D)`."""
        return self.codes(x)

    def extra_repr(self) -> str:
        """For `print`."""
        return f"{self.dimension} columns"

    def __repr__(self) -> str:
        return f"VectorEncoder({self.extra_repr()})"
