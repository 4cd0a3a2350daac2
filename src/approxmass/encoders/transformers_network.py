"""Vision models of Hugging Face transformers."""

__all__ = ["transformers_network"]

import math
from typing import Any

from torch import Tensor

from ..errors import ApproxMassError
from ..runtime.extras import require_extra
from .held import HeldNetwork, InputFacts, first_line

# Of the states between its layers, those at these shares of its depth, from the first to the last.
_DEPTHS = (0.5, 0.75, 1.0)


class _Transformers(HeldNetwork):
    def maps(self, model: Any, x: Tensor) -> list[Tensor]:
        found = model(pixel_values=x, output_hidden_states=True)
        states = found.hidden_states
        maps = [
            _as_map(states[round(depth * (len(states) - 1))], model.config) for depth in _DEPTHS
        ]
        summary = getattr(found, "pooler_output", None)
        if summary is None:
            last = found.last_hidden_state
            summary = last[:, 0] if last.dim() == 3 else last.mean((2, 3))
        return [*maps, summary.reshape(*summary.shape[:2], 1, 1)]


def _as_map(state: Tensor, config: Any) -> Tensor:
    """A state between layers as a map: tokens `(N, T, C)` back in their places, without class."""
    if state.dim() == 4:
        return state
    patch = getattr(config, "patch_size", None)
    side = math.isqrt(state.shape[1])
    if isinstance(patch, int) and isinstance(getattr(config, "image_size", None), int):
        whole = config.image_size // patch
        side = whole if whole * whole <= state.shape[1] else side
    tokens = state[:, state.shape[1] - side * side :]  # class and registers stand first
    return tokens.transpose(1, 2).reshape(len(state), -1, side, side)


def transformers_network(name: str) -> HeldNetwork:
    """The vision model `hf:NAME`, of the hub or of a folder, with its own processor's input.

    Raises:
        ApproxMassError: transformers is not there, or the model cannot be had or used.
    """
    require_extra("transformers", f"the encoder {name}")
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging

    place = name.removeprefix("hf:")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call] # amid our own
    try:
        model = AutoModel.from_pretrained(place, trust_remote_code=False)
        processor = AutoImageProcessor.from_pretrained(
            place, backend="pil", trust_remote_code=False
        )  # type: ignore[no-untyped-call]
    except (OSError, ValueError, ImportError) as error:
        raise ApproxMassError(
            f"the encoder {name} cannot be had: {first_line(error)}",
            code="bad-source",
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    cropped = getattr(processor, "do_center_crop", False)
    size = dict((getattr(processor, "crop_size", None) if cropped else None) or processor.size)
    facts = (getattr(processor, part, None) for part in ("image_mean", "image_std", "resample"))
    wants = InputFacts.of(name, size.get("height") or size.get("shortest_edge"), *facts)
    try:
        return _Transformers(name, getattr(model, "vision_model", model), wants)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
        if isinstance(error, ApproxMassError):
            raise
        raise ApproxMassError(
            f"{name} is no vision model whose states can be read: give it as a module",
            code="bad-option",
        ) from error
