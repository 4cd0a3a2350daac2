"""What a saved detector is tried on when it is loaded: does it score as where it was fitted?"""

__all__ = ["check_probe", "probe_images", "probe_rows", "probed", "versions"]

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor

from ..arrays import Floats, Shape
from ..encoders import VectorEncoder
from ..errors import ApproxMassError
from .base import Model

# Shares of noise, in eighths: from an image that is smooth to one that is nothing else. Networks
# see four images at a time, however few there are.
_NOISE = (0, 1, 3, 8)
# What rounding may change, on another device or in other threads: of the value, and of the
# standard deviation of the scores of usual images.
_RELATIVE, _OF_SPREAD = 1e-3, 0.05
_PACKAGES = ("approxmass", "torch", "zuko", "numpy", "scikit-learn", "timm", "transformers")


def probe_rows(columns: int, seed: int) -> Tensor:
    """Four rows `(4, 1, 1, D)` of nobody, from small numbers to large ones.

    Example:
        >>> probe_rows(2, 0).shape
        torch.Size([4, 1, 1, 2])
    """
    unit = probe_images((1, 1, columns), seed).double() / 255 - 0.5
    return unit * torch.tensor([0.1, 1.0, 10.0, 100.0], dtype=torch.float64)[:, None, None, None]


def probe_images(shape: Shape, seed: int) -> Tensor:
    """Four images `(4, C, H, W)`, uint8, of nobody: a ramp under more and more noise.

    The noise is a hash of the seed, so that no version of a library changes it.

    Example:
        >>> probe_images((1, 1, 3), 0).flatten(1).tolist()[0]
        [0, 127, 255]
    """
    height, width = shape[1:]
    digest = hashlib.shake_256(f"probe {seed}".encode()).digest(len(_NOISE) * int(np.prod(shape)))
    noise = np.frombuffer(digest, np.uint8).reshape(-1, *shape).astype(np.int64)
    place = np.arange(height)[:, None] + np.arange(width)
    ramp = 255 * place // max(1, height + width - 2)
    share = np.array(_NOISE)[:, None, None, None]
    return torch.from_numpy(((share * noise + (8 - share) * ramp) // 8).astype(np.uint8))


def probed(model: Model, shape: Shape, seed: int) -> dict[str, Floats]:
    """What a model makes of the probe images, by statistic, and of what it has to try itself on.

    Arguments:
        model: Fitted.
        shape: `(C, H, W)` of its images.
        seed: Of the fit.
    """
    vectors = isinstance(getattr(model, "encoder", None), VectorEncoder)
    seen = probe_rows(shape[2], seed) if vectors else probe_images(shape, seed)
    found = model.statistics_of(model.view(seen))
    return {**{f"{name} of a test image": found[name] for name in found}, **model.own_probe()}


def check_probe(
    found: Mapping[str, Floats],
    saved: Mapping[str, Floats],
    calibration: Mapping[str, Floats],
    fitted_with: Mapping[str, str],
) -> None:
    """Refuse a detector that does not score as where it was fitted.

    Arguments:
        found: What `probed` gives here.
        saved: What it gave there.
        calibration: Scores of usual images, by statistic: what counts as little.
        fitted_with: The versions there.

    Raises:
        ApproxMassError: they differ by more than rounding.
        ValueError: they are of other statistics.
    """
    if {name: len(values) for name, values in found.items()} != {
        name: len(values) for name, values in saved.items()
    }:
        raise ValueError("other probes")
    worst, at, values = 1.0, "", (0.0, 0.0)
    for name, there in saved.items():
        spread = float(np.std(calibration[name.split(" ")[0]]))
        for a, b in zip(found[name].tolist(), there.tolist(), strict=True):
            allowed = _RELATIVE * abs(b) + _OF_SPREAD * spread + 1e-9
            over = 0.0 if a == b or (a != a and b != b) else abs(a - b) / allowed
            if not over <= worst:  # also where it is no number
                worst, at, values = over, name, (a, b)
    if at:
        raise ApproxMassError(
            f"it scores otherwise here than where it was fitted ({at} is {values[0]:.6g}, was "
            f"{values[1]:.6g}): fit again, or use what it was fitted with ({_told(fitted_with)})",
            code="other-scores",
        )


def versions() -> dict[str, str]:
    """Of the packages that a score depends on, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _told(fitted_with: Mapping[str, str]) -> str:
    here = versions()
    others = [
        f"{name} {there}, here {here.get(name, 'none')}"
        for name, there in fitted_with.items()
        if here.get(name) != there
    ]
    return "; ".join(others) or "the same versions: its encoder or this machine differs"
