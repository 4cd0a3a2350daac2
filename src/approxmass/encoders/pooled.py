"""Means of the maps of a frozen network, whitened in all dimensions."""

__all__ = ["Lite0Encoder"]

import torch
from sklearn.covariance import LedoitWolf
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..arrays import Shape
from ..errors import ApproxMassError
from .base import Encoder, through
from .lite0 import CHANNELS, SHA256, lite0


class Lite0Encoder(Encoder):
    """Spatial means of four maps of EfficientNet-Lite0: 496 numbers, whitened.

    Each number is divided by its deviation; what they share is taken out by the inverse root of
    their covariance, shrunk by Ledoit and Wolf, which few images can bear in all dimensions. So
    the squared length of a code is the squared Mahalanobis distance of the image.

    The network is not part of the state: it is `sha256` of the package of its weights.
    """

    center: Tensor
    spread: Tensor
    whitening: Tensor

    sha256 = SHA256

    def __init__(self) -> None:
        super().__init__()
        self.network = lite0().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name in ("center", "spread", "whitening"):
            self.register_buffer(name, torch.empty(0))

    @property
    def dimension(self) -> int:
        """496."""
        return sum(CHANNELS)

    @property
    def names(self) -> list[str]:
        """None: a number of a code mixes all channels."""
        return []

    def fits(self, shape: Shape) -> bool:
        """Grey or colour, of a size that leaves the last map a pixel."""
        side = self.dimension
        shapes = [value.shape for value in (self.center, self.spread, self.whitening)]
        return shape[0] in (1, 3) and shapes == [(side,), (side,), (side, side)]

    @torch.no_grad()
    def fit_transform(
        self, images: Tensor, *, seed: int = 0, device: torch.device | None = None
    ) -> Tensor:
        """Learn mean, deviations and covariance of the pooled maps; returns the codes `(N, 496)`.

        Raises:
            ApproxMassError: fewer than ten images, or images that do not differ.
        """
        if len(images) < 10:
            raise ApproxMassError(
                f"whitening needs at least 10 images, not {len(images)}", code="too-few"
            )
        self.to(device or "cpu")
        features = through(self.pooled, images, device=device, size=32)
        if all(bool((part == features[0]).all()) for part in torch.split(features, 4096)):
            raise ApproxMassError(
                "all images are the same: there is nothing to learn from them", code="no-variation"
            )
        values = features.double()
        center, spread = values.mean(0), values.std(0, correction=0).clamp_min(1e-6)
        with threadpool_limits(1):  # so that the axes do not depend on the number of threads
            standard = ((values - center) / spread).numpy()
            fitted = LedoitWolf(assume_centered=True).fit(standard)
        variance, axes = torch.linalg.eigh(torch.from_numpy(fitted.covariance_))
        learnt = {"center": center, "spread": spread, "whitening": axes * variance.rsqrt()}
        for name, value in learnt.items():
            self.register_buffer(name, value.float())
        self.to(device or "cpu")
        parts = [self._code(part.to(device or "cpu")) for part in torch.split(features, 4096)]
        return torch.cat(parts).cpu()

    def pooled(self, x: Tensor) -> Tensor:
        """Means of the maps `(N, 496)` of pixels `(N, C, H, W)` in [0, 1]; grey is R = G = B."""
        x = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        return torch.cat([maps.mean((2, 3)) for maps in self.network(x)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels `(N, C, H, W)` in [0, 1] to codes `(N, 496)`."""
        return self._code(self.pooled(x))

    def _code(self, features: Tensor) -> Tensor:
        return ((features - self.center) / self.spread) @ self.whitening

    def __repr__(self) -> str:
        state = "fitted" if len(self.center) else "not fitted"
        return f"Lite0Encoder(means of maps of {CHANNELS} channels, whitened; {state})"
