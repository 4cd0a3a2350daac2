"""Why is this image out? Where in it, and in which components, the approximate mass comes from."""

__all__ = ["Explanation", "explain", "picture"]

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from torch import Tensor

from .data.decode import to_pillow
from .encoders import WhitenedEncoder
from .flows.pixels import unit_pixels
from .scores import Scorer

Floats = NDArray[np.float64]

# Standard deviation of the smoothing, as a share of the side: one pixel of 28.
_SMOOTH = 1 / 28
# Pictures are enlarged to about this many pixels a side.
_SHOWN = 224


@dataclass(frozen=True)
class Explanation:
    """Where the approximate mass of N images comes from.

    Attributes:
        maps: `(N, H, W)`, at least 0: the squared gradient of log p(x) by pixel, through the
            encoder, summed over channels and smoothed, as shares that sum to 1 over an image. It
            is squared as in the norm that the mass is.
        components: `(N, D)`, at least 0: in whitened spaces the share of each number of the code
            in the squared mass; in pixel space `(N, 0)`.
        names: Of the D numbers: `1` for the first principal component and so on, and last, where
            there is one, `residual` for the energy that they leave out.
    """

    maps: Floats
    components: Floats
    names: list[str]


def explain(scorer: Scorer, images: Tensor) -> Explanation:
    """Explain images `(N, C, H, W)`, uint8."""
    encoder = scorer.encoder
    maps, components = [], []
    for batch in torch.split(images, scorer.batch_size):
        pixels = unit_pixels(batch.to(scorer.device)).requires_grad_()
        with torch.enable_grad():
            code = encoder(pixels)
            log_p = scorer.log_prob(code)
        by_pixel, by_number = torch.autograd.grad(log_p.sum(), (pixels, code))
        maps.append(by_pixel.square().sum(1).cpu().double().numpy())
        if isinstance(encoder, WhitenedEncoder):
            components.append(_shares(by_number.square().cpu().double().numpy()))
        else:
            components.append(np.empty((len(batch), 0)))
    smoothed = np.concatenate(maps)
    side = max(smoothed.shape[1:])
    # Mirrored at the borders, so that nothing is lost there.
    smoothed = gaussian_filter(smoothed, (0, _SMOOTH * side, _SMOOTH * side), mode="reflect")
    names = []
    if isinstance(encoder, WhitenedEncoder):
        names = [str(i + 1) for i in range(len(encoder.scale))]
        names += ["residual"] if len(encoder.energy) else []
    return Explanation(_shares(smoothed), np.concatenate(components), names)


def _shares(values: Floats) -> Floats:
    """Each row divided by its sum; equal shares where that is 0 or no number."""
    flat = np.nan_to_num(values.reshape(len(values), -1), posinf=0.0)
    total = flat.sum(1, keepdims=True)
    shares: Floats = np.full_like(flat, 1 / flat.shape[1])
    np.divide(flat, total, out=shares, where=total > 0)
    return shares.reshape(values.shape)


def picture(image: NDArray[np.uint8], share: Floats) -> Image.Image:
    """An image beside itself with the map over it: the hotter, the more of the mass lies there.

    Arguments:
        image: `(C, H, W)`, uint8.
        share: `(H, W)`, a map of an `Explanation`.

    Returns:
        An RGB picture, some 224 pixels high.

    Example:
        >>> picture(np.zeros((1, 28, 28), np.uint8), np.full((28, 28), 1 / 784)).size
        (456, 224)
    """
    height, width = share.shape
    scale = max(1, round(_SHOWN / max(height, width)))
    size = (width * scale, height * scale)
    plain = to_pillow(image).convert("RGB").resize(size, Image.Resampling.NEAREST)
    strength = Image.fromarray((255 * share / share.max()).astype(np.uint8))
    strength = strength.resize(size, Image.Resampling.BICUBIC)
    heat = ImageOps.colorize(strength, "#d1271b", "#fff3a6", mid="#ff8c1a", midpoint=110)
    grey = ImageOps.colorize(ImageOps.grayscale(plain), "#10131f", "#8f97ad")
    # Clear where there is no heat, so that the image shows.
    over = Image.composite(heat, grey, strength.point(lambda v: min(255, 2 * v)))
    both = Image.new("RGB", (2 * size[0] + 8, size[1]), "white")
    both.paste(plain, (0, 0))
    both.paste(over, (size[0] + 8, 0))
    return both
