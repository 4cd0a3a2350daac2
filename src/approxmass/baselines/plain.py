"""Plain scores that need no training to speak of: what a detector has to beat."""

__all__ = ["Gaussian", "NearestNeighbour", "PCAResidual", "PNGSize", "UntrainedFlow"]

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ..arrays import Labels, Pixels, Shape
from ..data.png import png_bytes
from ..flows import RealNVP
from ..flows.pixels import dequantise
from ..mass import approximate_mass
from ..models.base import Statistic
from ..runtime.random import seeded_init
from ..storage.tensors import load_exactly
from .base import Baseline


def _vectors(images: Pixels) -> NDArray[np.float32]:
    return (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32, copy=False)


@dataclass(kw_only=True)
class NearestNeighbour(Baseline):
    """Euclidean distance to the nearest training image, pixels in [0, 1].

    Example:
        >>> black, white = np.zeros((3, 1, 2, 2), np.uint8), np.full((1, 1, 2, 2), 255, np.uint8)
        >>> NearestNeighbour().fit(black).score(white)
        array([2.])
    """

    name: ClassVar[str] = "nearest-neighbour"
    statistic: ClassVar[Statistic] = Statistic(
        "nearest-neighbour", "distance to the nearest training image"
    )

    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        self._index(images)
        return {"images": torch.from_numpy(images)}

    def _revive(self, shape: Shape) -> None:
        self._index(self._state["images"].numpy())

    def _index(self, images: Pixels) -> None:
        self._neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(_vectors(images))

    def _score(self, images: Pixels) -> NDArray[Any]:
        distances: NDArray[Any] = self._neighbours.kneighbors(_vectors(images))[0][:, 0]
        return distances


@dataclass(kw_only=True)
class PCAResidual(Baseline):
    """Norm of what the leading principal components of the training images leave out.

    Arguments:
        components: How many components; fewer where the images have fewer dimensions.
    """

    name: ClassVar[str] = "pca-residual"
    statistic: ClassVar[Statistic] = Statistic("pca-residual", "PCA residual")

    components: int = 64

    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        x = _vectors(images)
        pca = PCA(min(self.components, *x.shape), random_state=self.seed).fit(x)
        return {"mean": torch.from_numpy(pca.mean_), "axes": torch.from_numpy(pca.components_)}

    def _score(self, images: Pixels) -> NDArray[Any]:
        mean, axes = (self._state[name].double().numpy() for name in ("mean", "axes"))
        x = _vectors(images).astype(np.float64) - mean
        norms: NDArray[Any] = np.linalg.norm(x - x @ axes.T @ axes, axis=1)
        return norms


@dataclass(kw_only=True)
class Gaussian(Baseline):
    """Mahalanobis distance of the pixels in [0, 1] to their mean, covariance by Ledoit and Wolf."""

    name: ClassVar[str] = "gaussian"
    statistic: ClassVar[Statistic] = Statistic("gaussian", "Mahalanobis distance of the pixels")

    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        fitted = LedoitWolf().fit(_vectors(images).astype(np.float64))
        learnt = {"mean": fitted.location_, "precision": fitted.precision_}
        return {name: torch.tensor(value) for name, value in learnt.items()}

    def _score(self, images: Pixels) -> NDArray[Any]:
        mean, precision = (self._state[name].numpy() for name in ("mean", "precision"))
        offset = _vectors(images).astype(np.float64) - mean
        distances: NDArray[Any] = np.sqrt(np.einsum("nd,nd->n", offset @ precision, offset))
        return distances


@dataclass(kw_only=True)
class UntrainedFlow(Baseline):
    """Approximate mass of the pixels under a compact RealNVP as it was initialised.

    What a trained flow has to add to its own logit transform and random weights.
    """

    name: ClassVar[str] = "untrained-flow"
    stride: ClassVar[int] = 4
    statistic: ClassVar[Statistic] = Statistic("untrained-flow", "approximate mass, untrained flow")

    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        self._make(images.shape[1:])
        return {k: v.detach().cpu() for k, v in self._flow.state_dict().items()}

    def _revive(self, shape: Shape) -> None:
        self._make(shape)
        load_exactly(self._flow, self._state)

    def _make(self, shape: tuple[int, ...]) -> None:
        with seeded_init(self.seed):
            self._flow = RealNVP.preset("compact", shape).to(self.device).eval()
        # The same noise for every image, so that a score depends on its image alone.
        generator = torch.Generator().manual_seed(self.seed)
        self._noise = dequantise(torch.zeros(1, *shape), generator).to(self.device)

    def _score(self, images: Pixels) -> NDArray[Any]:
        masses: NDArray[Any] = self._in_batches(
            lambda x: approximate_mass(self._flow.log_prob, x + self._noise), images, 64
        ).numpy()
        return masses


@dataclass(kw_only=True)
class PNGSize(Baseline):
    """Distance of an image's PNG size in bytes from the mean of the training images.

    To both sides, because nobody says beforehand whether outliers are simpler or busier.
    """

    name: ClassVar[str] = "png-size"
    together: ClassVar[int] = 1
    statistic: ClassVar[Statistic] = Statistic(
        "png-size", "distance from the mean PNG size", "bytes"
    )

    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        return {"mean": torch.tensor(_png_bytes(images).mean(), dtype=torch.float64)}

    def _score(self, images: Pixels) -> NDArray[Any]:
        return np.abs(_png_bytes(images) - self._state["mean"].item())


def _png_bytes(images: Pixels) -> NDArray[np.float64]:
    return np.array([len(png_bytes(image, optimize=True)) for image in images], np.float64)
