"""A detector in the words of pytorch-ood: fitted on a loader, or on features; scores as tensors."""

__all__ = ["ApproximateMass"]

from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..detector import Detector
from ..errors import ApproxMassError


class ApproximateMass:
    """A normalizing flow over what a model makes of its inputs, or over the images themselves.

    Labels are pytorch-ood's: of a loader's `(x, y)` those with y below 0 are out-of-distribution,
    and left out of a fit; classes are not needed. Scores are larger for what is more
    out-of-distribution. pytorch-ood itself is not needed.

    Arguments:
        model: From inputs to features `(N, ...)`, such as a network without its last layer, in
            eval mode; flattened, they are rows of numbers. None: inputs are images in [0, 1], and
            the detector's own encoder sees them.
        options: Those of `Detector`.

    Attributes:
        detector: The `Detector`, there after a fit.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> generator = torch.Generator().manual_seed(0)
        >>> usual = TensorDataset(torch.randn(200, 1, 4, 4, generator=generator), torch.zeros(200))
        >>> method = ApproximateMass(nn.Flatten()).fit(DataLoader(usual, batch_size=50))
        >>> near, far = method(torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 5.0)]))
        >>> bool(near < far)
        True
        >>> bool(method.p_values(torch.full((1, 1, 4, 4), 5.0)) <= 0.05)
        True
    """

    def __init__(self, model: Callable[[Tensor], Tensor] | None = None, **options: Any) -> None:
        self.model = model
        self._options = options
        self.detector = Detector(**options)

    def __call__(self, x: Tensor) -> Tensor:
        """As `predict`."""
        return self.predict(x)

    def fit(self, data_loader: Iterable[Any], device: str | torch.device | None = None) -> Self:
        """Learn from the in-distribution part of a loader.

        Arguments:
            data_loader: Of batches `(x, y)`.
            device: Where the model is; None for where its parameters are.

        Raises:
            ApproxMassError: no pairs, or nothing in-distribution in the loader, or what
                `Detector.fit` refuses.
        """
        found = []
        for batch in data_loader:
            if not isinstance(batch, list | tuple) or len(batch) != 2:
                raise ApproxMassError(
                    f"the loader gives {type(batch).__name__}, not pairs (x, y): give a label to "
                    "each input, 0 where it is in-distribution",
                    code="bad-source",
                )
            usual = _usual(*batch)
            if len(usual):
                found.append(self._seen(usual, device))
        if not found:
            raise ApproxMassError(
                "the loader has nothing in-distribution: it is empty, or every y is below 0",
                code="too-few",
            )
        return self._fit(torch.cat(found))

    def fit_features(self, x: Tensor, y: Tensor | None = None) -> Self:
        """Learn from features `(N, D)`; those of labels y `(N,)` below 0 are left out.

        Raises:
            ApproxMassError: as `Detector.fit`.
        """
        return self._fit(_rows(x if y is None else _usual(x, y)))

    def predict(self, x: Tensor) -> Tensor:
        """Scores `(N,)`, float64, of inputs; larger = more out-of-distribution.

        Raises:
            ApproxMassError: nothing has been learnt yet.
        """
        return torch.from_numpy(self.detector.score(self._seen(x, None)).statistic)

    def predict_features(self, x: Tensor) -> Tensor:
        """As `predict`, of features `(N, D)`."""
        return torch.from_numpy(self.detector.score(_rows(x)).statistic)

    def p_values(self, x: Tensor) -> Tensor:
        """Conformal p-values `(N,)`, float64, of inputs; small = out-of-distribution."""
        return torch.from_numpy(self.detector.score(self._seen(x, None)).p_value)

    def _fit(self, seen: Tensor) -> Self:
        self.detector = Detector(**self._options).fit(seen)
        return self

    @torch.no_grad()
    def _seen(self, x: Tensor, device: str | torch.device | None) -> Tensor:
        """What the detector is given of inputs: features, or the images themselves."""
        if self.model is None:
            return x.detach().cpu()
        if device is None and isinstance(self.model, nn.Module):
            device = next((p.device for p in self.model.parameters()), None)
        return _rows(self.model(x if device is None else x.to(device)))


def _usual(x: Tensor, y: Any) -> Tensor:
    """The inputs that are not labelled as out-of-distribution."""
    usual = torch.as_tensor(y) >= 0
    if usual.shape != x.shape[:1]:
        raise ApproxMassError(
            f"there are labels {tuple(usual.shape)} for {len(x)} inputs: give each one",
            code="bad-labels",
        )
    return x[usual]


def _rows(features: Any) -> Tensor:
    """Features as rows; one number each is a row of one."""
    known = torch.as_tensor(features).detach().cpu()
    return known[:, None] if known.dim() == 1 else known.flatten(1)
