"""The detector: fit on in-distribution images, score others, decide, save and load."""

__all__ = ["Detector"]

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from .arrays import Bools, Floats, Labels, Pixels, Shape
from .calibration import (
    FALSE_ALARM_RATE,
    benjamini_hochberg,
    group_p_value,
    p_values,
    smallest_p_value,
)
from .data import Chunk, ImageSource, check_labels, open_images, open_labels
from .errors import ApproxMassError
from .explain.attribution import Explanation
from .models.base import FitData, FitRun, Model, Statistic
from .models.registry import make_model, model_class
from .models.settings import check_whole
from .record import FitFacts, Settings
from .runtime.machine import limited_threads, pick_device
from .scores import Scores
from .storage import artifact
from .storage.tensors import tensors_below
from .training.flow import EpochRecord
from .training.holdout import hold_out

# Images larger than this a side are resized to it unless a size is given.
_LARGEST_SIDE = 64
# Fewest images that leave enough for calibrating at a false-alarm rate of 5%.
_FEWEST_IMAGES = 100
_FEWEST_HELD_OUT = 40
# Twice what a method needs of each class, since some are held out.
_FEWEST_OF_A_CLASS = 10
# Images scored at a time.
_CHUNK = 2048


class Detector:
    """Learns from in-distribution images alone, and then tells which images do not belong.

    Images are anything that `open_images` takes: an array `(N, H, W)`, `(N, C, H, W)` or
    `(N, H, W, C)`, uint8 or float in [0, 1]; a folder; a file; a named source.

    Arguments:
        encoder: What the flow models: `pca` (whitened principal components), `pixels`, `auto` (pca
            for grey images, pixels for colour), or a module from pixels `(N, C, H, W)` in [0, 1]
            to features, which are whitened like `pca`.
        method: `flow`, or a baseline to compare with, one of `approxmass.baselines.BASELINES`,
            which is calibrated in the same way.
        seed: Fixes the split, the initial weights, the training and the scores.
        size: Resize every image to `size x size`. None leaves images of up to 64 pixels a side as
            they are and resizes larger ones to 64x64.
        holdout: Share of the images held out to calibrate, never trained on.
        device: Where to compute, as torch names it; None for a GPU where there is one.
        threads: Most threads to compute in; None leaves that to the libraries.
        alpha: Of the flow: weight of the approximate mass in the loss, at least 0. `auto` is
            `0.35 sqrt(dimension)` of whitened codes and 2/32 in `pixels`, as released.
        preset: Of the flow: `compact` or `paper` in `pixels`; a name of `VECTOR_FLOWS` elsewhere.
        components: Of the flow: most principal components of whitened codes.
        epochs: Of the flow: passes over the training images; `auto` follows from their number.
        statistic: Of the flow: the score behind the p-values, one of `STATISTICS`; `auto` is
            `latent_fit` for colour images in pixel space, else `fused`.
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
        given = options if encoder == "auto" else {"encoder": encoder, **options}
        self._given = given
        self.settings = Settings(method=method, seed=seed, size=size, holdout=holdout)
        self.device = pick_device(device)
        self.threads = None if threads is None else check_whole("threads", threads, 1, 4096)
        self.calibration: dict[str, Floats] = {}
        self._size = size
        self._facts: FitFacts | None = None
        # Only for its checks: a fit makes its own.
        self._model: Model = make_model(method, self.settings.seed, given)

    def __repr__(self) -> str:
        settings, plain = self.settings, Settings()
        asked = {"method": settings.method, "seed": settings.seed, "size": settings.size}
        said = [
            f"{name}={value!r}" for name, value in asked.items() if value != getattr(plain, name)
        ]
        said += [f"{name}={_short(value)}" for name, value in self._given.items()]
        line = f"Detector({', '.join(said)})"
        if self._facts is None:
            return f"{line}, not fitted"
        facts = self._facts
        return (
            f"{line}, fitted on {facts.images:,} images of {facts.source}\n"
            f"  {self.model!r}, decides by {self.statistic}, p >= 1/{facts.calibration + 1:,}"
        )

    @property
    def facts(self) -> FitFacts:
        """What is known of the fit.

        Raises:
            ApproxMassError: there was none.
        """
        if self._facts is None:
            raise ApproxMassError(
                "this detector has learnt nothing yet: call fit first", code="not-fitted"
            )
        return self._facts

    @property
    def model(self) -> Model:
        """What was learnt.

        Raises:
            ApproxMassError: nothing was.
        """
        self.facts  # noqa: B018 - raises
        return self._model

    @property
    def shape(self) -> Shape:
        """`(C, H, W)` of the images as the model sees them."""
        return self.facts.shape

    @property
    def notes(self) -> Sequence[str]:
        """A remark for each choice of the fit that a person may want to know of."""
        return self.facts.notes

    @property
    def history(self) -> Sequence[EpochRecord]:
        """Of the training, an entry an epoch; empty for methods that have none to tell."""
        return self.model.history

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
        """Scores `(n,)` of the images held out, by the statistic behind the p-values."""
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

        Nine tenths train the flow. Of the held-out tenth, a quarter learns the usual range of each
        statistic and the rest gives the p-values, so that these keep their guarantee.

        Arguments:
            images: In-distribution images, at least 100, all of one size.
            labels: Their classes, for methods that learn a classifier: whatever `open_labels`
                takes; None for those that come with the images. The flow needs none.
            outliers: Images for methods that learn from some outliers (`energy`).
            checkpoint: File for the state of the training of a flow, so that it can be resumed;
                the other methods always go on where they stopped.
            resume: Go on from `checkpoint` if it is there.
            progress: Show remarks and a progress bar on standard error.

        Raises:
            ApproxMassError: images, labels or outliers that cannot be used, or options that do
                not go together.
            TrainingDivergedError: the loss became NaN or grew without bound.
        """
        started = time.monotonic()
        with limited_threads(self.threads):
            source, notes = _framed(open_images(images, size=self._size))
            model = make_model(self.settings.method, self.settings.seed, self._given)
            notes += model.plan(source.native_shape)
            order, training, reference = _split(len(source), self.settings, source.name)
            classes = self._classes(model, source, labels, order[training])
            others, learnt_from = self._outliers(model, source, outliers)
            sha256 = hashlib.sha256()
            # Each image goes to its place at once: the three parts are views of one array.
            data = torch.from_numpy(source.read(order=order, digest=sha256, threads=self.threads))
            given = FitData(
                training=data[training],
                reference=data[reference],
                sha256=sha256.hexdigest(),
                labels=classes,
                outliers=others,
            )
            run = FitRun(
                device=self.device,
                notes=notes,
                checkpoint=None if checkpoint is None else Path(checkpoint),
                resume=resume,
                progress=progress,
            )
            model.learn(given, run)
            calibration = data[reference.stop : training.start]
            scores = model.statistics_of(calibration)
        if not all(np.isfinite(values).all() for values in scores.values()):
            raise ApproxMassError(
                "the scores of in-distribution images are not finite: the method did not learn "
                "from them",
                code="diverged",
            )
        # Only now: a fit that fails leaves an earlier one as it was.
        self._model, self.calibration = model, scores
        self.settings = replace(self.settings, size=source.size, options=model.options())
        self._facts = FitFacts(
            shape=source.shape,
            source=source.name,
            sha256=given.sha256,
            training=len(given.training),
            reference=len(given.reference),
            calibration=len(calibration),
            outliers=learnt_from,
            notes=tuple(notes),
            fit_seconds=round(time.monotonic() - started, 2),
        )
        return self

    def _classes(
        self, model: Model, source: ImageSource, labels: Any, training: Pixels
    ) -> Labels | None:
        """The classes of the training images, if the model needs them."""
        if not model.needs_labels:
            if labels is not None:
                raise ApproxMassError(
                    f"{model.name} learns from no labels: give none", code="bad-labels"
                )
            return None
        found = source.labels() if labels is None else open_labels(labels)
        return check_labels(found, len(source), model.name, each=_FEWEST_OF_A_CLASS)[training]

    def _outliers(
        self, model: Model, source: ImageSource, outliers: Any
    ) -> tuple[Pixels | None, str | None]:
        """Outliers to learn from, and what they are."""
        if outliers is None:
            return None, None
        if not model.takes_outliers:
            raise ApproxMassError(
                f"{model.name} learns from no outliers: give none", code="bad-outliers"
            )
        opened = open_images(outliers, size=source.size)
        return opened.read(threads=self.threads), opened.name

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
            Each chunk, with the scores of its readable images. An image of another size or colour
            than the detector's is unreadable.
        """
        return self._score_chunks(self._open(images))

    def score_pixels(self, images: Pixels) -> Scores:
        """Score pixels `(N, C, H, W)`, uint8, that have the detector's `shape` already."""
        with limited_threads(self.threads):
            statistics = self.model.statistics_of(torch.from_numpy(images))
        statistic = statistics[self.statistic]
        p = p_values(self.calibration_scores, statistic)
        none = np.full(len(p), np.nan)
        return Scores(
            log_prob=-statistics.get("nll", none),
            mass=statistics.get("mass", none),
            statistic=statistic,
            p_value=p,
            is_outlier=p <= FALSE_ALARM_RATE,
            statistics=statistics,
        )

    def _open(self, images: Any) -> ImageSource:
        self.facts  # noqa: B018 - before the images are looked at
        return open_images(images, size=self.settings.size)

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
            ApproxMassError: a rate outside (0, 1), or below what the calibration images resolve.
        """
        if not 0 < false_alarm_rate < 1:
            raise ApproxMassError(
                f"false_alarm_rate must be in (0, 1), not {false_alarm_rate}", code="rate"
            )
        if control not in ("image", "discoveries"):
            raise ApproxMassError(
                f"control must be 'image' or 'discoveries', not {control!r}", code="bad-option"
            )
        smallest = smallest_p_value(self.calibration_scores)
        if false_alarm_rate < smallest:
            raise ApproxMassError(
                f"a false-alarm rate of {false_alarm_rate:g} needs at least "
                f"{math.ceil(1 / false_alarm_rate) - 1} calibration images: fit on more images "
                f"or ask for at least {smallest:.2g}",
                code="rate",
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

        Arguments:
            images: As for `score`; all read into memory.

        Raises:
            ApproxMassError: as `score`; or the method has no density.
        """
        source = self._open(images)
        return self.explain_pixels(source.read(shape=self.shape, threads=self.threads))

    def explain_pixels(self, images: Pixels) -> Explanation:
        """As `explain`, of pixels `(N, C, H, W)`, uint8, that have the detector's `shape`."""
        with limited_threads(self.threads):
            return self.model.explain(torch.from_numpy(images))

    def save(self, folder: str | Path) -> None:
        """Write the detector to a folder; an older detector there is replaced when this is whole.

        Raises:
            ApproxMassError: the folder holds something else, or cannot be written.
        """
        manifest = {
            "settings": self.settings.as_dict(),
            "facts": self.facts.as_dict(),
            "model": self.model.facts(),
        }
        scores = {f"scores.{k}": torch.from_numpy(v) for k, v in self.calibration.items()}
        tensors = {"weights": self.model.state(), "calibration": scores}
        artifact.save_folder(Path(folder), manifest, tensors)

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
            encoder: For a detector that was fitted with a module as its encoder: that module,
                whose code is not saved (its weights are).
            device: As for a new detector; it need not be that of the fit.
            threads: As for a new detector.

        Raises:
            ApproxMassError: no detector there, or one that is incomplete, altered or of another
                version; or a device that is not there.
        """
        manifest, tensors = artifact.load_folder(Path(folder))
        detector = cls(device=device, threads=threads)
        try:
            detector._restore(manifest, tensors, encoder)
        except ApproxMassError as error:
            raise ApproxMassError(f"{folder}: {error}", code=error.code) from error
        # No RuntimeError: a GPU that is full is no fault of the folder.
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ApproxMassError(
                f"{folder} was not written by this version of approxmass, or was edited: fit again",
                code="damaged",
            ) from error
        return detector

    def _restore(
        self,
        manifest: dict[str, Any],
        tensors: dict[str, dict[str, Tensor]],
        encoder: nn.Module | None,
    ) -> None:
        self.settings = settings = Settings(**manifest["settings"])
        self._size, self._given = settings.size, dict(settings.options)
        if encoder is not None:
            self._given["encoder"] = encoder
        facts = FitFacts.of(manifest["facts"])
        self._model = model_class(settings.method).from_saved(
            settings.options,
            settings.seed,
            facts.shape,
            tensors["weights"],
            manifest["model"],
            encoder,
        )
        self._model.to(self.device)
        scores = tensors_below(tensors["calibration"], "scores")
        self.calibration = {name: value.numpy() for name, value in scores.items()}
        self._facts = facts
        if len(self.calibration_scores) != facts.calibration:
            raise ValueError("another number of calibration scores")
        self.score_pixels(np.zeros((1, *facts.shape), np.uint8))  # what scoring will ask for


def _short(value: Any) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else repr(value)


def _framed(source: ImageSource) -> tuple[ImageSource, list[str]]:
    """The images at the size that a model sees, and a remark where they are resized unasked."""
    if source.size is not None:
        return source, []
    _, height, width = source.native_shape
    if max(height, width) <= _LARGEST_SIDE:
        return source, []
    return source.resized(_LARGEST_SIDE), [
        f"size: images are resized to {_LARGEST_SIDE}x{_LARGEST_SIDE} (the first is "
        f"{width}x{height}), as are all over {_LARGEST_SIDE} pixels a side; give a size to choose "
        "another"
    ]


def _split(count: int, settings: Settings, name: str) -> tuple[Any, slice, slice]:
    """An order of the images, and where in it are those to train on and those for reference.

    The rest, between the two, is for calibration.
    """
    if count < _FEWEST_IMAGES:
        raise ApproxMassError(
            f"{name} has {count} images: give at least {_FEWEST_IMAGES}, so that some can be "
            "held out to calibrate",
            code="too-few",
        )
    held = max(_FEWEST_HELD_OUT, round(settings.holdout * count))
    if held > 0.75 * count:
        raise ApproxMassError(
            f"holdout {settings.holdout} leaves too few images: use about 0.1", code="too-few"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    training, rest = hold_out(count, held, generator)
    order = torch.cat([rest, training]).numpy()
    return order, slice(held, count), slice(0, held // 4)
