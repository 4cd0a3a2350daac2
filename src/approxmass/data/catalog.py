"""The image sets of the paper: where they are, whose they are, and what stands in for them."""

__all__ = ["CATALOG", "ImageSet", "find_set"]

from dataclasses import dataclass
from pathlib import Path

from ..errors import ApproxMassError


@dataclass(frozen=True)
class ImageSet:
    """One image set.

    Attributes:
        title: Its name in tables.
        hub: `hf:` source without the split.
        images: Published number of images of each split.
        licence: As its makers or its page on the hub give it.
        local: Folder with `<split>.parquet` under a local folder of data, if there may be one.
        stands_in: Title of what a local folder really holds, where that is something else.
    """

    title: str
    hub: str
    images: dict[str, int]
    licence: str
    local: str
    stands_in: str | None = None


CATALOG = {
    "mnist": ImageSet(
        "MNIST", "hf:ylecun/mnist", {"train": 60_000, "test": 10_000}, "MIT (hub)", "mnist"
    ),
    "fashion_mnist": ImageSet(
        "FashionMNIST",
        "hf:zalando-datasets/fashion_mnist",
        {"train": 60_000, "test": 10_000},
        "MIT",
        "fashion_mnist",
    ),
    "cifar10": ImageSet(
        "CIFAR-10",
        "hf:uoft-cs/cifar10",
        {"train": 50_000, "test": 10_000},
        "none stated",
        "cifar10_jpeg",
        stands_in="CIFAR-10 (JPEG)",
    ),
}


def find_set(name: str, split: str, data: Path | None) -> tuple[str, str]:
    """Title and source of a split: under the local folder `data`, or on the hub if it is None.

    Raises:
        ApproxMassError: an unknown set, or no such file.

    Example:
        >>> find_set("mnist", "test", None)
        ('MNIST', 'hf:ylecun/mnist:test')
    """
    if name not in CATALOG:
        raise ApproxMassError(f"unknown image set {name!r}: there are {', '.join(CATALOG)}")
    image_set = CATALOG[name]
    if data is None:
        return image_set.title, f"{image_set.hub}:{split}"
    path = data / image_set.local / f"{split}.parquet"
    if not path.exists():
        raise ApproxMassError(f"{path} is missing: leave --data out to take {name} from the hub")
    return image_set.stands_in or image_set.title, str(path)
