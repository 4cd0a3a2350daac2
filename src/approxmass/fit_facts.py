"""What is known of a fit, and how it is kept as JSON."""

__all__ = ["FitFacts", "trimmed_said"]

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from .arrays import Shape
from .models.settings import check_number, check_whole

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

    shape: Shape
    source: str
    sha256: str
    training: int
    reference: int
    calibration: int
    folds: int
    images: int
    trimmed: tuple[str, ...]
    outliers: str | None
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    fit_seconds: float
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
            ValueError: a fact is missing, unknown or of another type.
        """
        facts = {"skipped": [], **facts}  # earlier fits skipped none
        if set(facts) != {f.name for f in fields(cls)}:
            raise ValueError(f"other facts: {sorted(set(facts) ^ {f.name for f in fields(cls)})}")
        channels, height, width = (check_whole("shape", n, 1, 2**31) for n in facts["shape"])
        numbers = {
            name: check_whole(name, facts[name], 0, 2**53)
            for name in ("training", "reference", "calibration", "folds", "images")
        }
        texts = [
            facts["source"],
            facts["sha256"],
            facts["outliers"] or "",
            *facts["notes"],
            *facts["trimmed"],
            *facts["skipped"],
        ]
        texts += dict(facts["versions"]).values()
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a name or note is no text")
        seconds = check_number("fit_seconds", facts["fit_seconds"], "a time", 0, 1e12)
        return cls(
            **{
                **facts,
                **numbers,
                "shape": (channels, height, width),
                "trimmed": tuple(facts["trimmed"]),
                "skipped": tuple(facts["skipped"]),
                "notes": tuple(facts["notes"]),
                "fit_seconds": seconds,
            }
        )
