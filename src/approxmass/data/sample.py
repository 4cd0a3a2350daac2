"""The images that come with the library; `tools/make_samples.py` made them."""

__all__ = ["SAMPLES", "sample_path"]

from pathlib import Path

from ..errors import ApproxMassError

SAMPLES = {
    "fashion_mnist/train": "fashion_mnist-train-images-idx3-ubyte.gz",
    "fashion_mnist/test": "fashion_mnist-test-images-idx3-ubyte.gz",
    "mnist": "mnist-images-idx3-ubyte.gz",
}


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
            + ", ".join(f"sample:{known}" for known in SAMPLES)
        )
    return Path(__file__).parent / "samples" / SAMPLES[name]
