"""Long work that survives being stopped: exact checkpoints, stop requests, draws by step number.

A checkpoint is one safetensors file; nothing is pickled. Randomness needs no place in it: every
draw comes from a generator of its own, a function of the seed, its purpose and the step number.
"""

__all__ = ["digest", "pack", "seeded_generator", "stop_requests", "unpack"]

import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .artifact import tensors_below
from .errors import ApproxMassError

State = TypeVar("State")

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
def stop_requests() -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into an entry of a list, so that no step is cut in two."""
    stop: list[int] = []
    try:
        old = {s: signal.signal(s, lambda n, _: stop.append(n)) for s in _STOP_SIGNALS}
    except ValueError:  # not the main thread: the caller handles its own signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


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


def pack(
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Any],
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
) -> bytes:
    """A checkpoint as the bytes of a safetensors file.

    Arguments:
        modules: Modules by name (no dots), whose tensors are kept.
        optimizers: Optimisers by name (no dots).
        identity: JSON-ready facts that a run must share to go on from here.
        state: JSON-ready facts that the run needs to go on.
    """
    tensors = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{k}": v for k, v in slots.items() if v is not None}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    facts = {
        "identity": json.dumps(identity),
        "state": json.dumps(state),
        "digest": digest(*(tensors[name] for name in sorted(tensors))),
    }
    return safetensors.torch.save(tensors, facts)


def unpack(
    packed: bytes,
    name: str,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Any],
    identity: Mapping[str, Any],
    revive: Callable[[dict[str, Any]], State],
) -> State:
    """Put a packed run back into `modules` and `optimizers`; returns its state.

    Arguments:
        name: What to call the checkpoint in an error.
        revive: Makes the state out of the facts that `pack` was given.

    Raises:
        ApproxMassError: a checkpoint of another run, or none at all.
    """
    try:
        tensors = safetensors.torch.load(packed)
        # `load` leaves the header out: eight bytes of its length, then JSON.
        header = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])
        saved = json.loads(header["__metadata__"]["identity"])
        facts = json.loads(header["__metadata__"]["state"])
        if header["__metadata__"]["digest"] != digest(*(tensors[name] for name in sorted(tensors))):
            raise ValueError("the tensors are not those that were written")
        state = revive(facts)
        for key, value in identity.items():
            if saved.get(key) != value:
                raise ApproxMassError(
                    f"{name} belongs to a run with {key} {saved.get(key)}, not {value}: "
                    "give the same settings and images, or remove it to start anew"
                )
        restored = {}
        for part, optimizer in optimizers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors_below(tensors, part).items():
                index, slot = key.split(".")
                slots.setdefault(int(index), {})[slot] = tensor
            groups = optimizer.state_dict()["param_groups"]
            if facts["step"] and len(slots) != sum(len(group["params"]) for group in groups):
                raise ValueError("a weight has no state of the optimiser")
            restored[part] = {"state": slots, "param_groups": groups}
        for part, module in modules.items():
            module.load_state_dict(tensors_below(tensors, part))
        for part, optimizer in optimizers.items():
            optimizer.load_state_dict(restored[part])
    except ApproxMassError:
        raise
    except (
        safetensors.SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise ApproxMassError(
            f"{name} is not a checkpoint or was cut short: remove it to start anew"
        ) from error
    return state
