"""How a flow is trained when nobody says otherwise."""

__all__ = [
    "PUBLISHED",
    "feature_noise",
    "for_codes",
    "for_features",
    "for_patches",
    "for_pixels",
    "for_vectors",
    "patch_noise",
    "published",
]

import math
from dataclasses import replace
from typing import Any, Literal

import torch

from ..runtime.machine import fast_bf16
from .flow import TrainingSettings

# Weight decay and clipping of the released code.
PUBLISHED: dict[str, Any] = {"weight_decay": 5e-5, "clip": 100.0}
# Weight of the mass in pixels as released: 2, divided by the batch size there.
_ALPHA_PIXELS = 2 / 32
# Learning rate of grey and colour images, as published.
_RATES = {1: 5e-5, 3: 1e-4}
# Standard deviation of the training noise on whitened features, with the penalty and without: each
# was the best for it on altered photos.
_FEATURE_NOISE, _VANILLA_NOISE = 0.5, 1.0
# The same of patches.
_PATCH_NOISE, _VANILLA_PATCH_NOISE = 0.1, 1.0
# Of rows of numbers, where there are few steps. Twice as high, some trainings diverge.
_FEW_STEPS_RATE = 3e-3
# Where there are codes enough, larger batches are quicker; this rate brings the loss on held-out
# images to where the smaller ones bring it.
_MANY, _LARGER_BATCH, _HIGHER_RATE = 11_000, 1024, 2e-3


def for_codes(count: int, dimension: int, device: torch.device) -> TrainingSettings:
    """For a flow on whitened codes.

    Arguments:
        count: Codes to train on.
        dimension: Of a code; alpha grows with its root.
        device: Where the training runs.

    Example:
        >>> training = for_codes(54_000, 129, torch.device("cpu"))
        >>> round(training.alpha, 2), training.epochs
        (3.98, 4)
    """
    training = TrainingSettings(
        alpha=0.35 * math.sqrt(dimension),
        epochs=_epochs(count, images_seen=220_000, most=20),
        precision=_precision(device),
    )
    if count < _MANY:
        return training
    return replace(training, batch_size=_LARGER_BATCH, learning_rate=_HIGHER_RATE)


def for_features(count: int, dimension: int) -> TrainingSettings:
    """For a flow that starts at the identity, on whitened features of a network.

    Alpha and the noise were chosen on altered in-distribution photos (docs/photos.md).

    Arguments:
        count: Codes to train on; some 300 steps are made, however few or many there are.
        dimension: Of a code; alpha is its root.
    """
    batch = 64
    steps_per_epoch = max(1, count // batch)
    return TrainingSettings(
        alpha=math.sqrt(dimension), epochs=max(1, round(300 / steps_per_epoch)), batch_size=batch
    )


def for_vectors(count: int, dimension: int) -> TrainingSettings:
    """For a flow that starts at the identity, on whitened rows of a table or embeddings.

    Arguments:
        count: Rows to train on; a step for every ten, at least 25 and at most 300.
        dimension: Of a code; alpha is its root.

    Example:
        >>> for_vectors(200, 4).epochs, for_vectors(9000, 4).epochs
        (8, 2)
    """
    batch, steps = 64, min(300, max(25, count // 10))
    return TrainingSettings(
        alpha=math.sqrt(dimension),
        epochs=max(1, round(steps / max(1, count // batch))),
        batch_size=batch,
        learning_rate=_FEW_STEPS_RATE if steps <= 100 else 1e-3,
    )


def feature_noise(alpha: float | Literal["auto"]) -> float:
    """Standard deviation of the training noise on whitened features of a network.

    Example:
        >>> feature_noise("auto"), feature_noise(0.0)
        (0.5, 1.0)
    """
    return _VANILLA_NOISE if alpha == 0 else _FEATURE_NOISE


def for_patches(count: int, dimension: int) -> TrainingSettings:
    """For a flow that starts at the identity, on whitened patches of a network's maps.

    Chosen on altered in-distribution photos (docs/photos.md).

    Arguments:
        count: Patches to train on; some 250 steps are made.
        dimension: Of a code; alpha is its root.
    """
    batch = 512
    epochs = max(1, round(250 * batch / max(count, batch)))  # of fewer than a batch each is a step
    return TrainingSettings(alpha=math.sqrt(dimension), epochs=epochs, batch_size=batch)


def patch_noise(alpha: float | Literal["auto"]) -> float:
    """As `feature_noise`, on patches."""
    return _VANILLA_PATCH_NOISE if alpha == 0 else _PATCH_NOISE


def for_pixels(count: int, device: torch.device) -> TrainingSettings:
    """For a compact image flow.

    Arguments:
        count: Images to train on.
        device: Where the training runs.
    """
    return TrainingSettings(
        alpha=_ALPHA_PIXELS,
        epochs=_epochs(count, images_seen=100_000, most=40),
        batch_size=16,
        learning_rate=3e-3,
        precision=_precision(device),
        **PUBLISHED,
    )


def published(channels: int) -> TrainingSettings:
    """As published, but for the schedule: for the paper's image flow, grey or in colour."""
    return TrainingSettings(
        alpha=_ALPHA_PIXELS,
        epochs=200,
        batch_size=32,
        learning_rate=_RATES[channels],
        **PUBLISHED,
    )


def _epochs(count: int, *, images_seen: int, most: int) -> int:
    return min(most, max(1, round(images_seen / count)))


def _precision(device: torch.device) -> Literal["no", "bf16"]:
    return "bf16" if fast_bf16(device) else "no"
