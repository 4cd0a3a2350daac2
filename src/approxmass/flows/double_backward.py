"""What the layers that are differentiated by hand share: when they may be, and what they refuse.

The first derivative of a layer is an operation of its own, whose derivative is the second one.
That needs two private members of torch; without them the layers are torch's plain operations,
which have all the derivatives and are slower.
"""

__all__ = ["input_gradient_only", "plain", "refuse_a_third", "supported"]

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

_PRIVATE = ("_are_functorch_transforms_active", "_will_engine_execute_node")


@cache
def supported() -> bool:
    """Whether the installed torch has what layers by hand need; warns once if it does not."""
    missing = [name for name in _PRIVATE if not hasattr(torch._C, name)]
    if missing:
        warnings.warn(
            f"torch {torch.__version__} has no {' or '.join(missing)}: the flows compute the same "
            "with torch's own layers, which takes longer to train",
            RuntimeWarning,
            stacklevel=2,
        )
    return not missing


def plain() -> bool:
    """Whether to compute with torch's plain operations.

    So it is where the layers by hand are not supported, under torch.func, which differentiates
    plain operations alone, and under torch.compile, which would lose their second derivative.
    """
    if torch.compiler.is_compiling():
        return True
    return not supported() or torch._C._are_functorch_transforms_active()


def input_gradient_only(ctx: Any) -> bool:
    """Whether the backward pass under way is to be differentiated again and wants no more than x.

    `ctx.needs_input_grad` does not tell: it says what could be asked for.

    Arguments:
        ctx: Of an autograd function whose first input is x.

    Raises:
        NotImplementedError: it is to be differentiated again and wants more.
    """
    if not torch.is_grad_enabled():
        return False
    others = [node for node, _ in ctx.next_functions[1:] if node is not None]
    try:
        more = any(torch._C._will_engine_execute_node(node) for node in others)
    except RuntimeError:  # its answer for a leaf whose gradient is wanted
        more = True
    if more:
        raise NotImplementedError(
            "a gradient of the weights cannot be differentiated again: ask for that of x alone"
        )
    return True


def refuse_a_third(tangent: Tensor) -> None:
    """Stop a second derivative that is to be differentiated again.

    Arguments:
        tangent: What the second backward pass was given.

    Raises:
        NotImplementedError: it is.
    """
    # Torch's once_differentiable would only cut the graph here, which can go unseen.
    if torch.is_grad_enabled() and tangent.requires_grad:
        raise NotImplementedError("the second derivative of a layer cannot be differentiated again")
