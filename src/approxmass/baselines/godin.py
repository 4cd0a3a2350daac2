"""Generalized ODIN (Hsu, Shen, Jin & Kira, CVPR 2020)."""

__all__ = ["GODIN", "DecomposedHead"]

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arrays import Labels, Pixels, Shape
from ..models.base import Statistic
from ..training.holdout import hold_out_tenth
from .classifier import ClassifierBaseline, WideResNet, input_gradient

# The steps tried (in pixels of [0, 1]): the published grid, and none.
GRID = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)


class DecomposedHead(nn.Module):
    """Decomposed confidence: logits `f_i = h_i(phi) / g(phi)` with `g` in (0, 1) (section 3.1).

    Arguments:
        features: Length of phi.
        classes: Number of logits.
        kind: h is `I` the inner product, `E` minus the mean squared distance, `C` the cosine.
    """

    def __init__(self, features: int, classes: int, kind: Literal["I", "E", "C"]) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(classes)) if kind == "I" else None
        self.temperature = nn.Sequential(nn.Linear(features, 1), nn.BatchNorm1d(1), nn.Sigmoid())

    def h(self, phi: Tensor) -> Tensor:
        """Scores a class `(N, K)` of features `(N, D)`, before the division by g."""
        if self.kind == "I":
            scores = F.linear(phi, self.weight, self.bias)
        elif self.kind == "E":
            scores = -(phi[:, None] - self.weight).square().mean(2)
        else:
            unit = phi / (phi.norm(dim=1, keepdim=True) + 1e-4)
            axes = self.weight / (self.weight.norm(dim=1, keepdim=True) + 1e-4)
            scores = unit @ axes.T
        return scores

    def g(self, phi: Tensor) -> Tensor:
        """Temperature `(N, 1)` in (0, 1)."""
        temperature: Tensor = self.temperature(phi)
        return temperature

    def forward(self, phi: Tensor) -> Tensor:
        """Logits `(N, K)`."""
        # In float32: the quotient is steep where g is small.
        phi = phi.float()
        with torch.autocast(phi.device.type, enabled=False):
            logits: Tensor = self.h(phi) / self.g(phi)
        return logits

    def extra_repr(self) -> str:
        """For `print`, and for the cache."""
        return f"kind={self.kind}"


@dataclass(kw_only=True)
class GODIN(ClassifierBaseline):
    """Minus the largest `h` of a network with a decomposed head, after an input perturbation.

    The pixels move by `magnitude` along the sign of the gradient of the largest h; the magnitude
    is the one of the grid with the largest mean score on held-out in-distribution images. Its
    network is trained with its own head, so it is another one than that of the other methods.

    Arguments:
        h: `I`, `E` or `C`, see `DecomposedHead`.
    """

    name: ClassVar[str] = "godin"
    statistic: ClassVar[Statistic] = Statistic("godin", "minus the largest h of G-ODIN")

    h: Literal["I", "E", "C"] = "C"

    def _head(self, features: int, classes: int) -> nn.Module:
        return DecomposedHead(features, classes, self.h)

    def _undecayed(self, network: WideResNet) -> list[nn.Parameter]:
        head = network.head
        assert isinstance(head, DecomposedHead)
        return [p for p in (head.weight, head.bias) if p is not None]

    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        assert labels is not None
        rows, held = hold_out_tenth(self._units, self.seed)
        state = self._network_state(
            self._train(images[rows], labels[rows], int(labels.max()) + 1, progress)
        )
        state["magnitude"] = torch.tensor(
            max(GRID, key=lambda step: self._confidence(images[held], step).mean().item())
        )
        self.magnitude = float(state["magnitude"])
        return state

    def _revive(self, shape: Shape) -> None:
        super()._revive(shape)
        self.magnitude = float(self._state["magnitude"])

    def _score(self, images: Pixels) -> NDArray[Any]:
        scores: NDArray[Any] = -self._confidence(images, self.magnitude).numpy()
        return scores

    def _confidence(self, images: Pixels, magnitude: float) -> Tensor:
        """The largest h `(N,)` of uint8 images, after a perturbation by `magnitude`."""
        return self._in_batches(lambda x: self.largest_h(self.perturbed(x, magnitude)), images)

    def largest_h(self, x: Tensor) -> Tensor:
        """The largest h `(N,)` of pixels `(N, C, H, W)` in [0, 1]."""
        head = self.network.head
        assert isinstance(head, DecomposedHead)
        return head.h(self.network.features(x)).amax(1)

    def perturbed(self, x: Tensor, magnitude: float) -> Tensor:
        """Pixels moved by `magnitude` each, the way in which the largest h grows."""
        if not magnitude:
            return x
        up = input_gradient(self.largest_h, x) >= 0  # where it is 0, up as published
        return x + magnitude * (2.0 * up - 1.0)
