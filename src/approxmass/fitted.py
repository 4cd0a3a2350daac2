"""What a detector is once it is fitted: model, calibration and facts, and how they are kept."""

__all__ = ["Fitted"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .arrays import Bools, Floats, Pixels
from .calibrated import ONE, Calibrated, CalibrationRun
from .calibration import FALSE_ALARM_RATE
from .data.copies import pixel_digests
from .data.frame import Box
from .data.source import ImageSource
from .data.vectors import VectorSource
from .errors import ApproxMassError
from .explain.attribution import Explanation, as_given, cell_side, peaks_of
from .fit_facts import FitFacts
from .models.base import Given, Model, Saved
from .models.folded import FoldedModel, mean_statistics, mean_surfaces, models_of
from .models.kinds import VECTORS
from .models.probe import check_probe, probed
from .models.registry import model_class
from .rank_sum import group_p_value
from .runtime.schema import held_to
from .scores import Scores
from .settings import Settings
from .storage import artifact
from .storage.tensors import tensors_below
from .training.folds import Folds
from .training.holdout import Shares

# What `detector.json` has of it.
_WRITTEN = ("settings", "facts", "model", "calibrations")


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A model with its calibrations.

    Attributes:
        settings: As asked, with what `auto` has become.
        facts: Of the fit.
        model: What was learnt.
        calibrations: From that of the fit to the latest, which is the one in use.
        probe: What `probed` gave after the fit.
        digests: Eight bytes of each image of the fit that tell it from others, sorted.
        shares: Who trained and who calibrates; None after loading.
    """

    settings: Settings
    facts: FitFacts
    model: Model
    calibrations: tuple[CalibrationRun, ...]
    probe: Mapping[str, Floats]
    digests: NDArray[np.int64]
    shares: Shares | Folds | None = None

    def in_fit(self, images: Pixels) -> Bools:
        """Which of pixels `(N, C, H, W)`, uint8, are those of an image of the fit, `(N,)`."""
        known: Bools = np.isin(pixel_digests(images), self.digests)
        return known

    @property
    def vectors(self) -> bool:
        """Whether it is of rows of numbers, not of images."""
        return self.settings.options.get("encoder") == VECTORS

    @property
    def unit(self) -> str:
        """What it takes one of, in words: an image, or a row."""
        return VectorSource.unit if self.vectors else ImageSource.unit

    @property
    def in_use(self) -> CalibrationRun:
        """The latest calibration."""
        return self.calibrations[-1]

    @property
    def calibrated(self) -> Calibrated:
        """What new images are compared with.

        Raises:
            ApproxMassError: each group of images has its own.
        """
        return self.in_use.only

    def calibrated_for(self, group: str) -> "Fitted":
        """The same, with the calibration of one group for all images.

        Raises:
            ApproxMassError: nothing is calibrated for it.
        """
        return replace(self, calibrations=(*self.calibrations[:-1], self.in_use.alone(group)))

    def score(
        self,
        images: Pixels,
        boxes: Sequence[Box] | None = None,
        groups: Sequence[str] | None = None,
    ) -> Scores:
        """Scores of pixels `(N, C, H, W)`, uint8, of images in these places of the frame.

        Raises:
            ApproxMassError: they are of another shape than those of the fit, or another type; or
                groups that are missing, or not calibrated for.
        """
        self.check(images)
        list(self.in_use.rows(groups, len(images)))  # before any work
        views = self.model.view(torch.from_numpy(np.ascontiguousarray(images)), boxes)
        return self._scores([each.statistics_of(views) for each in models_of(self.model)], groups)

    def _scores(
        self, by_fold: Sequence[Mapping[str, Floats]], groups: Sequence[str] | None
    ) -> Scores:
        """Scores from the statistics by each model."""
        statistics, decides = mean_statistics(by_fold), self.model.decides
        statistic, first = statistics[decides], None
        p = np.empty(len(statistic))
        for _, calibrated, rows in self.in_use.rows(groups, len(p)):
            values = statistic[None]
            if calibrated.fold is not None:
                values, first = np.stack([each[decides] for each in by_fold]), by_fold[0][decides]
            p[rows] = calibrated.p_values(decides, values[:, rows])
        group = None if groups is None else np.array(groups, object)
        return Scores.of(statistics, decides, p, FALSE_ALARM_RATE, group=group, first=first)

    def group_p_value(self, scores: Scores) -> float:
        """One p-value for the images of some scores together.

        Raises:
            ApproxMassError: no image, or images of several groups.
        """
        group = None
        if scores.group is not None:
            names = sorted(set(scores.group))
            if len(names) > 1:
                raise ApproxMassError(
                    f"these are of several groups ({', '.join(names)}): test each group alone",
                    code="bad-group",
                )
            group = names[0] if names else None
        calibrated = self.calibrated if group is None else self.in_use.of(group)
        return group_p_value(calibrated.streamed(self.model.decides), scores.streamed)

    def explain(
        self,
        images: Pixels,
        boxes: Sequence[Box] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        groups: Sequence[str] | None = None,
    ) -> Explanation:
        """Scores, and where pixels `(N, C, H, W)`, uint8, that had these sizes, do not belong.

        Raises:
            ApproxMassError: as `score`, or a model without a density.
        """
        self.check_explains()
        self.check(images)
        list(self.in_use.rows(groups, len(images)))  # before any work
        model, frame = self.model, self.facts.shape[1:]
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        views = model.view(pixels, boxes)
        each = [of.explain(pixels, views, boxes) for of in models_of(model)]
        found = mean_surfaces([surfaces for _, surfaces in each])
        own = self.in_use.groups.get(ONE)
        fold = None if own is None else own.fold
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
            usual=self.calibrated.peaks if groups is None else np.empty(0),
            components=found.components,
            names=list(self.settings.columns or ()) if self.vectors else model.component_names,
            scores=self._scores([statistics for statistics, _ in each], groups),
            by_group={}
            if groups is None
            else {name: group.peaks for name, group in self.in_use.groups.items()},
            by_fold=None if fold is None else np.stack([peaks_of(one) for _, one in each]),
            fold=None if own is None or fold is None else fold[: len(own.peaks)],
        )

    def check_images(self, what: str) -> None:
        """Refuse a detector of rows of numbers where `what` takes images alone."""
        if self.vectors:
            raise ApproxMassError(
                f"{what} takes images, and this detector is of rows of numbers: score those by "
                "`approxmass score` or in Python",
                code="bad-option",
            )

    def check_explains(self) -> None:
        """Refuse, before any work, to explain by a model that has no density."""
        if not self.model.explains:
            raise ApproxMassError(
                f"what decides in {self.model.name} cannot be drawn on an image: fit a detector of "
                "the method flow",
                code="no-explanation",
            )

    def check(self, images: Pixels) -> None:
        """Refuse pixels that the model cannot see, `(N, C, H, W)`, uint8; or such rows."""
        if self.vectors:
            if images.shape[1:] != self.facts.shape or images.dtype != np.float64:
                raise ApproxMassError(
                    f"there are numbers {images.shape} of {images.dtype}, and rows (N, 1, 1, "
                    f"{self.facts.shape[2]}) of float64 are needed: let open_vectors read them",
                    code="wrong-shape",
                )
        elif images.shape[1:] != self.facts.shape or images.dtype != np.uint8:
            raise ApproxMassError(
                f"there are pixels {images.shape} of {images.dtype}, and uint8 pixels "
                f"(N, {', '.join(map(str, self.facts.shape))}) are needed: let open_images read "
                "them",
                code="wrong-shape",
            )

    def save(self, folder: Path, card: str) -> None:
        """Write it to a folder with a card for people; see `Detector.save`."""
        parts = (
            self.settings.as_dict(),
            self.facts.as_dict(),
            self.model.facts(),
            [run.facts() for run in self.calibrations],
        )
        manifest = dict(zip(_WRITTEN, parts, strict=True))
        scores = {
            f"{place}.{name}": torch.from_numpy(values)
            for place, run in enumerate(self.calibrations)
            for name, values in run.arrays().items()
        }
        scores |= {f"probe.{k}": torch.from_numpy(v) for k, v in self.probe.items()}
        scores["digests"] = torch.from_numpy(self.digests)
        artifact.save_folder(
            folder, manifest, {"weights": self.model.state(), "calibration": scores}, card
        )

    @classmethod
    def load(cls, folder: Path, encoder: Given, device: torch.device) -> "Fitted":
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
        encoder: Given,
        device: torch.device,
    ) -> "Fitted":
        if different := manifest.keys() ^ {*_WRITTEN, *artifact.WRITTEN}:
            raise ValueError(f"missing, or unknown: {sorted(different)[0]}")
        settings = Settings.of(manifest["settings"])
        facts = FitFacts.of(manifest["facts"])
        rows = settings.options.get("encoder") == VECTORS
        if (facts.shape[2] if rows else 0) != len(settings.columns or ()):
            raise ValueError("other columns")
        saved = Saved(
            options=settings.options,
            seed=settings.seed,
            shape=facts.shape,
            state=tensors["weights"],
            facts=held_to(dict[str, Any], manifest["model"], "model"),
            region=settings.region,
        )
        kind = model_class(settings.method)
        if facts.folds > 1:
            model = FoldedModel.from_saved(kind, saved, encoder).as_model()
        else:
            model = kind.from_saved(saved, encoder)
        model.to(device)
        calibrations = _calibrations(manifest, tensors["calibration"], model)
        first = calibrations[0].only
        folds = len(models_of(model))
        if facts.folds != folds or any(
            group.fold is not None and group.folds != folds
            for run in calibrations
            for group in run.groups.values()
        ):
            raise ValueError("another number of folds")
        if first.count != facts.calibration:
            raise ValueError("another number of calibration scores")
        digests = tensors["calibration"]["digests"].numpy()
        whole = digests.dtype == np.int64 and digests.ndim == 1
        growing = whole and (digests[1:] > digests[:-1]).all()  # their differences can overflow
        if not growing or not 0 < len(digests) <= facts.images:
            raise ValueError("digests of other images")
        tried = probed(model, facts.shape, settings.seed)
        probe = {k: v.numpy() for k, v in tensors_below(tensors["calibration"], "probe").items()}
        check_probe(tried, probe, first.scores, facts.versions)
        return cls(
            settings=settings,
            facts=facts,
            model=model,
            calibrations=calibrations,
            probe=probe,
            digests=digests,
        )


def _calibrations(
    manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Model
) -> tuple[CalibrationRun, ...]:
    """Those that were saved, each with scores of what decides.

    Raises:
        ValueError: they are not of this model.
    """
    found = []
    for place, run in enumerate(held_to(list[Any], manifest["calibrations"], "calibrations")):
        arrays = tensors_below(tensors, str(place))
        found.append(CalibrationRun.from_saved(run, {k: v.numpy() for k, v in arrays.items()}))
        for group in found[-1].groups.values():
            if model.decides not in group.scores:
                raise ValueError("no calibration scores of what decides")
            if model.explains == (not len(group.peaks)):
                raise ValueError("peaks without maps, or the reverse")
    return tuple(found)
