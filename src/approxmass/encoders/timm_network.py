"""Models of timm."""

__all__ = ["timm_network"]

from typing import Any

from torch import Tensor

from ..errors import ApproxMassError
from ..runtime.extras import require_extra
from .held import HeldNetwork, InputFacts, first_line


class _Timm(HeldNetwork):
    def maps(self, model: Any, x: Tensor) -> list[Tensor]:
        last, maps = model.forward_intermediates(x, indices=3, output_fmt="NCHW")
        summary = model.forward_head(last, pre_logits=True)
        return [*maps, summary.reshape(*summary.shape[:2], 1, 1)]


def timm_network(name: str) -> HeldNetwork:
    """The model `timm:NAME` with the input of its own pretrained configuration.

    Raises:
        ApproxMassError: timm is not there or does not import, or the model cannot be had or used.
    """
    require_extra("timm", f"the encoder {name}")
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # beside a torch without torchvision
        raise ApproxMassError(
            f"the encoder {name} needs timm, which does not import here ({error}): install the "
            "torchvision that belongs to this torch",
            code="missing-library",
        ) from error
    try:
        model = timm.create_model(name.removeprefix("timm:"), pretrained=True, num_classes=0)
    except (RuntimeError, OSError, ValueError) as error:
        raise ApproxMassError(
            f"the encoder {name} cannot be had: {first_line(error)}",
            code="bad-source",
        ) from error
    facts = dict(model.pretrained_cfg)
    parts = (facts.get(part) for part in ("mean", "std", "interpolation"))
    wants = InputFacts.of(name, (facts.get("input_size") or [None])[-1], *parts)
    try:
        return _Timm(name, model, wants)
    except (AttributeError, TypeError, RuntimeError, IndexError) as error:
        raise ApproxMassError(
            f"{name} gives no intermediate maps: give it as a module", code="bad-option"
        ) from error
