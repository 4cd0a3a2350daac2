"""How far the latent maps of an image flow are from white noise."""

__all__ = ["LATENT_IMAGES", "LatentFit", "latent_features"]

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

# The latent fit learns from at most this many training images.
LATENT_IMAGES = 5000
# Of a feature, as a share of 1 and its mean.
_LEAST_SPREAD = 1e-4


def latent_features(maps: list[Tensor]) -> Tensor:
    """Facts of latent maps that are 0 or constant for white noise.

    Of each map and channel: the mean, mean products with the neighbours one and two steps along
    rows and columns and one step along the diagonal; of each pair of channels the mean product;
    and all of these divided by the mean square, which tells a smooth latent from a small one. With
    them the logarithms of the mean square and of the kurtosis. After the whiteness test of Wang et
    al. (2020).

    Arguments:
        maps: Latent maps `(N, c, h, w)`.

    Returns:
        Features `(N, F)`.

    Example:
        >>> latent_features([torch.randn(5, 2, 8, 8)]).shape  # 2 * (6 + 2) + 1 + 2 * 6 + 1
        torch.Size([5, 30])
    """
    columns = []
    for z in maps:
        _, c, h, w = z.shape
        square = z.square().mean((2, 3)) + 1e-12
        root = square.sqrt()
        columns += [square.log(), (z.pow(4).mean((2, 3)) / square.square() + 1e-12).log()]
        means = z.mean((2, 3))
        columns += [means, means / root]
        for down, right in ((0, 1), (0, 2), (1, 0), (2, 0), (1, 1)):
            if down < h and right < w:
                product = z[:, :, down:, right:] * z[:, :, : h - down, : w - right]
                columns += [product.mean((2, 3)), product.mean((2, 3)) / square]
        first, second = torch.triu_indices(c, c, offset=1)
        flat = z.flatten(2)
        crossed = flat @ flat.mT / (h * w)
        ratio = crossed / (root[:, :, None] * root[:, None, :])
        columns += [crossed[:, first, second], ratio[:, first, second]]
    return torch.cat(columns, dim=1)


class LatentFit(nn.Module):
    """Mahalanobis distance of latent features from those of in-distribution images.

    What it has learnt is in its buffers, in float64.
    """

    center: Tensor
    spread: Tensor
    precision: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("center", "spread", "precision"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))

    def fit(self, features: Tensor) -> None:
        """Learn from features `(N, F)` of in-distribution images; covariance by Ledoit and Wolf."""
        values = features.double().cpu().numpy()
        center = values.mean(0)
        # A feature that all images share is known to six digits.
        spread = np.maximum(values.std(0), _LEAST_SPREAD * (1 + np.abs(center)))
        precision = LedoitWolf().fit((values - center) / spread).precision_
        device = self.center.device
        for name, array in (("center", center), ("spread", spread), ("precision", precision)):
            self.register_buffer(name, torch.from_numpy(array).to(device))

    def forward(self, features: Tensor) -> Tensor:
        """Distances `(N,)`, float64, of features `(N, F)`."""
        offset = (features.double() - self.center) / self.spread
        return ((offset @ self.precision) * offset).sum(1).clamp_min(0).sqrt()
