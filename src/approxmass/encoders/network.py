"""What a frozen network is to an encoder: maps of an image, from fine to coarse."""

__all__ = ["Network"]

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ..data.frame import Resample


class Network(nn.Module, ABC):
    """A network whose weights stay as they are, and are not saved with a detector.

    Attributes:
        name: As the option `encoder` has it.
        digest: SHA-256 of its weights and of what it does to its input.
        widths: Channels of each map.
        stride: Height and width of its input are multiples of it.
        side: Of the square input that suits it.
        square: It takes no input but that square.
        resample: How its images are scaled.
        apart: Several threads may call it at a time.
    """

    name: str
    digest: str
    widths: tuple[int, ...]
    stride: int
    side: int
    square: bool = False
    resample: Resample = "bilinear"
    apart: bool = False

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `(N, C, h, w)` of pixels `(N, 3, H, W)` in [0, 1]; the last says what is seen."""
