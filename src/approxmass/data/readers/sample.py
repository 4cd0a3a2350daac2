"""The images that come with the library; `tools/make_samples.py` made them."""

__all__ = ["SAMPLES", "open_sample", "sample_path"]

from pathlib import Path

from ...errors import ApproxMassError
from ..source import ImageSource
from .idx import open_idx

SAMPLES = {
    "fashion_mnist/train": "fashion_mnist-train-images-idx3-ubyte.gz",
    "fashion_mnist/test": "fashion_mnist-test-images-idx3-ubyte.gz",
    "mnist": "mnist-images-idx3-ubyte.gz",
}


def open_sample(name: str) -> ImageSource:
    """Images that come with the library; `name` is written `sample:NAME`."""
    return open_idx(name, sample_path(name.removeprefix("sample:")))


def sample_path(name: str) -> Path:
    """File of a shipped sample, in IDX format.

    Raises:
        ApproxMassError: There is no such sample.

    Example:
        >>> sample_path("mnist").name
        'mnist-images-idx3-ubyte.gz'
    """
    if name not in SAMPLES:
        raise ApproxMassError(
            f"sample:{name}: no such sample; there are "
            + ", ".join(f"sample:{known}" for known in SAMPLES),
            code="bad-source",
        )
    return Path(__file__).parents[1] / "samples" / SAMPLES[name]
