"""Random numbers that need not be saved: a generator of its own for every purpose."""

__all__ = ["seeded_generator", "seeded_init"]

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seeded_generator(
    seed: int, purpose: str, index: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator of its own for every purpose and step: nothing to save, nothing to restore.

    Example:
        >>> draws = [torch.rand(1, generator=seeded_generator(0, "noise", 7)) for _ in range(2)]
        >>> bool(draws[0] == draws[1])
        True
    """
    entropy = [seed, *purpose.encode(), index]
    value = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(value) >> 1)


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Weights drawn within follow from `seed`; the global generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs as well
        yield
