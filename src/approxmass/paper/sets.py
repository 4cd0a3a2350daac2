"""The image sets that a row needs, each read when it is first asked for."""

__all__ = ["Outliers", "Sets"]

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..arrays import Pixels
from .catalog import Found, find_set, has_split
from .images import Labelling, Loaded, load, load_all, load_labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Outliers:
    """Outliers to learn from.

    Attributes:
        images: `(N, C, H, W)`.
        title: What they are.
        tests: The OOD test sets by name, without these images.
    """

    images: Pixels
    title: str
    tests: dict[str, Pixels]


class Sets:
    """An in-distribution set and OOD sets.

    Arguments:
        name: Of the in-distribution set, in the catalogue.
        oods: Names of the OOD sets.
        data: Folder of local image sets; None for the hub.
        most: Take the first so many test images of each set; None for all.

    Raises:
        ApproxMassError: as `find_set`, here and where images are asked for.
    """

    def __init__(
        self, name: str, oods: Sequence[str], data: Path | None, *, most: int | None = None
    ) -> None:
        self.name, self.data, self.most = name, data, most
        self._oods = oods
        self.found: Found = find_set(name, "train", data)

    @property
    def title(self) -> str:
        """Of the in-distribution set, as tables print it."""
        return self.found.title

    @cached_property
    def train(self) -> Pixels:
        """In-distribution images `(N, C, H, W)` to learn from."""
        return load(self.name, "train", self.data).images

    @cached_property
    def test(self) -> Pixels:
        """In-distribution images to test on."""
        return load(self.name, "test", self.data, most=self.most).images

    @cached_property
    def train_labels(self) -> Labelling:
        """Labels `(N,)` of `train`.

        Raises:
            ApproxMassError: as `load_labels`.
        """
        return load_labels(self.name, "train", self.data)

    @cached_property
    def test_labels(self) -> Labelling:
        """Labels of all test images.

        Raises:
            ApproxMassError: as `load_labels`.
        """
        return load_labels(self.name, "test", self.data)

    @cached_property
    def oods(self) -> dict[str, Loaded]:
        """Test images of the OOD sets by name, alike to the in-distribution set."""
        return {
            name: load(name, "test", self.data, like=self.found, most=self.most)
            for name in self._oods
        }

    def whole_oods(self, most: int | None) -> dict[str, Pixels]:
        """Test and training images of the OOD sets, the first `most`: those of `released`."""
        return {name: load_all(name, self.data, like=self.found, most=most) for name in self._oods}

    def outliers(self, name: str) -> Outliers:
        """Outliers to learn from.

        Arguments:
            name: One of the OOD sets: its training images, or half of its test images if it has
                no others.
        """
        tests = {key: found.images for key, found in self.oods.items()}
        if has_split(name, "train", self.data):
            found = load(name, "train", self.data, like=self.found)
            return Outliers(images=found.images, title=f"{found.title}, train", tests=tests)
        half = len(tests[name]) // 2
        learnt, tests[name] = tests[name][:half], tests[name][half:]
        title = f"the first {half:,} of {self.oods[name].title}, tested on the rest"
        return Outliers(images=learnt, title=title, tests=tests)
