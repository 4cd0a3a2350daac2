"""What a detector was asked to be, and what is known of its fit: what detector.json keeps."""

__all__ = ["FitFacts", "Settings"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .arrays import Shape
from .models.settings import check_number, check_whole


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of a `Detector`, described there.

    Attributes:
        method: One of `METHODS`.
        seed: Fixes split, training and scores.
        size: Side that every image is resized to; None for as they are.
        holdout: Share held out to calibrate.
        options: Of the model, as it chose them.

    Raises:
        ApproxMassError: a value out of range.
    """

    method: str = "flow"
    seed: int = 0
    size: int | None = None
    holdout: float = 0.1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Plain numbers, also where NumPy's were given.
        object.__setattr__(self, "seed", check_whole("seed", self.seed, 0, 2**32 - 1))
        if self.size is not None:
            object.__setattr__(self, "size", check_whole("size", self.size, 1, 4096))
        smallest = 2.0**-53
        holdout = check_number("holdout", self.holdout, "between 0 and 1", smallest, 1)
        object.__setattr__(self, "holdout", holdout)
        object.__setattr__(self, "options", dict(self.options))

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FitFacts:
    """What is known of a fit.

    Attributes:
        shape: `(C, H, W)` of the images as the model sees them.
        source: What they were read from.
        sha256: Of the pixels of all of them.
        training: Number of images that were trained on.
        reference: Number that the usual range of the statistics was learnt from.
        calibration: Number that give the p-values.
        outliers: What outliers were learnt from; None for none.
        notes: A remark for each choice that a person may want to know of.
        fit_seconds: What it took.
    """

    shape: Shape
    source: str
    sha256: str
    training: int
    reference: int
    calibration: int
    outliers: str | None
    notes: tuple[str, ...]
    fit_seconds: float

    @property
    def images(self) -> int:
        """All of the fit."""
        return self.training + self.reference + self.calibration

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "FitFacts":
        """From what `as_dict` gave, through JSON.

        Raises:
            ValueError: a fact is missing, unknown or of another type.
        """
        if set(facts) != {f.name for f in fields(cls)}:
            raise ValueError(f"other facts: {sorted(set(facts) ^ {f.name for f in fields(cls)})}")
        channels, height, width = (check_whole("shape", n, 1, 2**31) for n in facts["shape"])
        numbers = {
            name: check_whole(name, facts[name], 0, 2**53)
            for name in ("training", "reference", "calibration")
        }
        texts = [facts["source"], facts["sha256"], facts["outliers"] or "", *facts["notes"]]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a name or note is no text")
        seconds = check_number("fit_seconds", facts["fit_seconds"], "a time", 0, 1e12)
        return cls(
            **{
                **facts,
                **numbers,
                "shape": (channels, height, width),
                "notes": tuple(facts["notes"]),
                "fit_seconds": seconds,
            }
        )
