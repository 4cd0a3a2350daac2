"""Images in the frame that a model wants them in."""

__all__ = ["in_frame", "typical"]

import math

import numpy as np

from ..arrays import Shape
from ..data import ImageSource
from ..data.frame import Frame
from ..data.framing import framed
from ..errors import ApproxMassError
from .base import Plan


def typical(source: ImageSource) -> Shape:
    """`(C, H, W)` of the image of median area among some."""
    sizes = sorted(source.sizes(), key=lambda size: size[0] * size[1])
    return (source.native_shape[0], *sizes[len(sizes) // 2])


def in_frame(
    source: ImageSource, plan: Plan, asked: int | None
) -> tuple[ImageSource, int | None, list[str]]:
    """The images as the model wants them, the size that this is, and the remarks so far."""
    notes = list(plan.notes)
    if asked is None and source.frame is not None:  # as they were opened
        _check_frame(source.frame, plan)
        side = max(1, round(math.sqrt(source.frame.height * source.frame.width)))
        return source, side, notes
    size = plan.side if asked is None else asked
    sizes = set(source.sizes())
    if size is None and len(sizes) > 1:  # small, but not of one size
        size = round(math.sqrt(np.median([height * width for height, width in sizes])))
    if size is None:
        return source, None, notes
    if plan.square and size != plan.side:
        raise ApproxMassError(
            f"this encoder takes images of {plan.side}x{plan.side}: leave the size out",
            code="bad-option",
        )
    source, note = framed(
        source, size, stride=plan.stride, square=plan.square, resample=plan.resample
    )
    return source, size, [*notes, *([note] if asked is None else [])]


def _check_frame(frame: Frame, plan: Plan) -> None:
    if plan.square and frame[:2] != (plan.side, plan.side):
        raise ApproxMassError(
            f"this encoder takes images of {plan.side}x{plan.side}: open them at that size",
            code="bad-option",
        )
    if frame.height % plan.stride or frame.width % plan.stride:
        raise ApproxMassError(
            f"this encoder takes sides that are multiples of {plan.stride}, not "
            f"{frame.width}x{frame.height}: open the images at another size, or at none",
            code="bad-option",
        )
