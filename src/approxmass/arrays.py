"""The arrays that the rooms pass to each other, named once."""

__all__ = ["Bools", "Floats", "Labels", "Pixels", "Shape"]

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
# Images (N, C, H, W) or one image (C, H, W).
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
# Of one image: channels, height, width.
Shape = tuple[int, int, int]
