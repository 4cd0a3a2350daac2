"""From images to what the flow models: pixels as they are, or whitened features.

An encoder is an `nn.Module` from pixels `(N, C, H, W)` in [0, 1] to the flow's input,
differentiable throughout, so that a gradient reaches the pixels.
"""

__all__ = ["Encoder", "PixelEncoder", "WhitenedEncoder"]

import copy
import math

import torch
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from .errors import ApproxMassError
from .flows.pixels import unit_pixels

# PCA sees at most this many numbers (1 GiB in float32): images beyond are left out at random.
_PCA_NUMBERS = 2**28
# Keeps the logarithm of the residual energy finite for an image inside the fitted subspace.
_ENERGY_FLOOR = 1e-6


class PixelEncoder(nn.Module):
    """The identity: the flow models the pixels themselves.

    Arguments:
        shape: `(C, H, W)` of the images.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.dimension = math.prod(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` unchanged, `(N, C, H, W)`."""
        return x


class WhitenedEncoder(nn.Module):
    """Whitened principal components, and the log energy of what they leave out.

    In a whitened space every direction weighs the same, which is where the approximate mass is
    a strong score. The components are those of the pixels, or of `features(x)` for any module.

    Arguments:
        components: Most components to keep. Fewer are kept when there are fewer than five images
            for each, or when the data has no more variance to give.
        features: Module from pixels `(N, C, H, W)` to features `(N, ...)`; None for the pixels.

    Example:
        >>> images = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> code = WhitenedEncoder(components=10).fit(images)(images)
        >>> code.shape  # 10 components and the residual
        torch.Size([400, 11])
        >>> bool((code.std(0) - 1).abs().max() < 0.01)
        True
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor
    energy: Tensor

    def __init__(self, components: int = 128, features: nn.Module | None = None) -> None:
        super().__init__()
        self.components = components
        # A copy: the module of the caller stays as it is.
        self.features = None
        if features is not None:
            self.features = copy.deepcopy(features).cpu().eval().requires_grad_(False)
        for name in ("mean", "axes", "scale", "energy"):
            self.register_buffer(name, torch.empty(0))

    @property
    def dimension(self) -> int:
        """Length of the code: the components kept, and one for the residual if there is any."""
        return len(self.scale) + (len(self.energy) > 0)

    @torch.no_grad()
    def fit(self, images: Tensor, *, seed: int = 0) -> "WhitenedEncoder":
        """Fit the components on images `(N, C, H, W)`, uint8 or in [0, 1].

        Raises:
            ApproxMassError: images that do not differ from each other, features that are not
                finite, or fewer than ten images.
        """
        if len(images) < 10:
            raise ApproxMassError(f"whitening needs at least 10 images, not {len(images)}")
        features = self._features_in_batches(images, seed)
        if not features.isfinite().all():
            raise ApproxMassError("the features are NaN or infinite for some images")
        if (features == features[0]).all():
            raise ApproxMassError("all images are the same: there is nothing to learn from them")
        width = features.shape[1]
        kept = max(1, min(self.components, width, len(features) // 5))
        with threadpool_limits(1):  # so that the axes do not depend on the number of threads
            pca = PCA(kept, random_state=seed).fit(features.numpy())
        variance = torch.from_numpy(pca.explained_variance_).double()
        # Directions without variance would be blown up by the whitening.
        kept = int((variance > 1e-7 * variance[0]).sum())
        self.mean = torch.from_numpy(pca.mean_).float()
        self.axes = torch.from_numpy(pca.components_[:kept]).float().contiguous()
        self.scale = variance[:kept].rsqrt().float()
        self.energy = torch.empty(0)
        if kept < width:
            batches = [self._project(part)[1] for part in torch.split(features, 4096)]
            log_energy = torch.cat(batches).double()
            self.energy = torch.stack([log_energy.mean(), log_energy.std().clamp_min(1e-3)]).float()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels `(N, C, H, W)` in [0, 1] to codes `(N, dimension)`."""
        features = x.flatten(1) if self.features is None else self.features(x).flatten(1)
        coefficients, log_energy = self._project(features)
        code = coefficients * self.scale
        if len(self.energy) == 0:
            return code
        center, spread = self.energy.unbind()
        return torch.cat([code, ((log_energy - center) / spread)[:, None]], dim=1)

    def _project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients `(N, kept)` on the axes, and the log energy `(N,)` of the rest."""
        centered = features - self.mean
        coefficients = centered @ self.axes.T
        rest = torch.addmm(centered, coefficients, self.axes, alpha=-1)
        energy = torch.linalg.vector_norm(rest, dim=1).square()
        return coefficients, (energy + _ENERGY_FLOOR).log()

    def _features_in_batches(self, images: Tensor, seed: int) -> Tensor:
        def of(batch: Tensor) -> Tensor:
            pixels = unit_pixels(batch)
            out: Tensor = pixels if self.features is None else self.features(pixels)
            return out.flatten(1).float()

        most = max(10, _PCA_NUMBERS // of(images[:1]).shape[1])
        if len(images) > most:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            images = images[order[:most]]
        return torch.cat([of(batch).cpu() for batch in torch.split(images, 1024)])


Encoder = PixelEncoder | WhitenedEncoder
