"""Mahalanobis distance in the features of a classifier (Lee, Lee, Lee & Shin, NeurIPS 2018)."""

__all__ = ["Mahalanobis", "MahalanobisSeesOOD"]

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegressionCV
from torch import Tensor

from ..arrays import Labels, Pixels, Shape
from ..errors import ApproxMassError
from ..models.base import Statistic
from ..runtime.random import seeded_generator
from ..training.holdout import hold_out_tenth
from .classifier import ClassifierBaseline, input_gradient

# An L2 penalty. It is the default of scikit-learn before 1.8, which ignores `l1_ratios` with a
# warning; later versions warn where these two are not given.
_RIDGE: dict[str, Any] = {"l1_ratios": (0,), "use_legacy_attributes": False}
if "use_legacy_attributes" not in signature(LogisticRegressionCV).parameters:
    _RIDGE = {}


@dataclass(kw_only=True)
class Mahalanobis(ClassifierBaseline):
    """Half the squared distance to the nearest class mean under a covariance tied over classes.

    With `layers="ensemble"`, the distances in the stem and the three groups are weighed by a
    logistic regression that tells held-out images from FGSM adversaries of them; no outlier is
    seen.

    Arguments:
        layers: `penultimate` features, or the `ensemble` of all layers.
        magnitude: Input perturbation in pixels of [0, 1], towards the nearest mean; 0 for none.
        fgsm: Size of the adversarial step, in pixels of [0, 1] (ensemble only; our choice).
    """

    name: ClassVar[str] = "mahalanobis"
    statistic: ClassVar[Statistic] = Statistic(
        "mahalanobis", "half the squared Mahalanobis distance"
    )

    layers: Literal["penultimate", "ensemble"] = "penultimate"
    magnitude: float = 0.0
    fgsm: float = 0.05

    @property
    def fewest(self) -> int:
        """Images that it needs; the logistic regression is cross-validated on a tenth of them."""
        return 20 if self.layers == "penultimate" else 60

    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        assert labels is not None
        rows, held = hold_out_tenth(self._units, self.seed)
        network = self._train(images[rows], labels[rows], int(labels.max()) + 1, progress)
        state = self._network_state(network)
        features = self._in_batches(
            lambda x: torch.cat(network.layers(x), 1), images[rows]
        ).double()
        sizes = [16, 16 * self.width, 32 * self.width, 64 * self.width]
        for k, values in enumerate(torch.split(features, sizes, 1)):
            if k in self._used():
                state |= {
                    f"{name}.{k}": torch.from_numpy(value)
                    for name, value in class_gaussians(values.numpy(), labels[rows]).items()
                }
        self._take_gaussians(state)
        if self.layers == "ensemble":
            others = self._negatives(images[held], labels[held], outliers)
            x = np.concatenate([self._distances(images[held]), self._distances(others)])
            y = np.repeat([0, 1], [len(held), len(others)])
            scale = x.std(0) + 1e-12
            weigher = LogisticRegressionCV(Cs=10, scoring="neg_log_loss", **_RIDGE)
            weigher.fit(x / scale, y)
            state["weigher"] = torch.from_numpy(weigher.coef_[0] / scale)
        return state

    def _revive(self, shape: Shape) -> None:
        super()._revive(shape)
        self._take_gaussians(self._state)

    def _take_gaussians(self, state: Mapping[str, Tensor]) -> None:
        """Put means and precisions of the layers in use where the distances are computed."""
        self._gaussians = {
            k: (state[f"mean.{k}"].to(self.device), state[f"precision.{k}"].to(self.device))
            for k in self._used()
        }

    def _negatives(
        self, images: Pixels, labels: Labels, outliers: Pixels | None
    ) -> Pixels | Tensor:
        """What the logistic regression learns to tell from `images`."""
        x = torch.from_numpy(images).float() / 255
        parts = []
        for batch, classes in zip(
            torch.split(x, 256), torch.split(torch.from_numpy(labels), 256), strict=True
        ):

            def loss(batch: Tensor, y: Tensor = classes) -> Tensor:
                return F.cross_entropy(self.network(batch), y.to(batch.device), reduction="none")

            sign = input_gradient(loss, batch.to(self.network.mean.device)).sign().cpu()
            parts.append((batch + self.fgsm * sign).clamp(0, 1))
        return torch.cat(parts)

    def _used(self) -> list[int]:
        return [3] if self.layers == "penultimate" else [0, 1, 2, 3]

    def _distances(self, images: Pixels | Tensor) -> NDArray[np.float64]:
        """Half squared distances `(N, L)` of pixels to the nearest mean in each layer in use."""
        distances: NDArray[np.float64] = self._in_batches(self._perturbed_distances, images).numpy()
        return distances

    def _perturbed_distances(self, x: Tensor) -> Tensor:
        if not self.magnitude:  # one pass for all layers
            layers = self.network.layers(x)
            return torch.stack([self._to_nearest(k, layers[k]) for k in self._used()], 1)
        columns = []
        for k in self._used():
            gradient = input_gradient(partial(self.distance, k), x)
            nearer = x - self.magnitude * (2.0 * (gradient >= 0) - 1.0)
            columns.append(self.distance(k, nearer))
        return torch.stack(columns, 1)

    def distance(self, layer: int, x: Tensor) -> Tensor:
        """Half the squared distance `(N,)` of pixels `(N, C, H, W)` to the nearest class mean.

        Arguments:
            layer: 0 for the stem, 1 to 3 for the groups.
            x: In [0, 1].
        """
        return self._to_nearest(layer, self.network.layers(x)[layer])

    def _to_nearest(self, layer: int, features: Tensor) -> Tensor:
        mean, precision = self._gaussians[layer]
        offset = features.double()[:, None] - mean
        return 0.5 * torch.einsum("nkd,de,nke->nk", offset, precision, offset).amin(1)

    def _score(self, images: Pixels) -> NDArray[Any]:
        distances = self._distances(images)
        if self.layers == "penultimate":
            return distances[:, 0]
        weighed: NDArray[Any] = distances @ self._state["weigher"].numpy()
        return weighed


@dataclass(kw_only=True)
class MahalanobisSeesOOD(Mahalanobis):
    """The layer ensemble fitted on images of the outliers that it will be tested on.

    As in the authors' main tables. It is no detector for outliers unknown: give it another split
    than the one tested, and say beside every number that it has seen the set.
    """

    name: ClassVar[str] = "mahalanobis-sees-ood"
    statistic: ClassVar[Statistic] = Statistic(
        "mahalanobis-sees-ood", "layer ensemble fitted on outliers"
    )

    takes_outliers: ClassVar[bool] = True
    needs_outliers: ClassVar[bool] = True

    layers: Literal["penultimate", "ensemble"] = "ensemble"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers != "ensemble":
            raise ApproxMassError(
                "only the layer ensemble can be fitted on outliers", code="bad-option"
            )

    def _negatives(
        self, images: Pixels, labels: Labels, outliers: Pixels | None
    ) -> Pixels | Tensor:
        assert outliers is not None
        order = torch.randperm(len(outliers), generator=seeded_generator(self.seed, "outliers", 0))
        some: Pixels = outliers[order[: len(images)].numpy()]
        return some


def class_gaussians(
    features: NDArray[np.float64], labels: Labels
) -> dict[str, NDArray[np.float64]]:
    """Class means `(K, D)` and the precision `(D, D)` of the covariance tied over the classes.

    Example:
        >>> x = np.array([[0.0], [2.0], [10.0], [14.0]])
        >>> found = class_gaussians(x, np.array([0, 0, 1, 1]))
        >>> found["mean"].tolist(), found["precision"].tolist()  # variance (1 + 1 + 4 + 4) / 4
        ([[1.0], [12.0]], [[0.4]])
    """
    classes = int(labels.max()) + 1
    mean = np.stack([features[labels == k].mean(0) for k in range(classes)])
    tied = EmpiricalCovariance(assume_centered=True).fit(features - mean[labels])
    return {"mean": mean, "precision": tied.precision_}
