"""What is known of a fit, and how it is kept as JSON."""

__all__ = ["FitFacts", "trimmed_said"]

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .runtime.schema import Count, Digest, Positive, Side, held_to

# Names of images that are shown; all of them are in the facts.
_SHOWN = 3


def trimmed_said(names: Sequence[str], kept: int, unit: str = "image") -> str:
    """Which of the images of a fit, or of what else `unit` says, were the most outlying, in words.

    Example:
        >>> trimmed_said(["a.png", "b.png", "c.png", "d.png"], 96)
        'the 4 most outlying of 100 images (a.png, b.png, c.png and 1 more)'
    """
    some = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    listed = f"{some} and {more:,} more" if more > 0 else some
    return f"the {len(names):,} most outlying of {len(names) + kept:,} {unit}s ({listed})"


@dataclass(frozen=True, kw_only=True)
class FitFacts:
    """What is known of a fit.

    Attributes:
        shape: `(C, H, W)` of the images as the model sees them.
        source: What they were read from.
        sha256: Of the region of interest, if there is one, and the pixels of all of them.
        training: Number of images that were trained on.
        reference: Number that the in-distribution range of each statistic is from.
        calibration: Number that give the p-values: all of them, by folds.
        folds: Models, each learnt without a fold of the images; 1 where some are held out.
        images: All of the fit, without those trimmed.
        trimmed: Names of those that a first pass found the most outlying, and that are for nothing.
        outliers: What outliers were learnt from; None for none.
        notes: A remark for each choice that a person may want to know of.
        versions: Of the packages that it was fitted with, by name.
        fit_seconds: What it took.
        skipped: Names of images that could not be read, each with its reason.
    """

    shape: tuple[Side, Side, Side]
    source: str
    sha256: Digest
    training: Count
    reference: Count
    calibration: Count
    folds: Count
    images: Count
    trimmed: tuple[str, ...]
    outliers: str | None
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    fit_seconds: Positive
    skipped: tuple[str, ...] = ()

    @property
    def left_out(self) -> int:
        """Those that are for nothing: copies of an image, or others of a group, held out."""
        if self.folds > 1:
            return 0
        return self.images - self.training - self.reference - self.calibration

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "FitFacts":
        """From what `as_dict` gave, through JSON.

        Raises:
            ValueError: a fact is missing, unknown, of another type or out of range; or there are
                more images of a purpose than there are images.
        """
        found = held_to(cls, facts, "facts")
        if found.left_out < 0 or max(found.training, found.calibration) > found.images:
            raise ValueError("facts: more images of a purpose than there are")
        return found
