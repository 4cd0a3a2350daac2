"""Folders in the layout of MVTec AD: `train/good`, `test/KIND`, perhaps `ground_truth/KIND`."""

__all__ = ["TestSets", "is_mvtec", "open_mvtec", "test_sets"]

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ...errors import ApproxMassError
from ..remarks import Remarks
from ..source import ImageSource
from .folder import image_files, left_out, open_files

_GOOD = "good"


@dataclass(frozen=True)
class TestSets:
    """The folders of a test, as paths.

    Attributes:
        good: In-distribution images.
        others: Outliers, a folder a kind, sorted by name.
        masks: Where defects are marked; None where they are not.
    """

    good: str
    others: list[str]
    masks: str | None


def is_mvtec(folder: Path) -> bool:
    """Whether `train` holds the folder `good` and no other, and `test` holds folders."""
    try:
        return _folders(folder / "train") == [_GOOD] and bool(_folders(folder / "test"))
    except OSError:
        return False


def open_mvtec(name: str, folder: Path) -> ImageSource:
    """The images of `train/good`; no other is for learning.

    Raises:
        ApproxMassError: there is none.
    """
    good, place = folder / "train" / _GOOD, os.path.join(name, "train", _GOOD)
    others: Counter[str] = Counter()
    files = image_files(place, good, others)
    if not files:
        raise ApproxMassError(f"{place}: no image in this folder: add some", code="bad-source")
    remarks = Remarks(
        f"folder: {name} has the layout of MVTec AD: train/good alone is read, not test (give "
        f"{os.path.join(name, 'test')} for that) nor masks"
    )
    if (said := left_out(others)) is not None:
        remarks.say(said)
    return open_files(place, good, files, remarks)


def test_sets(name: str) -> TestSets | None:
    """The sets of images to test on of a folder in this layout; None of anything else.

    Raises:
        ApproxMassError: `test` lacks good images, or outliers.
    """
    folder = Path(name)
    if not is_mvtec(folder):
        return None
    kinds = _folders(folder / "test")
    others = [os.path.join(name, "test", kind) for kind in kinds if kind != _GOOD]
    if _GOOD not in kinds or not others:
        raise ApproxMassError(
            f"{os.path.join(name, 'test')}: needs a folder good and one for each kind of outlier, "
            f"and has {', '.join(kinds)}",
            code="bad-source",
        )
    masks = os.path.join(name, "ground_truth")
    return TestSets(
        os.path.join(name, "test", _GOOD), others, masks if os.path.isdir(masks) else None
    )


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(each.name for each in found if each.is_dir() and each.name[0] != ".")
