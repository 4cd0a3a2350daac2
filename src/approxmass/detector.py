"""The detector: fit on in-distribution images, score others, decide, save and load."""

__all__ = ["Detector"]

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import nn

from .arrays import Bools, Floats, Pixels, Shape
from .calibration import FALSE_ALARM_RATE, Control, called, check_control, check_rate, group_p_value
from .data import Chunk, ImageSource
from .data.frame import Box, Frame
from .data.region import Region
from .errors import ApproxMassError
from .explain.attribution import Explanation
from .fitted import FitFacts, Fitted, Settings
from .fitting import fitted_on
from .models.base import FitRun, Model, Statistic
from .models.registry import make_model
from .models.settings import check_whole
from .runtime.machine import is_main_process, pick_device
from .runtime.plain import plain_process, plainly
from .scores import Scores

# Images scored at a time: as many as make so many bytes, within bounds.
_MOST, _FEWEST, _BYTES = 2048, 32, 1 << 24


class Detector:
    """Learns from in-distribution images alone, and then tells which images do not belong.

    Images are anything that `open_images` takes: arrays, folders, files, named sources.

    Arguments:
        encoder: What the flow models: `pca` (whitened principal components), `pixels`, `lite0`
            (what a network that comes along sees, whitened), `lite2`, `hf:NAME` or `timm:NAME`
            (other networks), `auto` (pca for grey images of at most 32 pixels a side, else
            lite0), or a module from pixels in [0, 1] to features, whitened like `pca`.
        method: `flow`, or a baseline to compare with, one of `approxmass.baselines.BASELINES`,
            which is calibrated in the same way.
        seed: Fixes the split, the initial weights, the training and the scores.
        size: Bring every image into a frame of about `size x size` pixels, of the median aspect
            of the images of the fit, unsquashed. None: 256 for `lite0` (128 if no side is above
            64), else 64 if they are larger.
        mode: See `open_images`; so are
        background: and
        pages.
        roi: Region of interest: a path of an image, or an array `(H, W)`, bool or uint8, stretched
            over every image. Where it is 0, nothing is in fit, score or map. None for all.
        holdout: Share of the images held out to calibrate, never trained on.
        device: Where to compute, as torch names it; None for a GPU where there is one.
        threads: Most threads to compute in; None leaves that to the libraries.
        alpha: Of the flow: weight of the approximate mass in the loss, at least 0. `auto` is
            `0.35 sqrt(dimension)` of whitened codes, 2/32 in `pixels`, as released, and
            `sqrt(dimension)` of what a network sees.
        preset: Of the flow: `compact` or `paper` on `pixels`; a name of `VECTOR_FLOWS` elsewhere.
        components: Of the flow: most principal components of whitened codes.
        epochs: Of the flow: passes over the training images; `auto` follows from their number.
        statistic: Of the flow: the score behind the p-values, one of `STATISTICS`; `auto` is
            `latent_fit` for colour images on pixels, else `fused`.
        draws: Of the flow: dequantisation draws an image (`pixels` only).
        parts: Of the flow: look at the places of an image too; `auto` does where a network sees
            images of more than 64 pixels a side.
        options: Of another method: what its class takes, such as `epochs` or `components`.

    Raises:
        ApproxMassError: a value out of range, or an option that the method does not have.

    Example:
        >>> import numpy as np
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
        mode: str = ...,
        background: int = ...,
        pages: bool = ...,
        roi: str | Path | Bools | Pixels | None = ...,
        holdout: float = ...,
        device: str | torch.device | None = ...,
        threads: int | None = ...,
        alpha: float | Literal["auto"] = ...,
        preset: str = ...,
        components: int = ...,
        epochs: int | Literal["auto"] = ...,
        statistic: str = ...,
        draws: int = ...,
        parts: bool | Literal["auto"] = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        encoder: str | nn.Module = ...,
        *,
        method: str,
        seed: int = ...,
        size: int | None = ...,
        mode: str = ...,
        background: int = ...,
        pages: bool = ...,
        roi: str | Path | Bools | Pixels | None = ...,
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
        mode: str = "auto",
        background: int = 255,
        pages: bool = False,
        roi: str | Path | Bools | Pixels | None = None,
        holdout: float = 0.1,
        device: str | torch.device | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        unsaid = isinstance(encoder, str) and encoder == "auto"
        given = options if unsaid else {"encoder": encoder, **options}
        self._given, self._said = given, given
        self._asked = Settings(
            method=method,
            seed=seed,
            size=size,
            mode=mode,
            background=background,
            pages=pages,
            roi=None if roi is None else Region.read(roi).text,
            holdout=holdout,
        )
        self.device = pick_device(device)
        self.threads = None if threads is None else check_whole("threads", threads, 1, 4096)
        self._fitted: Fitted | None = None
        make_model(method, self._asked.seed, given)  # for its checks: a fit makes its own

    def __repr__(self) -> str:
        said = self._asked.said()
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

    @plainly
    def fit(
        self,
        images: Any,
        labels: Any = None,
        outliers: Any = None,
        *,
        groups: Any = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> "Detector":
        """Learn from in-distribution images.

        Nine tenths train the flow. Of the rest, a quarter gives the in-distribution range of each
        statistic and the others the p-values. Copies of an image are on one side and count once.

        Arguments:
            images: In-distribution images, at least 100.
            labels: Their classes, for methods that learn a classifier: whatever `open_labels`
                takes; None for those that come with the images. The flow needs none.
            outliers: Images for methods that learn from some outliers (`energy`).
            groups: What belongs together, as frames of a film, and is on one side: whatever
                `data.groups.open_groups` takes. One image of each group calibrates.
            checkpoint: File for the state of the training of a flow; other methods keep their own.
            resume: Go on from `checkpoint` if it is there.
            progress: Show remarks and a progress bar on standard error.

        Raises:
            ApproxMassError: what cannot be used, or options that do not go together.
            TrainingDivergedError: the loss became NaN or grew without bound.
        """
        run = FitRun(
            threads=self.threads,
            device=self.device,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            resume=resume,
            progress=progress and is_main_process(),
        )
        source = self._asked.open(images)
        # A fit that fails leaves an earlier one as it was.
        self._fitted = fitted_on(source, labels, outliers, groups, self._asked, self._given, run)
        return self

    @plainly
    def score(self, images: Any) -> Scores:
        """Score images: arrays of one row an image; see `Scores`.

        Raises:
            ApproxMassError: an unreadable image, or one of another size than the detector's.
        """
        source, parts = self.open(images), []
        for chunk, scores in self.score_chunks(source):
            chunk.require_readable(source.name)
            parts.append(scores)
        return Scores.join(parts)

    def score_chunks(self, images: Any) -> Iterator[tuple[Chunk, Scores]]:
        """Score images piece by piece, in order and in flat memory.

        Yields:
            Each chunk, with the scores of its readable images; those of another shape are not.
        """
        for chunk in self.chunks(images):
            yield chunk, self.score_pixels(chunk.images, chunk.boxes)

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
    def score_pixels(self, images: Pixels, boxes: Sequence[Box] | None = None) -> Scores:
        """Score pixels `(N, C, H, W)`, uint8, of `shape`; `boxes` as of a `Chunk`."""
        return self.fitted.score(images, boxes)

    def chunks(self, images: Any) -> Iterator[Chunk]:
        """Images as the detector sees them, some at a time."""
        size = min(_MOST, max(_FEWEST, _BYTES // math.prod(self.shape)))
        return self.open(images).chunks(size, shape=self.shape, threads=self.threads)

    def predict(
        self,
        images: Any,
        false_alarm_rate: float = FALSE_ALARM_RATE,
        *,
        control: Control = "image",
    ) -> Bools:
        """Decide which images are out-of-distribution, `(N,)` of bool.

        Arguments:
            images: As for `score`.
            false_alarm_rate: With `image`, the chance that an in-distribution image is called an
                outlier; with `discoveries`, the expected share of in-distribution images among
                those called (Benjamini-Hochberg over all given; warns of too few to calibrate).
            control: What `false_alarm_rate` bounds.

        Raises:
            ApproxMassError: a rate that the calibration images do not resolve.
        """
        check_rate(false_alarm_rate, self.facts.calibration)
        check_control(control)
        p = self.score(images).p_value
        return called(p, false_alarm_rate, control, self.facts.calibration)

    def group_p_value(self, images: Any) -> float:
        """One p-value for all the images together: has this batch or stream shifted?"""
        return group_p_value(self.calibration_scores, self.score(images).statistic)

    @plainly
    def explain(self, images: Any) -> Explanation:
        """Where each image does not belong, with a threshold that usual images keep below.

        Raises:
            ApproxMassError: as `score`, or a method without a density.
        """
        self.fitted.check_explains()
        source, parts = self.open(images), []
        for chunk in self.chunks(source):
            chunk.require_readable(source.name)
            parts.append(self.explain_pixels(chunk.images, chunk.boxes, chunk.sizes))
        return Explanation.join(parts)

    @plainly
    def explain_pixels(
        self,
        images: Pixels,
        boxes: Sequence[Box] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Explanation:
        """As `explain`, of pixels as `score_pixels` takes them; `sizes` are those of the maps."""
        return self.fitted.explain(images, boxes, sizes)

    @plainly
    def save(self, folder: str | Path) -> None:
        """Write the detector to a folder; an older detector there is replaced when this is whole.

        Raises:
            ApproxMassError: the folder holds something else, or cannot be written.
        """
        self.fitted.save(Path(folder))

    @classmethod
    @plainly
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
            encoder: The module that was its encoder, if torch could not export it.
            device: As for a new detector; it need not be that of the fit.
            threads: As for a new detector.

        Raises:
            ApproxMassError: no whole detector of this version there, or no such device.
        """
        detector = cls(device=device, threads=threads)
        with plain_process(detector.threads):
            fitted = Fitted.load(Path(folder), encoder, detector.device)
        detector._fitted, detector._asked = fitted, fitted.settings
        detector._given = dict(fitted.settings.options)
        if (module := encoder or fitted.model.module) is not None:
            detector._given["encoder"] = module
        return detector
