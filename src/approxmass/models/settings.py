"""The options of the flow's model, and the checks that all options share."""

__all__ = ["FlowOptions", "check_number", "check_options", "check_whole"]

import math
import operator
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

from ..arrays import Shape
from ..encoders import NETWORKS, is_network
from ..errors import ApproxMassError
from .kinds import KINDS, LARGEST_SIDE, MODULE, kind_of
from .statistics import STATISTICS

# Grey images up to this side are few numbers enough for their principal components.
_SMALL_SIDE = 32


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number from `low` to `high` as a plain int.

    Raises:
        ApproxMassError: it is none.

    Example:
        >>> check_whole("seed", 3, 0, 9)
        3
    """
    try:
        number = low - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise ApproxMassError(
            f"{name} must be between {low} and {high}, not {value!r}", code="bad-option"
        )
    return number


def check_number(name: str, value: Any, wanted: str, low: float, high: float) -> float:
    """A number of at least `low` and below `high` as a plain float; `wanted` says which.

    Raises:
        ApproxMassError: it is none.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (isinstance(value, Real) and low <= number < high):
        raise ApproxMassError(f"{name} must be {wanted}, not {value!r}", code="bad-option")
    return number


def check_options(method: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse an option that a method does not have.

    Raises:
        ApproxMassError: it has none of that name.
    """
    for name in given:
        if name not in known:
            raise ApproxMassError(
                f"{method} has no option {name!r}: it has {', '.join(known) or 'none'}",
                code="unknown-option",
            )


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """Options of the flow's model, described at `Detector`.

    Raises:
        ApproxMassError: a value out of range.

    Example:
        >>> FlowOptions().resolve((1, 28, 28), 1000)[0].encoder
        'pca'
    """

    encoder: str = "auto"  # or one of KINDS, or a network
    alpha: float | Literal["auto"] = "auto"
    preset: str = "auto"
    components: int = 128
    epochs: int | Literal["auto"] = "auto"
    statistic: str = "auto"
    draws: int = 1
    parts: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        for name in ("components", "draws", "epochs"):
            value = getattr(self, name)
            if not (name == "epochs" and _is_auto(value)):
                object.__setattr__(self, name, check_whole(name, value, 1, 2**31))
        if not (isinstance(self.parts, bool) or _is_auto(self.parts)):
            raise ApproxMassError(
                f"parts must be 'auto', true or false, not {self.parts!r}", code="bad-option"
            )
        if not _is_auto(self.alpha):
            wanted = "'auto' or a number of at least 0"
            alpha = check_number("alpha", self.alpha, wanted, 0, math.inf)
            object.__setattr__(self, "alpha", alpha)
        for name, known in (
            ("encoder", ("auto", *KINDS, *NETWORKS)),
            ("statistic", ("auto", *STATISTICS)),
        ):
            value = getattr(self, name)
            if name == "encoder" and isinstance(value, str) and is_network(value):
                continue
            if not isinstance(value, str) or value not in known:
                shown = ", ".join(k for k in known if k != MODULE)
                raise ApproxMassError(
                    f"unknown {name} {value!r}: use one of {shown}",
                    code="bad-option",
                )

    def resolve(self, shape: Shape, count: int) -> tuple["FlowOptions", list[str]]:
        """Replace the `auto` of encoder, preset and statistic.

        Arguments:
            shape: `(C, H, W)` of the images.
            count: How many there are.

        Returns:
            The options, and a remark for each choice that a person may want to know of.

        Raises:
            ApproxMassError: choices that do not go together.
        """
        notes = []
        encoder = self.encoder
        if encoder == "auto":
            small = shape[0] == 1 and max(shape[1:]) <= _SMALL_SIDE
            encoder = "pca" if small else "lite0"
            what = f"of {shape[2]}x{shape[1]} {'grey' if shape[0] == 1 else 'colour'} pixels"
            notes.append(
                f"encoder: pca, because images {what} are few numbers, in which the mass is strong"
                if small
                else f"encoder: lite0, because images {what} are told apart by what a network sees"
            )
        if self.statistic == "latent_fit" and encoder != "pixels":
            raise ApproxMassError(
                "the statistic latent_fit belongs to the encoder pixels: choose that, or another "
                "statistic",
                code="bad-option",
            )
        kind = kind_of(encoder)
        if not isinstance(self.preset, str) or self.preset not in ("auto", *kind.presets):
            raise ApproxMassError(
                f"the encoder {encoder} has no preset {self.preset!r}: use one of "
                f"{', '.join(kind.presets)}",
                code="bad-option",
            )
        for name in ("components", "draws"):
            if getattr(self, name) != getattr(FlowOptions, name) and name not in kind.options:
                raise ApproxMassError(
                    f"the encoder {encoder} has no {name}: leave them out", code="bad-option"
                )
        if self.parts is True and not kind.has_parts:
            raise ApproxMassError(
                f"the encoder {encoder} sees no parts: leave them out, or choose a network",
                code="bad-option",
            )
        chosen = {
            "encoder": encoder,
            "preset": kind.preset(shape, count),
            "statistic": kind.statistic(shape),
            # Of a small image the parts tell less than the whole: docs/photos.md.
            "parts": kind.has_parts and max(shape[1:]) > LARGEST_SIDE,
        }
        sees_parts = chosen["parts"] if _is_auto(self.parts) else self.parts
        if self.statistic.startswith("patch_") and not sees_parts:
            raise ApproxMassError(
                f"the statistic {self.statistic} is of parts: choose a network with parts, or "
                "another statistic",
                code="bad-option",
            )
        autos: dict[str, Any] = {
            name: value for name, value in chosen.items() if getattr(self, name) == "auto"
        }
        return replace(self, **autos), notes


def _is_auto(value: object) -> bool:
    return isinstance(value, str) and value == "auto"  # an array would compare by element
