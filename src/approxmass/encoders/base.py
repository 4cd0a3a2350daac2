"""What every encoder is, and how a data set goes through one: each image once, on the device."""

__all__ = ["Encoder", "UnitOf", "through"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arrays import Shape
from ..data.frame import Box
from ..data.pixels import unit_pixels
from ..runtime.batches import fixed_batches, map_batches
from ..runtime.machine import all_processes, is_shared

# What belongs together among N images, `(N,)`: copies of an image, or a group.
UnitOf = NDArray[np.int64]


class Encoder(nn.Module, ABC):
    """From pixels `(N, C, H, W)` in [0, 1] to the flow's input; a gradient goes through.

    It sees an image in two steps: `view` makes of it what a fit keeps, by nothing that is learnt,
    and `codes` makes codes of views. What it has learnt is in its buffers.
    """

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Numbers of a code."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Of the numbers of a code, where each has a meaning of its own; else none."""

    @property
    def at_once(self) -> int:
        """Images that go through it together where a gradient is wanted of them."""
        return 2048

    def fits(self, shape: Shape) -> bool:
        """Whether images `(C, H, W)` can go through, as far as it can tell without one."""
        return True

    def view(self, images: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
        """What there is to know of images `(N, C, H, W)`, uint8: `(N, ...)`; these themselves.

        Arguments:
            images: In the frame of the fit.
            boxes: Where in it each image lies; None for all over.
        """
        return images

    def view_at_once(self, images: Tensor, inside: Tensor | None = None) -> Tensor:
        """As `view`, of all images together, for a graph that is to take any number of them.

        Arguments:
            images: `(N, C, H, W)`, uint8 or in [0, 1].
            inside: With parts, which places are of an image, `(N, k)`, bool; else None.
        """
        return images

    def kept(self, views: Tensor, places: Sequence[int], count: int, seed: int) -> Tensor:
        """What a fit on `count` images keeps of some views; see `Model.kept`."""
        return views

    @property
    def view_digest(self) -> str | None:
        """Of all that `view` depends on, where its views are worth keeping for another fit."""
        return None

    def features(self, views: Tensor) -> dict[str, Tensor]:
        """Plain features `(N, ...)` of views by kind: what other scores may be compared on.

        The first is for those that need a covariance, the others, of length 1, for the nearest
        neighbour; where there is but one kind, it is for all.
        """
        return {"pixels": unit_pixels(views).flatten(1)}

    @abstractmethod
    def fit_transform(
        self,
        views: Tensor,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        units: UnitOf | None = None,
    ) -> Tensor:
        """Learn from views, and give the codes that a flow trains on, on the CPU.

        Arguments:
            views: Of the training images.
            seed: Fixes what is drawn.
            device: Where to compute; None for the CPU.
            units: Of each image, `(N,)`: those of one belong together; None for each by itself.

        Raises:
            ApproxMassError: images that cannot be learnt from.
        """

    def codes(self, views: Tensor) -> Tensor:
        """Codes `(N, dimension)` of views on its device."""
        code: Tensor = self(unit_pixels(views))
        return code

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map pixels to codes."""


@torch.no_grad()
def through(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    device: torch.device | None = None,
    size: int = 1024,
    apart: bool = False,
) -> Tensor:
    """What `function` makes of pixels in [0, 1], `(N, D)` float32 on the CPU.

    Of several processes that fit together each computes a share, and all get the whole.

    Arguments:
        function: From pixels `(n, C, H, W)` on the device to `(n, ...)`.
        images: `(N, C, H, W)`, uint8 or in [0, 1].
        device: Where to compute; None for the CPU.
        size: Images at a time, no more and no less: the last ones are padded.
        apart: It may be called in several threads at a time, on the CPU.

    Example:
        >>> through(lambda x: x.mean((1, 2, 3)), torch.full((3, 1, 2, 2), 255, dtype=torch.uint8))
        tensor([[1.],
                [1.],
                [1.]])
    """
    count = torch.distributed.get_world_size() if _together() else 1
    rank = torch.distributed.get_rank() if count > 1 else 0
    share = -(-len(images) // count)
    mine = images[rank * share : (rank + 1) * share]

    def rows(batch: Tensor) -> Tensor:
        found = function(unit_pixels(batch.to(device or "cpu"))).float()
        return found.reshape(len(batch), -1).cpu()

    if apart and (device is None or device.type == "cpu"):
        parts: Iterable[tuple[Tensor, int]] = map_batches(rows, mine, size)
    else:
        parts = ((rows(batch), known) for batch, known in fixed_batches(mine, size))
    found = torch.empty(0)
    for place, (some, known) in enumerate(parts):
        if place == 0:
            found = torch.empty(len(mine), some.shape[1])
        found[place * size : place * size + known] = some[:known]
    return found if count == 1 else _gathered(found, len(images), count)


def _together() -> bool:
    """Whether several processes share the work; Accelerate sets them up on first use."""
    if not is_shared():
        return False
    all_processes()
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _gathered(mine: Tensor, rows: int, count: int) -> Tensor:
    """The shares of all processes, one after the other; the last may be shorter."""
    share = -(-rows // count)
    device = all_processes().device
    padded = torch.zeros(share, mine.shape[1], device=device)
    padded[: len(mine)] = mine.to(device)
    shares = [torch.empty_like(padded) for _ in range(count)]
    torch.distributed.all_gather(shares, padded)
    return torch.cat(shares)[:rows].cpu()
