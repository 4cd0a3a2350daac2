"""What a detector is tried on: in-distribution images, outliers, and masks of these."""

__all__ = ["TriedOn", "tried_on"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ApproxMassError


@dataclass(frozen=True)
class TriedOn:
    """Sources of images.

    Attributes:
        inside: In-distribution images.
        outside: Sets of outliers.
        masks: A column or a folder; None without masks.
        found: Nobody gave the masks: they lie beside the images.
    """

    inside: str
    outside: list[str]
    masks: str | None = None
    found: bool = False


def tried_on(inside: str, outside: Sequence[str], masks: str | None = None) -> TriedOn:
    """The sources as given; of a folder laid out as MVTec AD its test.

    Its good images are then the in-distribution ones and, where no outliers are given, the others
    outliers, each kind by itself, with their masks.

    Raises:
        ApproxMassError: there are no outliers, or these are such a folder.
    """
    from ..data.readers.mvtec import is_mvtec, test_sets

    for name in outside:
        if is_mvtec(Path(name)):
            raise ApproxMassError(
                f"{name} is laid out as MVTec AD: give it as --id without --ood, or as --ood a "
                "folder of its test",
                code="bad-option",
            )
    sets = test_sets(inside)
    if sets is None and not outside:
        raise ApproxMassError(
            "--ood is missing: give outliers, or as --id a folder laid out as MVTec AD "
            "(train/good, test/good and test/KIND)",
            code="bad-option",
        )
    if sets is None:
        return TriedOn(inside, list(outside), masks)
    if outside:
        return TriedOn(sets.good, list(outside), masks)
    return TriedOn(sets.good, sets.others, masks or sets.masks, found=masks is None)
