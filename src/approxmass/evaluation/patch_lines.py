"""Plain lines on the patches behind a detector: what its patch level has to beat."""

__all__ = ["PatchLines"]

from collections.abc import Callable

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from ..arrays import Floats
from ..encoders.ledoit_wolf import shrunk_covariance, symmetric_root
from ..encoders.patches import Patches
from ..models.parts import highest
from ..runtime.machine import one_blas_thread
from ..runtime.random import seeded_generator

Score = Callable[[Tensor, Tensor], Tensor]

_COMPONENTS, _MEMORY, _MOST = 64, 10_000, 20_000
# A place seen less often has the Gaussian of all places.
_FEWEST = 20


class PatchLines:
    """Scores of images by their patches, as `Model.patches` gives them.

    An image's score is the mean of the highest twentieth of its places, as with the flow.

    Arguments:
        training: Patches of training images.
        seed: Fixes what is drawn.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> places = torch.arange(4).expand(100, 4)
        >>> usual = Patches(torch.randn(100, 4, 8, generator=generator), places)
        >>> lines = PatchLines(usual, seed=0)
        >>> sorted(lines.scores(usual))[0], lines.scores(usual)["patches: Mahalanobis"].shape
        ('patches: Gaussian a place', (100,))
    """

    def __init__(self, training: Patches, *, seed: int) -> None:
        known = training.places >= 0
        rows, places = training.values[known], training.places[known]
        order = torch.randperm(len(rows), generator=seeded_generator(seed, "patch lines", 0))
        some = rows[order[:_MOST]]
        with one_blas_thread():
            self._lines: dict[str, Score] = {
                "Mahalanobis": _mahalanobis(some),
                "PCA residual": _residual(some, seed),
                "nearest neighbour": _nearest(rows[order[:_MEMORY]]),
                "Gaussian a place": _gaussians(rows, places),
            }

    def scores(self, patches: Patches) -> dict[str, Floats]:
        """Scores `(N,)` by line, of whole views of images."""
        known = patches.places >= 0
        rows, found = patches.values[known], {}
        for name, score in self._lines.items():
            values = torch.full(known.shape, -torch.inf, dtype=torch.float64)
            values[known] = score(rows, patches.places[known]).double()
            found[f"patches: {name}"] = highest(values).numpy()
        return found


def _mahalanobis(training: Tensor) -> Score:
    center = training.mean(0)
    root = symmetric_root(*shrunk_covariance((training - center).double())).float()
    return lambda rows, places: torch.linalg.vector_norm((rows - center) @ root, dim=1)


def _residual(training: Tensor, seed: int) -> Score:
    fitted = PCA(min(_COMPONENTS, training.shape[1] // 2), random_state=seed).fit(training.numpy())
    center, axes = (torch.from_numpy(of).float() for of in (fitted.mean_, fitted.components_))

    def score(rows: Tensor, places: Tensor) -> Tensor:
        away = rows - center
        length: Tensor = torch.linalg.vector_norm(away - (away @ axes.T) @ axes, dim=1)
        return length

    return score


def _nearest(memory: Tensor) -> Score:
    return lambda rows, places: torch.cat(
        [torch.cdist(some, memory).amin(1) for some in torch.split(rows, 4096)]
    )


def _gaussians(rows: Tensor, places: Tensor) -> Score:
    fallback = _mahalanobis(rows[:_MOST])
    seen = {place: rows[places == place] for place in set(places.tolist())}
    at = {place: _mahalanobis(here) for place, here in seen.items() if len(here) >= _FEWEST}

    def score(rows: Tensor, places: Tensor) -> Tensor:
        found = torch.empty(len(rows))
        for place in set(places.tolist()):
            here = places == place
            found[here] = at.get(place, fallback)(rows[here], places[here])
        return found

    return score
