"""The image sets of the paper: where they are, whose they are, and what stands in for them."""

__all__ = ["CATALOG", "Found", "ImageSet", "find_set", "has_split"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ApproxMassError


@dataclass(frozen=True, kw_only=True)
class Local:
    """A folder that may be under a local folder of data, with `<split>.parquet`.

    Attributes:
        folder: Its name.
        title: What it really holds, where that is something else than the set.
        jpeg: Its images went through JPEG at the size that they have.
    """

    folder: str
    title: str | None = None
    jpeg: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """One image set.

    Attributes:
        title: Its name in tables.
        licence: As its makers or its page on the hub give it.
        local: What may be there instead of the hub.
        hub: `hf:` source of each split; none where the hub has no set of just that.
        images: Published number of images of each split.
    """

    title: str
    licence: str
    local: Local
    hub: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A split of an image set: its title, what `open_images` takes, and whether it is JPEG."""

    title: str
    source: str
    jpeg: bool = False


def _both(name: str) -> dict[str, str]:
    return {split: f"hf:{name}:{split}" for split in ("train", "test")}


CATALOG = {
    "mnist": ImageSet(
        title="MNIST",
        licence="MIT (hub)",
        local=Local(folder="mnist"),
        hub=_both("ylecun/mnist"),
        images={"train": 60_000, "test": 10_000},
    ),
    "fashion_mnist": ImageSet(
        title="FashionMNIST",
        licence="MIT",
        local=Local(folder="fashion_mnist"),
        hub=_both("zalando-datasets/fashion_mnist"),
        images={"train": 60_000, "test": 10_000},
    ),
    "kmnist": ImageSet(
        title="KMNIST",
        licence="CC BY-SA 4.0",
        local=Local(folder="kmnist"),
        hub=_both("tanganke/kmnist"),
        images={"train": 60_000, "test": 10_000},
    ),
    "emnist": ImageSet(
        title="EMNIST letters",
        licence="none stated",
        local=Local(folder="emnist_letters"),
        hub=_both("tanganke/emnist_letters"),
        images={"train": 88_800, "test": 14_800},
    ),
    "cifar10": ImageSet(
        title="CIFAR-10",
        licence="none stated",
        local=Local(folder="cifar10_jpeg", title="CIFAR-10 (JPEG)", jpeg=True),
        hub=_both("uoft-cs/cifar10"),
        images={"train": 50_000, "test": 10_000},
    ),
    # For what looks at likelihoods, which JPEG changes.
    "cifar10_lossless": ImageSet(
        title="CIFAR-10",
        licence="none stated",
        local=Local(folder="cifar10_lossless", title="CIFAR-10 (4,000 training images)"),
        hub=_both("uoft-cs/cifar10"),
        images={"train": 50_000, "test": 10_000},
    ),
    "svhn": ImageSet(
        title="SVHN",
        licence="non-commercial use",
        local=Local(folder="street_characters", title="street characters (stand-in for SVHN)"),
        hub=_both("ufldl-stanford/svhn:cropped_digits"),
        images={"train": 73_257, "test": 26_032},
    ),
    "inaturalist": ImageSet(
        title="iNaturalist (animals)",
        licence="non-commercial research",
        local=Local(folder="monkeys", title="monkeys (stand-in for iNaturalist animals)"),
    ),
    "inaturalist_plants": ImageSet(
        title="iNaturalist (plants)",
        licence="non-commercial research",
        local=Local(folder="flowers", title="flowers (stand-in for iNaturalist plants)"),
        hub={"test": "hf:mikehemberger/inat_2021_train_mini_plantae:train"},
        images={"test": 213_550},
    ),
    "dtd": ImageSet(
        title="DTD",
        licence="research",
        local=Local(folder="dtd", title="DTD (10 of 47 classes)"),
        hub=_both("tanganke/dtd"),
        images={"train": 3_760, "test": 1_880},
    ),
    "places365": ImageSet(
        title="Places365",
        licence="non-commercial research",
        local=Local(folder="sun_scenes", title="SUN scenes (stand-in for Places365)"),
        hub={"test": "hf:dpdl-benchmark/Places365-Validation:validation"},
        images={"test": 36_500},
    ),
    "gtsrb": ImageSet(
        title="GTSRB",
        licence="none stated",
        local=Local(folder="gtsrb", title="GTSRB (3,000 images)"),
        hub=_both("tanganke/gtsrb"),
        images={"train": 26_640, "test": 12_630},
    ),
}


def has_split(name: str, split: str, data: Path | None) -> bool:
    """Whether `find_set` finds a split of a known set.

    Example:
        >>> has_split("places365", "train", None)
        False
    """
    try:
        find_set(name, split, data)
    except ApproxMassError:
        return False
    return True


def find_set(name: str, split: str, data: Path | None) -> Found:
    """A split: under the local folder `data`, or on the hub if it is None.

    Raises:
        ApproxMassError: an unknown set, one that the hub does not have, or no such file.

    Example:
        >>> find_set("svhn", "test", None)
        Found(title='SVHN', source='hf:ufldl-stanford/svhn:cropped_digits:test', jpeg=False)
    """
    if name not in CATALOG:
        raise ApproxMassError(
            f"unknown image set {name!r}: there are {', '.join(CATALOG)}", code="bad-source"
        )
    image_set = CATALOG[name]
    if data is None:
        if split not in image_set.hub:
            raise ApproxMassError(
                f"the hub is not known to have {image_set.title}, {split}: give local images with "
                f"--data, in DIR/{image_set.local.folder}/{split}.parquet",
                code="bad-source",
            )
        return Found(image_set.title, image_set.hub[split])
    path = data / image_set.local.folder / f"{split}.parquet"
    if not path.exists():
        cure = f"leave --data out to take {name} from the hub"
        if split not in image_set.hub:
            cure = f"put {image_set.title} there, which the hub is not known to have"
        raise ApproxMassError(f"{path} is missing: {cure}", code="bad-source")
    return Found(image_set.local.title or image_set.title, str(path), image_set.local.jpeg)
