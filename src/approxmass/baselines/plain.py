"""Plain scores that need no training to speak of: what a flow has to beat.

Each takes uint8 images `(N, C, H, W)` and gives scores `(N,)`, larger = more out-of-distribution.
"""

__all__ = ["NearestNeighbour", "PCAResidual"]

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

Floats = NDArray[np.float64]
Images = NDArray[np.uint8]


def _vectors(images: Images) -> NDArray[np.float32]:
    return (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32, copy=False)


class NearestNeighbour:
    """Euclidean distance to the nearest training image, pixels in [0, 1].

    Example:
        >>> black, white = np.zeros((3, 1, 2, 2), np.uint8), np.full((1, 1, 2, 2), 255, np.uint8)
        >>> NearestNeighbour().fit(black).score(white)
        array([2.])
    """

    def fit(self, images: Images, labels: Any = None, outliers: Any = None) -> "NearestNeighbour":
        """Keep the training images; labels and outliers are not used."""
        self._index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(_vectors(images))
        return self

    def score(self, images: Images) -> Floats:
        """Distances `(N,)`."""
        distances: Floats = self._index.kneighbors(_vectors(images))[0][:, 0].astype(np.float64)
        return distances


class PCAResidual:
    """Norm of what the leading principal components of the training images leave out.

    Arguments:
        components: How many components; fewer where the images have fewer dimensions.
    """

    def __init__(self, components: int = 64) -> None:
        self.components = components

    def fit(self, images: Images, labels: Any = None, outliers: Any = None) -> "PCAResidual":
        """Fit the components; labels and outliers are not used."""
        x = _vectors(images)
        self._pca = PCA(min(self.components, *x.shape), random_state=0).fit(x)
        return self

    def score(self, images: Images) -> Floats:
        """Residual norms `(N,)`."""
        x = _vectors(images)
        rest = x - self._pca.inverse_transform(self._pca.transform(x))
        norms: Floats = np.linalg.norm(rest.astype(np.float64), axis=1)
        return norms
