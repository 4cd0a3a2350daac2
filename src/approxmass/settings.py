"""What a person asks of a `Detector`, and what `auto` has become."""

__all__ = ["Settings"]

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from .data import ImageSource
from .data.frame import Resample
from .data.options import check_seen
from .data.region import Region
from .data.seen import open_seen
from .data.vectors import holds_vectors
from .errors import ApproxMassError
from .models.kinds import VECTORS
from .models.registry import METHODS, OF_ROWS, model_class
from .models.settings import check_number, check_whole
from .runtime.schema import held_to


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of a `Detector`, described there.

    Attributes:
        method: One of `METHODS`.
        seed: Fixes split, training and scores.
        size: Of the square with as many pixels as every image gets; None for as they are.
        mode: Of the images; this and the next two as in `open_images`.
        background: Under those that are transparent.
        pages: All are read.
        roi: The region of interest, as the text of a `Region`; None for all of each image.
        resample: How images are scaled; as the model wants it.
        holdout: Share held out to calibrate.
        calibration: `holdout` or `folds`; `auto` before a fit.
        trim: Share of the images, the most outlying by a first pass, that is left out.
        columns: Of rows of numbers; None for all, and for images.
        options: Of the model, as it chose them; before a fit its encoder, where it has one.

    Raises:
        ApproxMassError: a value out of range.
    """

    method: str = "flow"
    seed: int = 0
    size: int | None = None
    mode: str = "auto"
    background: int = 255
    pages: bool = False
    roi: str | None = None
    resample: Resample = "bilinear"
    holdout: float = 0.1
    calibration: str = "auto"
    trim: float = 0.0
    columns: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Plain numbers, also where NumPy's were given.
        object.__setattr__(self, "seed", check_whole("seed", self.seed, 0, 2**32 - 1))
        if self.size is not None:
            object.__setattr__(self, "size", check_whole("size", self.size, 1, 4096))
        check_seen("images", self.mode, self.background)
        if not isinstance(self.pages, bool):
            raise ApproxMassError(f"pages is true or false, not {self.pages!r}", code="bad-option")
        _ = self.region  # for its checks
        if self.resample not in get_args(Resample):
            raise ApproxMassError(f"there is no resampling {self.resample!r}", code="bad-option")
        smallest = 2.0**-53
        holdout = check_number("holdout", self.holdout, "between 0 and 1", smallest, 1)
        object.__setattr__(self, "holdout", holdout)
        if self.calibration not in ("auto", "holdout", "folds"):
            raise ApproxMassError(
                f"calibration is auto, holdout or folds, not {self.calibration!r}",
                code="bad-option",
            )
        trim = check_number("trim", self.trim, "at least 0 and below 0.5", 0, 0.5)
        object.__setattr__(self, "trim", trim)
        if self.columns is not None:
            if isinstance(self.columns, str) or not all(isinstance(c, str) for c in self.columns):
                raise ApproxMassError(
                    f"columns are a list of names, not {self.columns!r}", code="bad-option"
                )
            object.__setattr__(self, "columns", list(self.columns))
        object.__setattr__(self, "options", dict(self.options))

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Settings":
        """From what `as_dict` gave after a fit, through JSON.

        Raises:
            ValueError: one is missing, unknown, of another type or out of range, or left to us.
        """
        settings = held_to(cls, found, "settings")
        if settings.calibration == "auto":
            raise ValueError("settings: a fit has made its choices")
        if settings.method in METHODS:
            kinds = model_class(settings.method).option_types()
            if settings.options.keys() != kinds.keys():
                raise ValueError("settings: other options")
            for name, value in settings.options.items():
                held_to(kinds[name], value, f"settings: {name}")
        return settings

    @property
    def region(self) -> Region | None:
        """What of every image is looked at; None for all."""
        return None if self.roi is None else Region(self.roi)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def shown(self) -> dict[str, Any]:
        """For people, who do not read the text of a region."""
        return self.as_dict() | {"roi": self.region}

    def said(self) -> dict[str, Any]:
        """Those, as shown, that a person gave and that are not the default's."""
        plain, shown = Settings().shown(), self.shown()
        left_to_us = ("resample", "columns", "options")
        return {n: shown[n] for n in plain if n not in left_to_us and shown[n] != plain[n]}

    def open(self, images: Any) -> ImageSource:
        """Images of the mode and on the background asked for, of the size that they have.

        What is outside of the region of interest is blank. Or rows of numbers, where these are
        asked for, or where nothing is and they are some.
        """
        encoder = self.options.get("encoder", "auto")
        left_open = encoder == "auto" and self.method in OF_ROWS
        asked = self.columns is not None or encoder == VECTORS
        return open_seen(
            images,
            rows=asked or (left_open and holds_vectors(images)),
            columns=self.columns,
            mode=self.mode,
            background=self.background,
            pages=self.pages,
            region=self.region,
        )
