"""What a detector is once it is fitted: model, calibration and facts, and how they are kept."""

__all__ = ["FitFacts", "Fitted", "Settings"]

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .arrays import Bools, Floats, Pixels, Shape
from .calibration import FALSE_ALARM_RATE, p_values
from .data import ImageSource, open_images
from .data.copies import pixel_digests
from .data.frame import Box, Resample
from .data.options import check_seen
from .data.region import Region
from .errors import ApproxMassError
from .explain.attribution import Explanation, as_given, cell_side, peaks_of
from .models.base import Model, Saved
from .models.probe import check_probe, probed
from .models.registry import model_class
from .models.settings import check_number, check_whole
from .scores import Scores
from .storage import artifact
from .storage.tensors import tensors_below
from .training.holdout import Shares


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
        options: Of the model, as it chose them; empty before a fit.

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
        object.__setattr__(self, "options", dict(self.options))

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
        left_to_us = ("resample", "options")
        return {n: shown[n] for n in plain if n not in left_to_us and shown[n] != plain[n]}

    def open(self, images: Any) -> ImageSource:
        """Images of the mode and on the background asked for, of the size that they have.

        What is outside of the region of interest is blank.
        """
        found = open_images(images, mode=self.mode, background=self.background, pages=self.pages)
        return found if self.roi is None else found.seen(region=self.region)


@dataclass(frozen=True, kw_only=True)
class FitFacts:
    """What is known of a fit.

    Attributes:
        shape: `(C, H, W)` of the images as the model sees them.
        source: What they were read from.
        sha256: Of the region of interest, if there is one, and the pixels of all of them.
        training: Number of images that were trained on.
        reference: Number that the in-distribution range of each statistic is from.
        calibration: Number that give the p-values.
        left_out: Number of those that are for nothing: others of a group, or copies of an image,
            of which one was held out.
        outliers: What outliers were learnt from; None for none.
        notes: A remark for each choice that a person may want to know of.
        versions: Of the packages that it was fitted with, by name.
        fit_seconds: What it took.
    """

    shape: Shape
    source: str
    sha256: str
    training: int
    reference: int
    calibration: int
    left_out: int
    outliers: str | None
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    fit_seconds: float

    @property
    def images(self) -> int:
        """All of the fit."""
        return self.training + self.reference + self.calibration + self.left_out

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
            for name in ("training", "reference", "calibration", "left_out")
        }
        texts = [facts["source"], facts["sha256"], facts["outliers"] or "", *facts["notes"]]
        texts += dict(facts["versions"]).values()
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A model with its calibration.

    Attributes:
        settings: As asked, with what `auto` has become.
        facts: Of the fit.
        model: What was learnt.
        calibration: Scores `(n,)` of the images held out for the p-values, by statistic.
        peaks: The largest values `(m,)` of the maps of some of these; empty without maps.
        probe: What `probed` gave after the fit.
        digests: Eight bytes of each image of the fit that tell it from others, sorted.
        shares: Who trained and who calibrates; None after loading.
    """

    settings: Settings
    facts: FitFacts
    model: Model
    calibration: Mapping[str, Floats]
    peaks: Floats
    probe: Mapping[str, Floats]
    digests: NDArray[np.int64]
    shares: Shares | None = None

    def in_fit(self, images: Pixels) -> Bools:
        """Which of pixels `(N, C, H, W)`, uint8, are those of an image of the fit, `(N,)`."""
        known: Bools = np.isin(pixel_digests(images), self.digests)
        return known

    def score(self, images: Pixels, boxes: Sequence[Box] | None = None) -> Scores:
        """Scores of pixels `(N, C, H, W)`, uint8, of images in these places of the frame.

        Raises:
            ApproxMassError: they are of another shape than those of the fit, or another type.
        """
        self.check(images)
        views = self.model.view(torch.from_numpy(np.ascontiguousarray(images)), boxes)
        return self._scores(self.model.statistics_of(views))

    def _scores(self, statistics: Mapping[str, Floats]) -> Scores:
        statistic = statistics[self.model.decides]
        p = p_values(self.calibration[self.model.decides], statistic)
        none = np.full(len(p), np.nan)
        return Scores(
            log_prob=-statistics.get("nll", none),
            mass=statistics.get("mass", none),
            statistic=statistic,
            p_value=p,
            is_outlier=p <= FALSE_ALARM_RATE,
            statistics=statistics,
        )

    def explain(
        self,
        images: Pixels,
        boxes: Sequence[Box] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Explanation:
        """Scores, and where pixels `(N, C, H, W)`, uint8, that had these sizes, do not belong.

        Raises:
            ApproxMassError: as `score`, or a model without a density.
        """
        self.check_explains()
        self.check(images)
        model, frame = self.model, self.facts.shape[1:]
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        statistics, found = model.explain(pixels, model.view(pixels, boxes), boxes)
        where = [
            (None if boxes is None else boxes[i], frame, frame if sizes is None else sizes[i])
            for i in range(len(images))
        ]
        grid = found.maps.shape[1:]
        return Explanation(
            maps=[
                as_given(each, *at, self.settings.region)
                for each, at in zip(found.maps, where, strict=True)
            ],
            of=model.mapped,
            cells=np.array([cell_side(grid, *at) for at in where]),
            peaks=peaks_of(found),
            usual=self.peaks,
            components=found.components,
            names=model.component_names,
            scores=self._scores(statistics),
        )

    def check_explains(self) -> None:
        """Refuse, before any work, to explain by a model that has no density."""
        if not self.model.explains:
            raise ApproxMassError(
                f"{self.model.name} has no density to explain: fit a detector of the method flow",
                code="no-explanation",
            )

    def check(self, images: Pixels) -> None:
        """Refuse pixels that the model cannot see, `(N, C, H, W)`, uint8."""
        if images.shape[1:] != self.facts.shape or images.dtype != np.uint8:
            raise ApproxMassError(
                f"there are pixels {images.shape} of {images.dtype}, and uint8 pixels "
                f"(N, {', '.join(map(str, self.facts.shape))}) are needed: let open_images read "
                "them",
                code="wrong-shape",
            )

    def save(self, folder: Path) -> None:
        """Write it to a folder; see `Detector.save`."""
        manifest = {
            "settings": self.settings.as_dict(),
            "facts": self.facts.as_dict(),
            "model": self.model.facts(),
        }
        scores = {f"scores.{k}": torch.from_numpy(v) for k, v in self.calibration.items()}
        scores |= {f"probe.{k}": torch.from_numpy(v) for k, v in self.probe.items()}
        scores["peaks"] = torch.from_numpy(self.peaks)
        scores["digests"] = torch.from_numpy(self.digests)
        artifact.save_folder(
            folder, manifest, {"weights": self.model.state(), "calibration": scores}
        )

    @classmethod
    def load(cls, folder: Path, encoder: nn.Module | None, device: torch.device) -> "Fitted":
        """Read it back; see `Detector.load`."""
        manifest, tensors = artifact.load_folder(folder)
        try:
            return cls._of(manifest, tensors, encoder, device)
        except ApproxMassError as error:
            # What a person can give right is named; all else that is refused was edited.
            given = error.code in (
                "wrong-encoder",
                "missing-library",
                "bad-source",
                "other-scores",
            )
            code = error.code if given else "damaged"
            raise ApproxMassError(f"{folder}: {error}", code=code) from error
        # No RuntimeError: a GPU that is full is no fault of the folder.
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ApproxMassError(
                f"{folder} was not written by this version of approxmass, or was edited: fit again",
                code="damaged",
            ) from error

    @classmethod
    def _of(
        cls,
        manifest: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]],
        encoder: nn.Module | None,
        device: torch.device,
    ) -> "Fitted":
        settings = Settings(**manifest["settings"])
        facts = FitFacts.of(manifest["facts"])
        saved = Saved(
            options=settings.options,
            seed=settings.seed,
            shape=facts.shape,
            state=tensors["weights"],
            facts=manifest["model"],
            region=settings.region,
        )
        model = model_class(settings.method).from_saved(saved, encoder)
        model.to(device)
        scores = tensors_below(tensors["calibration"], "scores")
        calibration = {name: value.numpy() for name, value in scores.items()}
        if len(calibration[model.decides]) != facts.calibration:
            raise ValueError("another number of calibration scores")
        peaks = tensors["calibration"]["peaks"].numpy()
        if model.explains == (not len(peaks)):
            raise ValueError("peaks without maps, or the reverse")
        digests = tensors["calibration"]["digests"].numpy()
        if digests.dtype != np.int64 or digests.ndim != 1 or len(digests) > facts.images:
            raise ValueError("digests of other images")
        found = probed(model, facts.shape, settings.seed)
        probe = {k: v.numpy() for k, v in tensors_below(tensors["calibration"], "probe").items()}
        check_probe(found, probe, calibration, facts.versions)
        return cls(
            settings=settings,
            facts=facts,
            model=model,
            calibration=calibration,
            peaks=peaks,
            probe=probe,
            digests=digests,
        )
