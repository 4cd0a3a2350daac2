"""Exact checkpoints: tensors and facts of a run as one safetensors file, nothing pickled."""

__all__ = [
    "alone_with",
    "first_pass_of",
    "fold_of",
    "pack",
    "put_back",
    "second_of",
    "taken",
    "unpack",
]

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor, nn

from ..errors import ApproxMassError
from ..runtime.machine import is_main_process
from ..storage.locks import alone
from ..storage.tensors import digest, load_exactly, tensors_below

State = TypeVar("State")


def taken(modules: Mapping[str, nn.Module], optimizers: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of a run by name, not copied.

    Arguments:
        modules: Modules by name (no dots), whose tensors are kept.
        optimizers: Optimisers by name (no dots).
    """
    tensors = {
        f"{name}.{key}": value.detach()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{k}": v for k, v in slots.items() if v is not None}
    return tensors


def pack(
    tensors: Mapping[str, Tensor], identity: Mapping[str, Any], state: Mapping[str, Any]
) -> bytes:
    """A checkpoint as the bytes of a safetensors file.

    Arguments:
        tensors: What `taken` gave.
        identity: JSON-ready facts that a run must share to go on from here.
        state: JSON-ready facts that the run needs to go on.
    """
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
                    "give the same settings and images, or remove it to start anew",
                    code="other-run",
                )
        put_back(tensors, modules, optimizers, stepped=bool(facts["step"]))
    except ApproxMassError:
        raise
    # No RuntimeError: a GPU that is full is no fault of the checkpoint.
    except (
        safetensors.SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise ApproxMassError(
            f"{name} is not a checkpoint or was cut short: remove it to start anew", code="damaged"
        ) from error
    return state


def put_back(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Any],
    *,
    stepped: bool,
) -> None:
    """Into a run what was taken from it.

    Arguments:
        tensors: What `taken` gave; copied.
        modules: Modules by name, as there.
        optimizers: Optimisers by name, as there.
        stepped: Whether a step had been made, so that optimisers have a state.

    Raises:
        ValueError: tensors of another run.
    """
    restored = {}
    for part, optimizer in optimizers.items():
        slots: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors_below(tensors, part).items():
            index, slot = key.split(".")
            slots.setdefault(int(index), {})[slot] = tensor.clone()
        groups = optimizer.state_dict()["param_groups"]
        if stepped and len(slots) != sum(len(group["params"]) for group in groups):
            raise ValueError("a weight has no state of the optimiser")
        restored[part] = {"state": slots, "param_groups": groups}
    for part, module in modules.items():
        load_exactly(module, tensors_below(tensors, part))
    for part, optimizer in optimizers.items():
        optimizer.load_state_dict(restored[part])


def alone_with(checkpoint: Path | None) -> AbstractContextManager[None]:
    """Within, no other process keeps the state of its training there, nor those of its parts.

    Raises:
        ApproxMassError: on entering: another does.
    """
    if checkpoint is None or not is_main_process():
        return nullcontext()
    return alone(checkpoint, "keeps its training in")


def fold_of(checkpoint: Path, fold: int) -> Path:
    """Where the state of the training of a fold of a fit is kept.

    Example:
        >>> fold_of(Path("d.checkpoint.safetensors"), 2).name
        'd.checkpoint.safetensors.fold2'
    """
    return checkpoint.with_name(f"{checkpoint.name}.fold{fold}")


def first_pass_of(checkpoint: Path) -> Path:
    """Where that of a first pass, which says what a fit leaves out, is kept.

    Example:
        >>> first_pass_of(Path("d.checkpoint.safetensors")).name
        'd.checkpoint.safetensors.trim'
    """
    return checkpoint.with_name(f"{checkpoint.name}.trim")


def second_of(checkpoint: Path) -> Path:
    """Where the state of the second training of a fit is kept.

    Example:
        >>> second_of(Path("d.checkpoint.safetensors")).name
        'd.checkpoint.safetensors.parts'
    """
    return checkpoint.with_name(f"{checkpoint.name}.parts")
