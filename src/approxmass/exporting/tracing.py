"""A function with gradients inside as a graph of plain operators, for any number of rows.

torch.export does not go through torch.autograd.grad. What is recorded here is every operator that
runs, those of the backward pass too, on tensors that have a shape and no numbers.
"""

__all__ = ["traced"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ApproxMassError
from ..runtime.batches import all_at_once

_aten = torch.ops.aten


def traced(
    function: Callable[..., tuple[Tensor, ...]], example: Sequence[Tensor], what: str
) -> "torch.export.ExportedProgram":
    """A function of tensors `(N, ...)` as a program for any N, its constants inside.

    Arguments:
        function: Computed on the CPU; its outputs are `(N, ...)`.
        example: Inputs; their N stands for any number.
        what: What a message calls the function.

    Raises:
        ApproxMassError: it does something that no graph can.
    """
    from torch._decomp import core_aten_decompositions
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import (
        DimDynamic,
        ShapeEnv,
        StatelessSymbolicContext,
    )

    shapes = ShapeEnv()
    fake = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)

    def any_number_of(rows: Tensor) -> Tensor:
        sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (rows.dim() - 1)]
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        return fake.from_tensor(rows, symbolic_context=context)

    table = {
        **core_aten_decompositions(),
        _aten.convolution_backward.default: _convolution_backward,
        _aten.adaptive_max_pool2d.default: _adaptive_max_pool,
        _aten.empty_permuted.default: lambda size, order, **as_: _aten.empty(size, **as_),
    }
    rows = torch.export.Dim("N")
    try:
        with fake, all_at_once():
            record = make_fx(function, decomposition_table=table, _allow_non_fake_inputs=True)
            graph = record(*(any_number_of(each) for each in example))
        dynamic = tuple({0: rows} for _ in example)
        return torch.export.export(graph, tuple(example), dynamic_shapes=dynamic)
    except MemoryError:
        raise
    except Exception as error:  # torch has many kinds, for each step of it
        raise ApproxMassError(
            f"{what} does what no graph of any number of images can hold: export one of another "
            "encoder or preset",
            code="no-export",
        ) from error


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    wanted: list[bool],
) -> tuple[Tensor, None, None]:
    """The gradient of the input alone, which is a transposed convolution."""
    if transposed or wanted[1:] != [False, False]:
        raise NotImplementedError("a gradient of weights")
    left_over = [
        x.shape[2 + i]
        - ((grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i])
        - (dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i in range(len(stride))
    ]
    found = _aten.convolution(
        grad, weight, None, stride, padding, dilation, True, left_over, groups
    )
    return found, None, None


def _adaptive_max_pool(x: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Where each cell has as many pixels, as plain pooling."""
    kernel = [side // cells for side, cells in zip(x.shape[2:], size, strict=True)]
    if [cells * of for cells, of in zip(size, kernel, strict=True)] != list(x.shape[2:]):
        raise NotImplementedError("maps whose sides are no multiples of each other")
    found: tuple[Tensor, Tensor] = _aten.max_pool2d_with_indices(x, kernel, kernel)
    return found
