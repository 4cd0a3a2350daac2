"""What a fitted detector does with images: score, decide, explain."""

__all__ = ["Scoring"]

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch

from .arrays import Bools, Floats, Pixels, Shape
from .calibrated import GIVEN
from .calibration import (
    FALSE_ALARM_RATE,
    Control,
    RealisedRate,
    called,
    check_control,
    check_rate,
    realised_rate,
)
from .data import Chunk, ImageSource
from .data.chunk import chunk_size
from .data.frame import Box, Frame
from .data.groups import check_groups, groups_of
from .errors import ApproxMassError
from .explain.attribution import Explanation
from .fit_facts import FitFacts
from .fitted import Fitted
from .models.base import Model, Statistic
from .runtime.plain import plainly
from .scores import Scores
from .settings import Settings


class Scoring:
    """The part of a `Detector` that needs no more than what was learnt.

    Attributes:
        device: Where to compute.
        threads: Most threads to compute in; None leaves that to the libraries.
    """

    device: torch.device
    threads: int | None
    _asked: Settings
    _fitted: Fitted | None

    @property
    def fitted(self) -> Fitted:
        """Model, calibration and facts together.

        Raises:
            ApproxMassError: nothing has been learnt yet; so do all properties that need it.
        """
        if self._fitted is None:
            raise ApproxMassError(
                "this detector has learnt nothing yet: call fit first", code="not-fitted"
            )
        return self._fitted

    @property
    def settings(self) -> Settings:
        """As asked; after a fit with what `auto` has become."""
        return self._asked if self._fitted is None else self._fitted.settings

    @property
    def facts(self) -> FitFacts:
        """What is known of the fit."""
        return self.fitted.facts

    @property
    def model(self) -> Model:
        """What was learnt."""
        return self.fitted.model

    @property
    def calibration(self) -> Mapping[str, Floats]:
        """Scores `(n,)` of the images that calibrate, by statistic.

        Raises:
            ApproxMassError: each group of images has its own.
        """
        return self.fitted.calibrated.scores

    @property
    def shape(self) -> Shape:
        """`(C, H, W)` of the images as the model sees them."""
        return self.facts.shape

    @property
    def statistic(self) -> str:
        """Name of the statistic behind the p-values."""
        return self.model.decides

    @property
    def statistics(self) -> dict[str, Statistic]:
        """Every statistic of the model, by name."""
        return {statistic.name: statistic for statistic in self.model.statistics}

    @property
    def calibration_scores(self) -> Floats:
        """Of `calibration`, the scores `(n,)` behind the p-values."""
        return self.calibration[self.statistic]

    def realised_rate(self, false_alarm_rate: float = FALSE_ALARM_RATE) -> RealisedRate:
        """How far the false-alarm rate of this one detector may lie off what is asked for.

        With a probability of 95% it is between `low` and `high`, by the Beta law of split-conformal
        calibration (Vovk, Conditional validity of inductive conformal predictors, 2012).

        Raises:
            ApproxMassError: a rate that the calibration images do not resolve; or calibration by
                folds, of which no such law is known.
        """
        if self.fitted.calibrated.fold is not None:
            raise ApproxMassError(
                "this detector is calibrated by folds, for which the rate of one detector has no "
                "known law: fit with calibration='holdout', or calibrate on new images",
                code="rate",
            )
        return realised_rate(self.fitted.calibrated.count, false_alarm_rate)

    @plainly
    def score(self, images: Any, *, per: Sequence[Any] | None = None) -> Scores:
        """Score images: arrays of one row an image; see `Scores`.

        Arguments:
            images: Anything that `open_images` takes.
            per: Of a detector calibrated per group, the group of each image. None for the column or
                the subfolders by which it was calibrated.

        Raises:
            ApproxMassError: an unreadable image, one of another size than the detector's, or one of
                a group that nothing was calibrated for.
        """
        source, parts = self.open(images), []
        for chunk, scores in self.score_chunks(source, per=per):
            chunk.require_readable(source.name)
            parts.append(scores)
        return Scores.join(parts)

    def score_chunks(
        self, images: Any, *, per: Sequence[Any] | None = None
    ) -> Iterator[tuple[Chunk, Scores]]:
        """Score images piece by piece, in order and in flat memory; `per` as of `score`.

        Yields:
            Each chunk, with the scores of its readable images; those of another shape are not, nor
            those of a group that nothing was calibrated for.
        """
        for chunk in self.chunks(images, per=per):
            scores = self.score_pixels(chunk.images, chunk.boxes, chunk.groups)
            yield chunk, scores.named(chunk.readable)

    def open(self, images: Any) -> ImageSource:
        """Images as the detector sees them: of its mode, on its background, in its frame.

        Raises:
            ApproxMassError: they cannot be opened, or nothing has been learnt yet.
        """
        settings = self.fitted.settings
        source = settings.open(images)
        frame = Frame(*self.shape[1:], settings.resample)
        return source if settings.size is None else source.resized(frame)

    @plainly
    def score_pixels(
        self,
        images: Pixels,
        boxes: Sequence[Box] | None = None,
        groups: Sequence[str] | None = None,
    ) -> Scores:
        """Score pixels `(N, C, H, W)`, uint8, of `shape`; `boxes` and `groups` as of a `Chunk`."""
        return self.fitted.score(images, boxes, groups)

    def chunks(self, images: Any, *, per: Sequence[Any] | None = None) -> Iterator[Chunk]:
        """Images as the detector sees them, some at a time; `per` as of `score`."""
        source = self.open(images)
        groups = self._groups(source, per)
        done = 0
        count = chunk_size(self.shape, quick=self.model.quick)
        for chunk in source.chunks(count, shape=self.shape, threads=self.threads):
            some = None if groups is None else groups[done : done + len(chunk.names)]
            done += len(chunk.names)
            yield chunk if some is None else chunk.grouped(some, self.fitted.in_use.refusal)

    def _groups(
        self, source: ImageSource, per: Sequence[Any] | None
    ) -> Sequence[str | None] | None:
        """The group of each image, where that matters."""
        known = self.fitted.in_use
        if per is not None:
            if isinstance(per, str) or known.per is None:
                raise ApproxMassError(
                    "per gives each image its group, for a detector calibrated per group: give a "
                    "list of names, or leave it out",
                    code="bad-group",
                )
            return check_groups(per, source)
        if known.per == GIVEN:
            raise ApproxMassError(
                "this detector is calibrated per group, and each group was given: give that of "
                "each image, per=[...], or take one group, calibrated_for(NAME)",
                code="bad-group",
            )
        return None if known.per is None else groups_of(source, known.per)

    def calibrated_for(self, group: str) -> Self:
        """The same detector with the calibration of one group for all images.

        Arguments:
            group: One that it is calibrated for.

        Raises:
            ApproxMassError: nothing is calibrated for it.
        """
        other = copy.copy(self)
        other._fitted = self.fitted.calibrated_for(group)
        return other

    def predict(
        self,
        images: Any,
        false_alarm_rate: float = FALSE_ALARM_RATE,
        *,
        control: Control = "image",
        per: Sequence[Any] | None = None,
    ) -> Bools:
        """Decide which images are out-of-distribution, `(N,)` of bool.

        Arguments:
            images: As for `score`.
            false_alarm_rate: With `image`, the chance that an in-distribution image is called an
                outlier; with `discoveries`, the expected share of in-distribution images among
                those called (Benjamini-Hochberg over all given; warns of too few to calibrate).
            control: What `false_alarm_rate` bounds.
            per: As for `score`.

        Raises:
            ApproxMassError: a rate that the calibration images do not resolve.
        """
        fewest = self.fitted.in_use.fewest
        check_rate(false_alarm_rate, fewest)
        check_control(control)
        return called(self.score(images, per=per).p_value, false_alarm_rate, control, fewest)

    def group_p_value(self, images: Any, *, per: Sequence[Any] | None = None) -> float:
        """One p-value for all the images together: has this batch or stream shifted?

        Raises:
            ApproxMassError: as `score`, or a detector calibrated per group and images of several.
        """
        return self.fitted.group_p_value(self.score(images, per=per))

    @plainly
    def explain(self, images: Any, *, per: Sequence[Any] | None = None) -> Explanation:
        """Where each image does not belong, with a threshold that usual images keep below.

        `per` as for `score`.

        Raises:
            ApproxMassError: as `score`, or a method without a density.
        """
        self.fitted.check_explains()
        source, parts = self.open(images), []
        for chunk in self.chunks(source, per=per):
            chunk.require_readable(source.name)
            found = self.explain_pixels(chunk.images, chunk.boxes, chunk.sizes, chunk.groups)
            parts.append(replace(found, scores=found.scores.named(chunk.readable)))
        return Explanation.join(parts)

    @plainly
    def explain_pixels(
        self,
        images: Pixels,
        boxes: Sequence[Box] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        groups: Sequence[str] | None = None,
    ) -> Explanation:
        """As `explain`, of pixels as `score_pixels` takes them; `sizes` are those of the maps."""
        return self.fitted.explain(images, boxes, sizes, groups)
