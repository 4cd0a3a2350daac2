"""Named tensors: one digest of them, those under a prefix, and back into a module."""

__all__ = ["digest", "load_exactly", "tensors_below"]

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def digest(*arrays: NDArray[Any] | Tensor) -> str:
    """One for all the arrays, in their order, with their shapes and types.

    Example:
        >>> digest(torch.zeros(2)) == digest(torch.zeros(2)) != digest(torch.zeros(1, 2))
        True
    """
    total = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(np.asarray(array))
        total.update(f"{values.dtype}{values.shape}".encode())
        total.update(values.data)
    return total.hexdigest()


def tensors_below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under `prefix.`, without it."""
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill a module with its `state_dict`; a buffer that is still empty takes its shape.

    Raises:
        ValueError: other names, shapes or types. What torch raises besides, as for a full GPU, is
            no fault of the tensors.

    Example:
        >>> linear = nn.Linear(1, 1)
        >>> load_exactly(linear, {"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
        >>> linear.weight.item()
        1.0
    """
    own = module.state_dict()
    if own.keys() != tensors.keys():
        raise ValueError(f"other tensors: {sorted(own.keys() ^ tensors.keys())[:3]}")
    for name, value in own.items():
        saved = tensors[name]
        if value.numel() == 0 and saved.numel() > 0:
            owner, _, leaf = name.rpartition(".")
            like = torch.empty_like(saved, device=value.device)
            module.get_submodule(owner).register_buffer(leaf, like)
        elif value.shape != saved.shape:
            raise ValueError(f"{name} has the shape {tuple(saved.shape)}")
        if value.dtype != saved.dtype:
            raise ValueError(f"{name} is of {saved.dtype}")
    module.load_state_dict(dict(tensors))
