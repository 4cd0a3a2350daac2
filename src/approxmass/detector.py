"""The detector: fit on in-distribution images, score others, decide, save and load."""

__all__ = ["Detector"]

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import nn

from .arrays import Bools, Floats, Pixels, Shape
from .calibration import FALSE_ALARM_RATE, benjamini_hochberg, check_rate, group_p_value
from .data import Chunk, ImageSource, open_images
from .data.frame import framed
from .errors import ApproxMassError
from .explain.attribution import Explanation
from .fitted import FitFacts, Fitted, Settings
from .models.base import FitData, FitRun, Model, Statistic
from .models.given import classes_for, outliers_for
from .models.registry import make_model
from .models.settings import check_whole
from .runtime.machine import is_main_process, limited_threads, pick_device
from .scores import Scores
from .training.holdout import three_shares

# Images scored at a time.
_CHUNK = 2048


class Detector:
    """Learns from in-distribution images alone, and then tells which images do not belong.

    Images are anything that `open_images` takes: arrays, folders, files, named sources.

    Arguments:
        encoder: What the flow models: `pca` (whitened principal components), `pixels`, `lite0`
            (whitened features of a network that comes along), `auto` (pca for grey images,
            pixels for colour), or a module from pixels in [0, 1] to features, whitened like `pca`.
        method: `flow`, or a baseline to compare with, one of `approxmass.baselines.BASELINES`,
            which is calibrated in the same way.
        seed: Fixes the split, the initial weights, the training and the scores.
        size: Resize every image to `size x size`. None: 256 for `lite0`, else 64 if they are
            larger.
        holdout: Share of the images held out to calibrate, never trained on.
        device: Where to compute, as torch names it; None for a GPU where there is one.
        threads: Most threads to compute in; None leaves that to the libraries.
        alpha: Of the flow: weight of the approximate mass in the loss, at least 0. `auto` is
            `0.35 sqrt(dimension)` of whitened codes and 2/32 in `pixels`, as released.
        preset: Of the flow: `compact` or `paper` on `pixels`; a name of `VECTOR_FLOWS` elsewhere.
        components: Of the flow: most principal components of whitened codes.
        epochs: Of the flow: passes over the training images; `auto` follows from their number.
        statistic: Of the flow: the score behind the p-values, one of `STATISTICS`; `auto` is
            `latent_fit` for colour images on pixels, else `fused`.
        draws: Of the flow: dequantisation draws an image (`pixels` only).
        options: Of another method: what its class takes, such as `epochs` or `components`.

    Raises:
        ApproxMassError: a value out of range, or an option that the method does not have.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> images = generator.normal(0.5, 0.1, (400, 8, 8)).clip(0, 1)
        >>> detector = Detector(epochs=2).fit(images)
        >>> others = generator.uniform(0, 1, (20, 8, 8))
        >>> bool(detector.predict(others).mean() > 0.9)
        True
    """

    @overload
    def __init__(
        self,
        encoder: str | nn.Module = ...,
        *,
        method: Literal["flow"] = ...,
        seed: int = ...,
        size: int | None = ...,
        holdout: float = ...,
        device: str | torch.device | None = ...,
        threads: int | None = ...,
        alpha: float | Literal["auto"] = ...,
        preset: str = ...,
        components: int = ...,
        epochs: int | Literal["auto"] = ...,
        statistic: str = ...,
        draws: int = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        encoder: str | nn.Module = ...,
        *,
        method: str,
        seed: int = ...,
        size: int | None = ...,
        holdout: float = ...,
        device: str | torch.device | None = ...,
        threads: int | None = ...,
        **options: Any,
    ) -> None: ...

    def __init__(
        self,
        encoder: str | nn.Module = "auto",
        *,
        method: str = "flow",
        seed: int = 0,
        size: int | None = None,
        holdout: float = 0.1,
        device: str | torch.device | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        unsaid = isinstance(encoder, str) and encoder == "auto"
        given = options if unsaid else {"encoder": encoder, **options}
        self._given, self._said = given, given
        self._asked = Settings(method=method, seed=seed, size=size, holdout=holdout)
        self.device = pick_device(device)
        self.threads = None if threads is None else check_whole("threads", threads, 1, 4096)
        self._fitted: Fitted | None = None
        make_model(method, self._asked.seed, given)  # for its checks: a fit makes its own

    def __repr__(self) -> str:
        asked, plain = self._asked, Settings()
        names = ("method", "seed", "size", "holdout")
        said = {n: v for n in names if (v := getattr(asked, n)) != getattr(plain, n)}
        said |= {n: type(v) if isinstance(v, nn.Module) else v for n, v in self._said.items()}
        line = f"Detector({', '.join(f'{name}={value!r}' for name, value in said.items())})"
        if self._fitted is None:
            return f"{line}, not fitted"
        facts = self.facts
        return (
            f"{line}, fitted on {facts.images:,} images of {facts.source}\n"
            f"  {self.model!r}, decides by {self.statistic}, p >= 1/{facts.calibration + 1:,}"
        )

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
        """Scores `(n,)` of the images held out for the p-values, by statistic."""
        return self.fitted.calibration

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

    def fit(
        self,
        images: Any,
        labels: Any = None,
        outliers: Any = None,
        *,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> "Detector":
        """Learn from in-distribution images, all read into memory as uint8.

        Nine tenths train the flow. Of the rest, a quarter gives the in-distribution range of each
        statistic and the others the p-values, which keep their guarantee.

        Arguments:
            images: In-distribution images, at least 100, all of one size.
            labels: Their classes, for methods that learn a classifier: whatever `open_labels`
                takes; None for those that come with the images. The flow needs none.
            outliers: Images for methods that learn from some outliers (`energy`).
            checkpoint: File for the state of the training of a flow; other methods keep their own.
            resume: Go on from `checkpoint` if it is there.
            progress: Show remarks and a progress bar on standard error.

        Raises:
            ApproxMassError: images, labels or outliers that cannot be used, or options that do
                not go together.
            TrainingDivergedError: the loss became NaN or grew without bound.
        """
        with limited_threads(self.threads):
            # A fit that fails leaves an earlier one as it was.
            self._fitted = self._learn(
                open_images(images, size=self._asked.size),
                labels,
                outliers,
                FitRun(
                    device=self.device,
                    checkpoint=None if checkpoint is None else Path(checkpoint),
                    resume=resume,
                    progress=progress and is_main_process(),
                ),
            )
        return self

    def _learn(self, source: ImageSource, labels: Any, outliers: Any, run: FitRun) -> Fitted:
        started, asked = time.monotonic(), self._asked
        model = make_model(asked.method, asked.seed, self._given)
        source, notes = framed(source, model.side(source.native_shape))
        notes += model.plan(source.native_shape)
        shares = three_shares(len(source), asked.holdout, asked.seed, source.name)
        classes = classes_for(model, source, labels)
        others, learnt_from = outliers_for(model, source, outliers, threads=self.threads)
        sha256 = hashlib.sha256()
        # Each image goes to its place at once: the three shares are views of one array.
        data = torch.from_numpy(
            source.read(order=shares.order, digest=sha256, threads=self.threads)
        )
        given = FitData(
            training=data[shares.training],
            reference=data[shares.reference],
            sha256=sha256.hexdigest(),
            labels=None if classes is None else classes[shares.order[shares.training]],
            outliers=others,
        )
        model.learn(given, replace(run, notes=notes))
        scores = model.statistics_of(data[shares.calibration])
        if not all(np.isfinite(values).all() for values in scores.values()):
            raise ApproxMassError(
                "the scores of in-distribution images are not finite: the method did not learn "
                "from them",
                code="diverged",
            )
        facts = FitFacts(
            shape=source.shape,
            source=source.name,
            sha256=given.sha256,
            training=len(given.training),
            reference=len(given.reference),
            calibration=len(scores[model.decides]),
            outliers=learnt_from,
            notes=(*notes, *source.remarks()),
            fit_seconds=round(time.monotonic() - started, 2),
        )
        settings = replace(asked, size=source.size, options=model.options())
        return Fitted(settings=settings, facts=facts, model=model, calibration=scores)

    def score(self, images: Any) -> Scores:
        """Score images: arrays of one row an image; see `Scores`.

        Raises:
            ApproxMassError: an unreadable image, or one of another size than the detector's.
        """
        source = self._open(images)
        parts = []
        for chunk, scores in self._score_chunks(source):
            chunk.require_readable(source.name)
            parts.append(scores)
        return Scores.join(parts)

    def score_chunks(self, images: Any) -> Iterator[tuple[Chunk, Scores]]:
        """Score images piece by piece, in order and in flat memory.

        Yields:
            Each chunk, with the scores of its readable images; those of another shape are not.
        """
        return self._score_chunks(self._open(images))

    def score_pixels(self, images: Pixels) -> Scores:
        """Score pixels `(N, C, H, W)`, uint8, that have the detector's `shape` already."""
        with limited_threads(self.threads):
            return self.fitted.score(images)

    def _open(self, images: Any) -> ImageSource:
        size = self.fitted.settings.size  # what is not fitted is refused before anything is opened
        return open_images(images, size=size)

    def _score_chunks(self, source: ImageSource) -> Iterator[tuple[Chunk, Scores]]:
        for chunk in source.chunks(_CHUNK, shape=self.shape, threads=self.threads):
            yield chunk, self.score_pixels(chunk.images)

    def predict(
        self,
        images: Any,
        false_alarm_rate: float = FALSE_ALARM_RATE,
        *,
        control: Literal["image", "discoveries"] = "image",
    ) -> Bools:
        """Decide which images are out-of-distribution, `(N,)` of bool.

        Arguments:
            images: As for `score`.
            false_alarm_rate: With `image`, the chance that an in-distribution image is called an
                outlier; with `discoveries`, the expected share of in-distribution images among
                those called (Benjamini-Hochberg over all the images given).
            control: What `false_alarm_rate` bounds.

        Raises:
            ApproxMassError: a rate that the calibration images do not resolve.
        """
        check_rate(false_alarm_rate, self.facts.calibration)
        if control not in ("image", "discoveries"):
            raise ApproxMassError(
                f"control must be 'image' or 'discoveries', not {control!r}", code="bad-option"
            )
        p = self.score(images).p_value
        if control == "discoveries":
            return benjamini_hochberg(p, false_alarm_rate)
        called: Bools = p <= false_alarm_rate
        return called

    def group_p_value(self, images: Any) -> float:
        """One p-value for all the images together: has this batch or stream shifted?"""
        return group_p_value(self.calibration_scores, self.score(images).statistic)

    def explain(self, images: Any) -> Explanation:
        """Where in each image, and in which components, the approximate mass comes from.

        Raises:
            ApproxMassError: as `score`, or a method without a density.
        """
        self.fitted.check_explains()
        source = self._open(images)
        return self.explain_pixels(source.read(shape=self.shape, threads=self.threads))

    def explain_pixels(self, images: Pixels) -> Explanation:
        """As `explain`, of pixels `(N, C, H, W)`, uint8, that have the detector's `shape`."""
        with limited_threads(self.threads):
            return self.fitted.explain(images)

    def save(self, folder: str | Path) -> None:
        """Write the detector to a folder; an older detector there is replaced when this is whole.

        Raises:
            ApproxMassError: the folder holds something else, or cannot be written.
        """
        self.fitted.save(Path(folder))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        encoder: nn.Module | None = None,
        device: str | torch.device | None = None,
        threads: int | None = None,
    ) -> "Detector":
        """Read a saved detector.

        Arguments:
            folder: Where it was saved.
            encoder: The module that was its encoder, if it was one; only its weights are saved.
            device: As for a new detector; it need not be that of the fit.
            threads: As for a new detector.

        Raises:
            ApproxMassError: no detector there, or one that is incomplete, altered or of another
                version; or a device that is not there.
        """
        detector = cls(device=device, threads=threads)
        with limited_threads(detector.threads):
            fitted = Fitted.load(Path(folder), encoder, detector.device)
        detector._fitted, detector._asked = fitted, fitted.settings
        detector._given = dict(fitted.settings.options)
        if encoder is not None:
            detector._given["encoder"] = encoder
        return detector
