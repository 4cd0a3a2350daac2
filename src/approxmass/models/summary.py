"""Two plain statistics of what a network sees in an image, beside the flow's."""

__all__ = ["Neighbour", "Residual"]

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor, nn

from ..data.copies import among, folds_of
from ..runtime.machine import one_blas_thread
from ..runtime.random import seeded_generator

_COMPONENTS, _FOLDS = 64, 5
# Images that the components are learnt from, and that are remembered: drawn at random.
_MOST = 4000


class Residual(nn.Module):
    """What the first 64 principal components of usual images leave of a summary: its length.

    Example:
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(8)
        >>> residual = Residual()
        >>> new = residual.fit(x, seed=0)  # of each image as if it were new
        >>> residual(x).shape, bool(residual(x + 1).mean() > residual(x).mean())
        (torch.Size([100]), True)
    """

    center: Tensor
    axes: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("center", "axes"):
            self.register_buffer(name, torch.empty(0))

    def fit(
        self, summaries: Tensor, *, seed: int, units: NDArray[np.int64] | None = None
    ) -> Tensor:
        """Learn from summaries `(N, C)` of images, of which those of a unit belong together.

        Returns:
            The statistic `(n,)` of up to 4,000 of them, each by components that have not seen its
            unit.
        """
        order = torch.randperm(len(summaries), generator=seeded_generator(seed, "residual", 0))
        order = order[:_MOST]
        seen = summaries[order]
        # With as many components as a fold's images nothing would be left of them.
        some = among(units, order)
        different = len(seen) if some is None else len(np.unique(some))
        kept = max(1, min(_COMPONENTS, different // 4, seen.shape[1] - 1))
        held_out = []
        for held, others in folds_of(torch.arange(len(seen)), some, _FOLDS):
            self._learn(seen[others], kept, seed)
            held_out.append(self(seen[held]))
        self._learn(seen, kept, seed)
        return torch.cat(held_out)

    def _learn(self, summaries: Tensor, kept: int, seed: int) -> None:
        with one_blas_thread():
            fitted = PCA(kept, random_state=seed).fit(summaries.double().cpu().numpy())
        self.center = torch.from_numpy(fitted.mean_).to(summaries)
        self.axes = torch.from_numpy(fitted.components_).to(summaries).contiguous()

    def forward(self, summaries: Tensor) -> Tensor:
        """The statistic `(N,)`."""
        centered = summaries - self.center
        rest = centered - (centered @ self.axes.T) @ self.axes
        length: Tensor = torch.linalg.vector_norm(rest, dim=1)
        return length


class Neighbour(nn.Module):
    """Distance of a summary from the nearest of those remembered.

    Arguments:
        numbers: The most that are remembered; None for those of 4,000 summaries.

    Example:
        >>> neighbour = Neighbour()
        >>> neighbour.fit(torch.eye(3), seed=0)  # of each to the nearest other
        tensor([1.4142, 1.4142, 1.4142])
        >>> neighbour(torch.eye(3)[:1])
        tensor([0.])
    """

    remembered: Tensor

    def __init__(self, numbers: int | None = None) -> None:
        super().__init__()
        self.numbers = numbers
        self.register_buffer("remembered", torch.empty(0, dtype=torch.float16))

    def fit(
        self, summaries: Tensor, *, seed: int, units: NDArray[np.int64] | None = None
    ) -> Tensor:
        """Remember up to 4,000 summaries `(N, C)` in half precision.

        Returns:
            Of each of these the distance `(n,)` to the nearest other, of another unit.
        """
        order = torch.randperm(len(summaries), generator=seeded_generator(seed, "neighbour", 0))
        most = _MOST if self.numbers is None else min(_MOST, self.numbers // summaries.shape[1])
        order = order[: max(1, most)]
        seen = summaries[order]
        self.remembered = seen.half()
        kept = self.remembered.to(seen)
        near = _nearness(seen, kept)
        near.fill_diagonal_(-torch.inf)
        some = among(units, order)
        if some is not None:
            of = torch.from_numpy(some).to(seen.device)
            near[of[:, None] == of] = -torch.inf
        return _apart(seen, kept[near.argmax(1)])

    def forward(self, summaries: Tensor) -> Tensor:
        """The statistic `(N,)`."""
        kept = self.remembered.to(summaries)
        return _apart(summaries, kept[_nearness(summaries, kept).argmax(1)])


def _nearness(a: Tensor, b: Tensor) -> Tensor:
    """Largest where a row of one is nearest to a row of the other."""
    return a @ b.T - 0.5 * b.square().sum(1)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    # Of the difference itself: by the cosine, rounding would be large where they are close.
    length: Tensor = torch.linalg.vector_norm(a - b, dim=1)
    return length
