"""Whitened principal components of the pixels, or of the features of any module."""

__all__ = ["WhitenedEncoder"]

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from ..arrays import Shape
from ..data.frame import Box
from ..data.pixels import unit_pixels
from ..errors import ApproxMassError
from ..runtime.machine import one_blas_thread
from .base import Encoder, UnitOf, through

# PCA sees at most this many numbers (1 GiB in float32): images beyond are left out at random.
_PCA_NUMBERS = 2**28
# Images that go through a module together, no more and no less, by the numbers that they are.
_FEWEST, _MOST_IMAGES, _PIXELS = 4, 64, 1 << 22
# Keeps the logarithm of the residual energy finite for an image inside the fitted subspace.
_ENERGY_FLOOR = 1e-6


class WhitenedEncoder(Encoder):
    """Whitened principal components, and the log energy of what they leave out.

    In a whitened space every direction weighs the same, which is where the approximate mass is
    a strong score. The components are those of the pixels, or of `features(x)` for any module.

    Arguments:
        components: Most components to keep. Fewer are kept when there are fewer than five
            different images for each, or when the data has no more variance to give.
        features: Module from pixels `(N, C, H, W)` to features `(N, ...)`; None for the pixels.

    Attributes:
        images: There is a component for every five of so many images; None for those of the fit.

    Example:
        >>> images = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> code = WhitenedEncoder(components=10).fit_transform(images)
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
        self.images: int | None = None
        # A copy: the module of the caller stays as it is.
        self.module: nn.Module | None = None
        if features is not None:
            if isinstance(features, torch.fx.GraphModule):  # exported, in eval mode, and our own
                self.module = features.requires_grad_(False)
            else:
                self.module = copy.deepcopy(features).eval().requires_grad_(False)
        for name in ("mean", "axes", "scale", "energy"):
            self.register_buffer(name, torch.empty(0))

    @property
    def dimension(self) -> int:
        """Length of the code: the components kept, and one for the residual if there is any."""
        return len(self.scale) + (len(self.energy) > 0)

    @property
    def names(self) -> list[str]:
        """`1` for the first component and so on; last, where there is one, `residual`."""
        return [str(i + 1) for i in range(len(self.scale))] + ["residual"] * (len(self.energy) > 0)

    def fits(self, shape: Shape) -> bool:
        """Images of as many numbers as those of the fit do; of features only they can tell."""
        kept, width = len(self.scale), len(self.mean)
        learnt = (self.axes.shape, self.energy.shape) in (
            ((kept, width), (0,)),
            ((kept, width), (2,)),
        )
        return learnt and (self.module is not None or math.prod(shape) == width)

    def view(self, images: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
        """Features `(N, D)` of images `(N, C, H, W)`; of pixels the images, which cost nothing."""
        if self.module is None:
            return images
        size = max(_FEWEST, min(_MOST_IMAGES, _PIXELS // images[0].numel())) if len(images) else 1
        return through(self._features, images, device=self.mean.device, size=size)

    def view_at_once(self, images: Tensor, inside: Tensor | None = None) -> Tensor:
        """As `view`, of all images together; see `Encoder.view_at_once`."""
        return images if self.module is None else self.module(unit_pixels(images)).flatten(1)

    def features(self, views: Tensor) -> dict[str, Tensor]:
        """The pixels, or what the module makes of them."""
        return super().features(views) if self.module is None else {"features": views}

    def _features(self, x: Tensor) -> Tensor:
        """What the module makes of pixels.

        Raises:
            ApproxMassError: it does not take them, or gives no features.
        """
        assert self.module is not None
        try:
            found: object = self.module(x)
        except Exception as error:  # whatever a caller's own module raises
            if "alloc" in str(error) or "out of memory" in str(error):
                raise
            raise ApproxMassError(
                f"the encoder does not take images of {tuple(x.shape[1:])}: "
                f"{str(error).strip()[:200]}",
                code="bad-option",
            ) from error
        given = type(found).__name__
        if isinstance(found, Tensor):
            given = f"{found.dtype} of shape {tuple(found.shape)}"
            if found.dtype == torch.float32 and found.dim() > 1 and len(found) == len(x):
                return found
        raise ApproxMassError(
            f"the encoder must give float32 features (N, ...) of N images, not {given}",
            code="bad-option",
        )

    @torch.no_grad()
    def fit_transform(
        self,
        views: Tensor,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        units: UnitOf | None = None,
    ) -> Tensor:
        """Fit the components on views: features, or images `(N, C, H, W)`; returns their codes.

        Raises:
            ApproxMassError: images that do not differ from each other, features that are not
                finite, or fewer than ten images.
        """
        if len(views) < 10:
            raise ApproxMassError(
                f"whitening needs at least 10 images, not {len(views)}", code="too-few"
            )
        self.to(device or "cpu")
        some = _some(len(views), views[0].numel(), seed)
        different = len(views[some]) if units is None else len(np.unique(units[some]))
        if self.module is not None:
            self._fit(views[some], different, seed)
            parts = [self._code(part.to(device or "cpu")) for part in torch.split(views, 4096)]
            return torch.cat(parts).cpu()
        # Only those that PCA sees are held as floats.
        self._fit(_rows(views[some]), different, seed)
        self.to(device or "cpu")
        return through(self, views, device=device, size=256)

    def codes(self, views: Tensor) -> Tensor:
        """Codes `(N, dimension)` of views."""
        return self._code(views) if self.module is not None else super().codes(views)

    def _fit(self, features: Tensor, different: int, seed: int) -> None:
        """Fit the components on features `(N, D)`, on the CPU, of so many different images."""
        parts = torch.split(features, 4096)  # looked at in parts: a copy of all is large
        if not all(bool(part.isfinite().all()) for part in parts):
            raise ApproxMassError(
                "the features are NaN or infinite for some images", code="bad-image"
            )
        if all(bool((part == features[0]).all()) for part in parts):
            raise ApproxMassError(
                "all images are the same: there is nothing to learn from them", code="no-variation"
            )
        width = features.shape[1]
        most = different // 5
        if self.images is not None:
            most = min(self.images // 5, different // 2)
        kept = max(1, min(self.components, width, most))
        with one_blas_thread():
            pca = PCA(kept, random_state=seed).fit(features.numpy())
        variance = torch.from_numpy(pca.explained_variance_).double()
        # Directions without variance would be blown up by the whitening.
        kept = int((variance > 1e-7 * variance[0]).sum())
        device = self.mean.device
        self.mean = torch.from_numpy(pca.mean_).float()
        self.axes = torch.from_numpy(pca.components_[:kept]).float().contiguous()
        self.scale = variance[:kept].rsqrt().float()
        self.energy = torch.empty(0)
        if kept < width:
            log_energy = torch.cat([self._project(part)[1] for part in parts]).double()
            self.energy = torch.stack([log_energy.mean(), log_energy.std().clamp_min(1e-3)]).float()
        self.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels `(N, C, H, W)` in [0, 1] to codes `(N, dimension)`."""
        return self._code(x.flatten(1) if self.module is None else self.module(x).flatten(1))

    def _code(self, features: Tensor) -> Tensor:
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

    def extra_repr(self) -> str:
        """For `print`."""
        learnt = f"dimension={self.dimension}" if len(self.scale) else "not fitted"
        of = "pixels" if self.module is None else type(self.module).__name__
        return f"components of {of}, at most {self.components}; {learnt}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def _some(count: int, width: int, seed: int) -> Tensor | slice:
    """Places of the rows that PCA sees: all, unless they are too many."""
    most = max(10, _PCA_NUMBERS // width)
    if count <= most:
        return slice(None)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most]


def _rows(images: Tensor) -> Tensor:
    """Pixels in [0, 1], a row an image, without a second copy of them on the way."""
    rows = torch.empty(len(images), images[0].numel())
    for batch, row in zip(torch.split(images, 1024), torch.split(rows, 1024), strict=True):
        row.copy_(unit_pixels(batch).flatten(1))
    return rows
