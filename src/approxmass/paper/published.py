"""The numbers of the paper's tables and text, as printed there."""

__all__ = ["AVERAGES", "MASS", "TABLE1", "TABLE2", "TABLE3", "TABLE4", "Average", "Row"]

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One row of Table 2; the paper does not say which class is positive."""

    method: str
    id: str
    ood: str
    auroc: float
    aupr: float
    tnr95: float  # TNR at 95% TPR


@dataclass(frozen=True)
class Average:
    """A mean AUROC in percent as the paper's text has it, and where its terms are."""

    claim: float
    table: str
    method: str
    id: str | None = None  # only rows of this in-distribution set
    without: tuple[str, ...] = ()  # but for these outliers


# Mode of training, in-distribution set, outliers, AUROC.
TABLE1 = [
    ("vanilla", "FashionMNIST", "MNIST", 0.977),
    ("penalised", "FashionMNIST", "MNIST", 0.994),
    ("vanilla", "CIFAR-10", "SVHN", 0.0008),
    ("penalised", "CIFAR-10", "SVHN", 0.969),
]

_GODIN, _MAHALANOBIS, _ENERGY, MASS = "G-ODIN", "Mahalanobis", "Energy", "approximate mass"
_CIFAR, _FASHION = "CIFAR-10", "FashionMNIST"

TABLE2 = [
    Row(_GODIN, _CIFAR, "SVHN", 0.810, 0.804, 0.355),
    Row(_MAHALANOBIS, _CIFAR, "SVHN", 0.936, 0.926, 0.758),
    Row(_ENERGY, _CIFAR, "SVHN", 0.999, 1.0, 1.0),
    Row(MASS, _CIFAR, "SVHN", 0.969, 0.969, 1.0),
    Row(_GODIN, _CIFAR, "iNaturalist", 0.581, 0.552, 0.124),
    Row(_MAHALANOBIS, _CIFAR, "iNaturalist", 0.745, 0.715, 0.290),
    Row(_ENERGY, _CIFAR, "iNaturalist", 0.647, 0.902, 0.872),
    Row(MASS, _CIFAR, "iNaturalist", 0.968, 0.906, 0.994),
    Row(_GODIN, _CIFAR, "iNaturalist (plants)", 0.581, 0.552, 0.124),
    Row(_MAHALANOBIS, _CIFAR, "iNaturalist (plants)", 0.731, 0.706, 0.166),
    Row(_ENERGY, _CIFAR, "iNaturalist (plants)", 0.587, 0.881, 0.077),
    Row(MASS, _CIFAR, "iNaturalist (plants)", 0.968, 0.799, 0.991),
    Row(_GODIN, _CIFAR, "DTD", 0.882, 0.887, 0.53),
    Row(_MAHALANOBIS, _CIFAR, "DTD", 0.857, 0.788, 0.576),
    Row(_ENERGY, _CIFAR, "DTD", 0.734, 0.912, 0.341),
    Row(MASS, _CIFAR, "DTD", 0.978, 0.979, 1.0),
    Row(_GODIN, _CIFAR, "Places365", 0.616, 0.577, 0.157),
    Row(_MAHALANOBIS, _CIFAR, "Places365", 0.522, 0.518, 0.08),
    Row(_ENERGY, _CIFAR, "Places365", 0.753, 0.937, 0.177),
    Row(MASS, _CIFAR, "Places365", 0.968, 0.936, 0.978),
    Row(_GODIN, _CIFAR, "GTSRB", 0.411, 0.450, 0.072),
    Row(_MAHALANOBIS, _CIFAR, "GTSRB", 0.764, 0.681, 0.356),
    Row(_ENERGY, _CIFAR, "GTSRB", 0.890, 0.975, 0.582),
    Row(MASS, _CIFAR, "GTSRB", 0.970, 0.970, 1.0),
    Row(_GODIN, _FASHION, "MNIST", 0.535, 0.611, 0.008),
    Row(_MAHALANOBIS, _FASHION, "MNIST", 0.995, 0.995, 0.994),
    Row(_ENERGY, _FASHION, "MNIST", 1.0, 1.0, 1.0),
    Row(MASS, _FASHION, "MNIST", 0.994, 0.971, 1.0),
    Row(_GODIN, _FASHION, "EMNIST", 0.870, 0.885, 0.425),
    Row(_MAHALANOBIS, _FASHION, "EMNIST", 0.995, 0.995, 0.982),
    Row(_ENERGY, _FASHION, "EMNIST", 0.990, 0.998, 0.955),
    Row(MASS, _FASHION, "EMNIST", 0.969, 0.969, 1.0),
    Row(_GODIN, _FASHION, "KMNIST", 0.328, 0.391, 0.019),
    Row(_MAHALANOBIS, _FASHION, "KMNIST", 0.990, 0.990, 0.948),
    Row(_ENERGY, _FASHION, "KMNIST", 0.981, 0.995, 0.917),
    Row(MASS, _FASHION, "KMNIST", 1.0, 0.996, 1.0),
]

# AUROC of each class against the other nine.
TABLE3 = {
    "GradCon": (0.995, 0.999, 0.952, 0.973, 0.969, 0.977, 0.994, 0.979, 0.919, 0.973),
    "OCGAN": (0.998, 0.999, 0.942, 0.963, 0.975, 0.980, 0.991, 0.981, 0.939, 0.981),
    MASS: (0.969, 0.064, 0.629, 0.924, 0.796, 0.946, 0.977, 0.682, 0.969, 0.572),
}
TABLE4 = {
    "GradCon": (0.760, 0.598, 0.648, 0.586, 0.733, 0.603, 0.684, 0.567, 0.784, 0.678),
    "OCGAN": (0.757, 0.531, 0.640, 0.620, 0.723, 0.620, 0.723, 0.575, 0.820, 0.554),
    MASS: (0.855, 0.605, 0.756, 0.835, 0.574, 0.801, 0.797, 0.862, 0.871, 0.656),
}

AVERAGES = [
    Average(97.0, "Table 2", MASS, _CIFAR),
    Average(98.7, "Table 2", MASS, _FASHION),
    Average(97.6, "Table 2", MASS),
    Average(62.4, "Table 2", _GODIN),
    Average(83.8, "Table 2", _MAHALANOBIS),
    Average(84.0, "Table 2", _ENERGY),
    Average(79.44, "Table 2", _ENERGY, without=("SVHN", "MNIST")),
    Average(75.2, "Table 3", MASS),
    Average(97.3, "Table 3", "GradCon"),
    Average(97.5, "Table 3", "OCGAN"),
    Average(76.1, "Table 4", MASS),
    Average(66.4, "Table 4", "GradCon"),
    Average(65.7, "Table 4", "OCGAN"),
]
