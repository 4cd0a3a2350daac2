"""Why is this image out? Where in it, and in which components, the approximate mass comes from."""

__all__ = ["Explanation", "explain"]

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..arrays import Floats
from ..data.pixels import unit_pixels
from ..encoders import Encoder

# Standard deviation of the smoothing, as a share of the side: one pixel of 28.
_SMOOTH = 1 / 28


@dataclass(frozen=True)
class Explanation:
    """Where the approximate mass of N images comes from.

    Attributes:
        maps: `(N, H, W)`, at least 0: the squared gradient of log p(x) by pixel, through the
            encoder, summed over channels and smoothed, as shares that sum to 1 over an image. It
            is squared as in the norm that the mass is.
        components: `(N, D)`, at least 0: of whitened codes the share of each number of the code
            in the squared mass; of pixels `(N, 0)`.
        names: Of the D numbers: `1` for the first principal component and so on, and last, where
            there is one, `residual` for the energy that they leave out.
    """

    maps: Floats
    components: Floats
    names: list[str]


def explain(
    encoder: Encoder,
    log_prob: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    device: torch.device,
    batch_size: int,
) -> Explanation:
    """Explain images.

    Arguments:
        encoder: From pixels to codes.
        log_prob: From codes to log-densities `(N,)` in nats.
        images: `(N, C, H, W)`, uint8.
        device: Where encoder and density are.
        batch_size: Images at a time.
    """
    maps, components = [], []
    for batch in torch.split(images, batch_size):
        pixels = unit_pixels(batch.to(device)).requires_grad_()
        with torch.enable_grad():
            code = encoder(pixels)
            log_p = log_prob(code)
        by_pixel, by_number = torch.autograd.grad(log_p.sum(), (pixels, code))
        maps.append(by_pixel.square().sum(1).cpu().double().numpy())
        shares = _shares(by_number.square().flatten(1).cpu().double().numpy())
        components.append(shares[:, : len(encoder.names)])
    smoothed = np.concatenate(maps)
    side = max(smoothed.shape[1:])
    # Mirrored at the borders, so that nothing is lost there.
    smoothed = gaussian_filter(smoothed, (0, _SMOOTH * side, _SMOOTH * side), mode="reflect")
    return Explanation(_shares(smoothed), np.concatenate(components), encoder.names)


def _shares(values: Floats) -> Floats:
    """Each row divided by its sum; equal shares where that is 0 or no number."""
    flat = np.nan_to_num(values.reshape(len(values), -1), posinf=0.0)
    total = flat.sum(1, keepdims=True)
    shares: Floats = np.full_like(flat, 1 / flat.shape[1])
    np.divide(flat, total, out=shares, where=total > 0)
    return shares.reshape(values.shape)
