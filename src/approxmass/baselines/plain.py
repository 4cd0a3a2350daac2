"""Plain scores that need no training to speak of: what a detector has to beat."""

__all__ = ["Gaussian", "NearestNeighbour", "PCAResidual", "PNGSize", "UntrainedFlow"]

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ..flows import RealNVP
from ..flows.pixels import dequantise
from ..machine import default_device
from ..mass import approximate_mass
from .base import Baseline, Images, Labels, in_batches


def _vectors(images: Images) -> NDArray[np.float32]:
    return (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32, copy=False)


@dataclass(kw_only=True)
class NearestNeighbour(Baseline):
    """Euclidean distance to the nearest training image, pixels in [0, 1].

    Example:
        >>> black, white = np.zeros((3, 1, 2, 2), np.uint8), np.full((1, 1, 2, 2), 255, np.uint8)
        >>> NearestNeighbour().fit(black).score(white)
        array([2.])
    """

    def _fit(
        self, images: Images, labels: Labels | None, outliers: Images | None, progress: bool
    ) -> dict[str, Tensor]:
        self._index(images)
        return {"images": torch.from_numpy(images)}

    def _revive(self) -> None:
        self._index(self._state["images"].numpy())

    def _index(self, images: Images) -> None:
        self._neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(_vectors(images))

    def _score(self, images: Images) -> NDArray[Any]:
        distances: NDArray[Any] = self._neighbours.kneighbors(_vectors(images))[0][:, 0]
        return distances


@dataclass(kw_only=True)
class PCAResidual(Baseline):
    """Norm of what the leading principal components of the training images leave out.

    Arguments:
        components: How many components; fewer where the images have fewer dimensions.
    """

    components: int = 64

    def _fit(
        self, images: Images, labels: Labels | None, outliers: Images | None, progress: bool
    ) -> dict[str, Tensor]:
        x = _vectors(images)
        pca = PCA(min(self.components, *x.shape), random_state=self.seed).fit(x)
        return {"mean": torch.from_numpy(pca.mean_), "axes": torch.from_numpy(pca.components_)}

    def _score(self, images: Images) -> NDArray[Any]:
        mean, axes = (self._state[name].double().numpy() for name in ("mean", "axes"))
        x = _vectors(images).astype(np.float64) - mean
        norms: NDArray[Any] = np.linalg.norm(x - x @ axes.T @ axes, axis=1)
        return norms


@dataclass(kw_only=True)
class Gaussian(Baseline):
    """Mahalanobis distance of the pixels in [0, 1] to their mean, covariance by Ledoit and Wolf."""

    def _fit(
        self, images: Images, labels: Labels | None, outliers: Images | None, progress: bool
    ) -> dict[str, Tensor]:
        fitted = LedoitWolf().fit(_vectors(images).astype(np.float64))
        learnt = {"mean": fitted.location_, "precision": fitted.precision_}
        return {name: torch.tensor(value) for name, value in learnt.items()}

    def _score(self, images: Images) -> NDArray[Any]:
        mean, precision = (self._state[name].numpy() for name in ("mean", "precision"))
        offset = _vectors(images).astype(np.float64) - mean
        distances: NDArray[Any] = np.sqrt(np.einsum("nd,nd->n", offset @ precision, offset))
        return distances


@dataclass(kw_only=True)
class UntrainedFlow(Baseline):
    """Approximate mass of the pixels under a compact RealNVP as it was initialised.

    What a trained flow has to add to its own logit transform and random weights.
    """

    def _fit(
        self, images: Images, labels: Labels | None, outliers: Images | None, progress: bool
    ) -> dict[str, Tensor]:
        self._make(images.shape[1:])
        return dict(self._flow.state_dict())

    def _revive(self) -> None:
        self._make(self.shape)
        self._flow.load_state_dict(self._state)

    def _make(self, shape: tuple[int, ...]) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._flow = RealNVP.preset("compact", shape).to(default_device()).eval()
        # The same noise for every image, so that a score depends on its image alone.
        generator = torch.Generator().manual_seed(self.seed)
        self._noise = dequantise(torch.zeros(1, *shape), generator).to(default_device())

    def _score(self, images: Images) -> NDArray[Any]:
        masses: NDArray[Any] = in_batches(
            lambda x: approximate_mass(self._flow.log_prob, x + self._noise), images, 64
        ).numpy()
        return masses


@dataclass(kw_only=True)
class PNGSize(Baseline):
    """Distance of an image's PNG size in bytes from the mean of the training images.

    To both sides, because nobody says beforehand whether outliers are simpler or busier.
    """

    def _fit(
        self, images: Images, labels: Labels | None, outliers: Images | None, progress: bool
    ) -> dict[str, Tensor]:
        return {"mean": torch.tensor(_png_bytes(images).mean(), dtype=torch.float64)}

    def _score(self, images: Images) -> NDArray[Any]:
        return np.abs(_png_bytes(images) - self._state["mean"].item())


def _png_bytes(images: Images) -> NDArray[np.float64]:
    sizes = []
    for image in images:
        buffer = io.BytesIO()
        pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
        sizes.append(buffer.tell())
    return np.array(sizes, np.float64)
