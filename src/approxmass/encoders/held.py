"""Networks of other libraries: their weights held but not saved, their input as they want it."""

__all__ = ["HeldNetwork", "InputFacts", "digest_of", "first_line"]

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..data.frame import Resample
from ..errors import ApproxMassError
from .network import Network


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """What a network wants of its input, by its own configuration.

    Attributes:
        side: Of the square.
        mean: Of R, G and B in [0, 1], taken off.
        std: Of R, G and B, divided by.
        resample: How images are scaled.
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: Resample

    @classmethod
    def of(cls, name: str, side: Any, mean: Any, std: Any, resample: Any) -> "InputFacts":
        """From a configuration.

        Raises:
            ApproxMassError: something in it is not understood.
        """
        try:
            return cls(
                side=int(side),
                mean=tuple(float(value) for value in mean),
                std=tuple(float(value) for value in std),
                resample=_resample(resample),
            )
        except (TypeError, ValueError) as error:
            raise ApproxMassError(
                f"{name} does not say what input it wants (side {side!r}, mean {mean!r}, deviation "
                f"{std!r}, resampling {resample!r}): give it as a module",
                code="bad-option",
            ) from error


def _resample(word: Any) -> Resample:
    # transformers uses the numbers of Pillow.
    names = {2: "bilinear", 3: "bicubic", 1: "lanczos"}
    found = word if isinstance(word, str) else names.get(int(word), str(word))
    if found not in names.values():
        raise ValueError(f"unknown resampling {found}")
    return cast(Literal["bilinear", "bicubic", "lanczos"], found)


class HeldNetwork(Network):
    """A model of another library as a `Network`.

    Arguments:
        name: As the option `encoder` has it.
        model: Stays as it is, in eval mode.
        wants: Of its input.

    Raises:
        ApproxMassError: it gives no maps.
    """

    square = True
    stride = 1
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, model: nn.Module, wants: InputFacts) -> None:
        super().__init__()
        self.name = name
        # In a tuple, so that its weights are no part of what is saved.
        self._held = (model.eval().requires_grad_(False),)
        self.side, self.resample = wants.side, wants.resample
        for part in ("mean", "std"):
            value = torch.tensor(getattr(wants, part)).reshape(1, -1, 1, 1)
            self.register_buffer(part, value, persistent=False)
        self.digest = digest_of(model.state_dict(), asdict(wants))
        with torch.no_grad():
            maps = self(torch.zeros(1, 3, self.side, self.side))
        self.widths = tuple(each.shape[1] for each in maps)
        if len(maps) < 4 or any(each.dim() != 4 for each in maps):
            raise ApproxMassError(
                f"{name} gives no maps of an image: give it as a module", code="bad-option"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._held[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Three maps `(N, C, h, w)` from fine to coarse, and the summary `(N, C, 1, 1)`."""
        return self.maps(self._held[0], (x - self.mean) / self.std)

    @abstractmethod
    def maps(self, model: Any, x: Tensor) -> list[Tensor]:
        """As `forward`, of pixels as the model wants them."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.side}x{self.side}, frozen)"


def first_line(error: BaseException) -> str:
    """What another library says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def digest_of(weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256 of named weights and of JSON-ready facts.

    Example:
        >>> digest_of({"a": torch.zeros(2)}, {}) == digest_of({"a": torch.ones(2)}, {})
        False
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
