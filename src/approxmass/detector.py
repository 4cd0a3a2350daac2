"""The detector: fit on in-distribution images, score others, decide, save and load."""

__all__ = ["Detector", "Scores"]

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import artifact
from .baseline_model import BaselineScorer, fit_baseline, restore_baseline
from .calibration import (
    FALSE_ALARM_RATE,
    benjamini_hochberg,
    group_p_value,
    p_values,
    smallest_p_value,
)
from .data import Chunk, open_images
from .errors import ApproxMassError
from .explain import Explanation, explain
from .flow_model import fit_flow, flow_tensors, restore_flow
from .scores import Scorer
from .settings import Settings
from .training import EpochRecord

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Fewest images that leave enough for calibrating at a false-alarm rate of 5%.
_FEWEST_IMAGES = 100
_FEWEST_HELD_OUT = 40


@dataclass(frozen=True)
class Scores:
    """Scores of N images, one row each; every array is `(N,)`.

    `log_prob` is in nats over what the flow models: pixels scaled to [0, 1] in `pixels` space,
    the code of the encoder elsewhere. It and the mass are NaN for methods other than `flow`.
    """

    log_prob: Floats
    mass: Floats
    statistic: Floats  # the one behind the p-value; larger = more out-of-distribution
    p_value: Floats
    is_outlier: Bools  # p_value <= 0.05
    statistics: dict[str, Floats]  # every statistic of the method, by name

    @classmethod
    def join(cls, parts: Sequence["Scores"]) -> "Scores":
        """The scores of one or more pieces, one after the other."""

        def column(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        names = parts[0].statistics
        return cls(
            column("log_prob"),
            column("mass"),
            column("statistic"),
            column("p_value"),
            column("is_outlier"),
            {n: np.concatenate([part.statistics[n] for part in parts]) for n in names},
        )


class Detector:
    """Learns one class of images without any outlier, and then tells which images do not belong.

    Images are anything that `open_images` takes: an array `(N, H, W)`, `(N, C, H, W)` or
    `(N, H, W, C)`, uint8 or float in [0, 1]; a folder; a file; a named source.

    Arguments:
        space: What the flow models: `pca` (whitened principal components), `pixels`, `auto` (pca
            for grey images, pixels for colour), or a module from pixels `(N, C, H, W)` in [0, 1]
            to features, which are whitened like `pca`.
        alpha: Weight of the approximate mass in the loss, at least 0. `auto` is
            `0.35 sqrt(dimension)` in whitened spaces and 2/32 in `pixels`, as released.
        seed: Fixes the split, the initial weights, the training and the scores.
        preset: The flow: `compact` or `paper` in `pixels`; a name of `VECTOR_FLOWS` elsewhere.
        components: Most principal components in whitened spaces.
        size: Resize every image to `size x size`. None leaves images of up to 64 pixels a side as
            they are and resizes larger ones to 64x64.
        epochs: Passes over the training images; `auto` follows from their number.
        holdout: Share of the images held out to calibrate, never trained on.
        statistic: The score behind the p-values, one of `STATISTICS`; `auto` is `latent_fit` for
            colour images in pixel space, else `fused`.
        draws: Dequantisation draws an image (`pixels` only).
        method: `flow`, or a rival to compare with, one of `approxmass.baselines.BASELINES`, which
            is calibrated in the same way. Space, alpha, preset, components, statistic and draws
            belong to the flow alone.
        options: Options of a rival, as its class takes them.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> usual = generator.normal(0.5, 0.1, (400, 8, 8)).clip(0, 1)
        >>> detector = Detector(epochs=2).fit(usual)
        >>> unusual = generator.uniform(0, 1, (20, 8, 8))
        >>> bool(detector.predict(unusual).mean() > 0.9)
        True
    """

    def __init__(
        self,
        space: str | nn.Module = "auto",
        alpha: float | Literal["auto"] = "auto",
        seed: int = 0,
        *,
        preset: str = "auto",
        components: int = 128,
        size: int | None = None,
        epochs: int | Literal["auto"] = "auto",
        holdout: float = 0.1,
        statistic: str = "auto",
        draws: int = 1,
        method: str = "flow",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.features = space if isinstance(space, nn.Module) else None
        self.asked = Settings(
            space if isinstance(space, str) else "features",
            alpha,
            seed,
            preset,
            components,
            size,
            epochs,
            holdout,
            statistic,
            draws,
            method,
            {} if options is None else options,
        )
        self.settings = self.asked  # after a fit: what `auto` has become
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.history: list[EpochRecord] = []
        self.calibration: dict[str, Floats] = {}
        self._scorer: Scorer | BaselineScorer | None = None

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in asdict(self.settings).items())
        state = f"fitted on {self.facts['images']['source']}" if self.facts else "not fitted"
        return f"Detector({options}; {state})"

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
            ApproxMassError: images, labels or outliers that cannot be used, or settings that do
                not go together.
            TrainingDivergedError: the loss became NaN or grew without bound.
        """
        started = time.monotonic()
        source = open_images(images, size=self.asked.size)
        settings, notes = replace(self.asked, size=source.size).resolve(source.native_shape)
        source = source if settings.size is None else source.resized(settings.size)
        shape = source.shape
        data = torch.from_numpy(source.read())
        fingerprint = hashlib.sha256(data.numpy().data).hexdigest()
        parts = _split(len(data), settings, source.name)
        training, reference, calibration = (data[part] for part in parts)
        scorer: Scorer | BaselineScorer
        history: list[EpochRecord] = []
        if settings.method == "flow":
            if labels is not None or outliers is not None:
                raise ApproxMassError("a flow learns from no labels and no outliers: give none")
            scorer, history, facts = fit_flow(
                settings,
                self.features,
                training,
                reference,
                fingerprint=fingerprint,
                notes=notes,
                checkpoint=None if checkpoint is None else Path(checkpoint),
                resume=resume,
                progress=progress,
            )
        else:
            scorer, facts = fit_baseline(
                settings, data, parts[0], source.name, labels, outliers, progress=progress
            )
        scores = scorer(calibration)
        if not all(np.isfinite(values).all() for values in scores.values()):
            raise ApproxMassError(
                "the scores of usual images are not finite: the method did not learn from them"
            )
        # Only now: a fit that fails leaves an earlier one as it was.
        self.calibration = scores
        self.settings, self.notes, self.history, self._scorer = settings, notes, history, scorer
        self.facts = {
            "shape": list(shape),
            **facts,
            "images": {
                "source": source.name,
                "sha256": fingerprint,
                "training": len(training),
                "reference": len(reference),
                "calibration": len(calibration),
            },
            "fit_seconds": round(time.monotonic() - started, 2),
        }
        return self

    def score(self, images: Any) -> Scores:
        """Score images: arrays of one row an image; see `Scores`.

        Raises:
            ApproxMassError: an unreadable image, or one of another size than the detector's.
        """
        source = open_images(images, size=self.settings.size)
        parts = []
        for chunk, scores in self.score_chunks(source):
            chunk.require_readable(source.name)
            parts.append(scores)
        return Scores.join(parts)

    def score_chunks(self, images: Any) -> Iterator[tuple[Chunk, Scores]]:
        """Score images piece by piece, in order and in flat memory.

        Yields:
            Each chunk, with the scores of its readable images. An image of another size or colour
            than the detector's is unreadable.
        """
        scorer = self._fitted
        source = open_images(images, size=self.settings.size)
        for chunk in source.chunks(2048, shape=scorer.shape):
            yield chunk, self._scores(scorer(torch.from_numpy(chunk.images)))

    def _scores(self, statistics: dict[str, Floats]) -> Scores:
        statistic = statistics[self.settings.statistic]
        p = p_values(self.calibration[self.settings.statistic], statistic)
        none = np.full(len(p), np.nan)
        return Scores(
            -statistics.get("nll", none),
            statistics.get("mass", none),
            statistic,
            p,
            p <= FALSE_ALARM_RATE,
            statistics,
        )

    def predict(
        self,
        images: Any,
        false_alarm_rate: float = 0.05,
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
            raise ApproxMassError(f"false_alarm_rate must be in (0, 1), not {false_alarm_rate}")
        if control not in ("image", "discoveries"):
            raise ApproxMassError(f"control must be 'image' or 'discoveries', not {control!r}")
        p = self.score(images).p_value
        smallest = smallest_p_value(self.calibration[self.settings.statistic])
        if false_alarm_rate < smallest:
            raise ApproxMassError(
                f"a false-alarm rate of {false_alarm_rate:g} needs at least "
                f"{math.ceil(1 / false_alarm_rate) - 1} calibration images: fit on more images "
                f"or ask for at least {smallest:.2g}"
            )
        if control == "discoveries":
            return benjamini_hochberg(p, false_alarm_rate)
        called: Bools = p <= false_alarm_rate
        return called

    def group_p_value(self, images: Any) -> float:
        """One p-value for all the images together: has this batch or stream shifted?"""
        return group_p_value(
            self.calibration[self.settings.statistic], self.score(images).statistic
        )

    def explain(self, images: Any) -> Explanation:
        """Where in each image, and in which components, the approximate mass comes from.

        Arguments:
            images: As for `score`; all read into memory.

        Raises:
            ApproxMassError: as `score`; or the method is not a flow.
        """
        scorer = self._fitted
        if not isinstance(scorer, Scorer):
            raise ApproxMassError(
                f"{self.settings.method} has no density to explain: fit a detector of the method "
                "flow"
            )
        source = open_images(images, size=self.settings.size)
        return explain(scorer, torch.from_numpy(source.read(shape=scorer.shape)))

    def save(self, folder: str | Path) -> None:
        """Write the detector to a folder; an older detector there is replaced when this is whole.

        Raises:
            ApproxMassError: the folder holds something else, or cannot be written.
        """
        scorer = self._fitted
        manifest = {
            "settings": asdict(self.settings),
            "facts": self.facts,
            "notes": self.notes,
            "history": [asdict(record) for record in self.history],
        }
        if isinstance(scorer, BaselineScorer):
            weights, reference = scorer.baseline.state(), dict[str, Tensor]()
        else:
            weights, reference = flow_tensors(scorer)
        calibration = {f"scores.{k}": torch.from_numpy(v) for k, v in self.calibration.items()}
        calibration |= {f"reference.{k}": v for k, v in reference.items()}
        artifact.save_folder(
            Path(folder), manifest, {"weights": weights, "calibration": calibration}
        )

    @classmethod
    def load(cls, folder: str | Path, *, features: nn.Module | None = None) -> "Detector":
        """Read a saved detector.

        Arguments:
            folder: Where it was saved.
            features: For a detector that was fitted with a module as its space: that module, whose
                code is not saved (its weights are).

        Raises:
            ApproxMassError: no detector there, or one that is incomplete, altered or newer.
        """
        manifest, tensors = artifact.load_folder(Path(folder))
        try:
            return cls._restore(manifest, tensors, features)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if isinstance(error, ApproxMassError):
                raise ApproxMassError(f"{folder}: {error}") from error
            raise ApproxMassError(
                f"{folder} was not written by this version of approxmass, or was edited: fit again"
            ) from error

    @classmethod
    def _restore(
        cls,
        manifest: dict[str, Any],
        tensors: dict[str, dict[str, Tensor]],
        features: nn.Module | None,
    ) -> "Detector":
        settings = Settings(**manifest["settings"])
        detector = cls()
        detector.asked = detector.settings = settings
        detector.features = features
        detector.facts, detector.notes = manifest["facts"], manifest["notes"]
        detector.history = [EpochRecord(**record) for record in manifest["history"]]
        # What `inspect` will ask for, so that it is missed now.
        for name in ("source", "sha256", "training", "reference", "calibration"):
            detector.facts["images"][name]
        detector.facts["weights"], detector.facts["fit_seconds"]
        channels, height, width = manifest["facts"]["shape"]
        shape = (channels, height, width)
        scores = artifact.tensors_below(tensors["calibration"], "scores")
        detector.calibration = {name: value.numpy() for name, value in scores.items()}
        if settings.method == "flow":
            for name in ("alpha", "epochs"):
                detector.facts["training"][name]
            detector.facts["dimension"], detector.history[-1]
            reference = artifact.tensors_below(tensors["calibration"], "reference")
            detector._scorer = restore_flow(
                settings, features, shape, tensors["weights"], reference
            )
        else:
            detector._scorer = restore_baseline(settings, tensors["weights"], shape)
        detector.score(np.zeros((1, *shape), np.uint8))  # and what scoring will ask for
        return detector

    @property
    def _fitted(self) -> "Scorer | BaselineScorer":
        if self._scorer is None:
            raise ApproxMassError("this detector has learnt nothing yet: call fit first")
        return self._scorer


def _split(count: int, settings: Settings, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Places of the training, reference and calibration images, at random."""
    if count < _FEWEST_IMAGES:
        raise ApproxMassError(
            f"{name} has {count} images: give at least {_FEWEST_IMAGES}, so that some can be "
            "held out to calibrate"
        )
    held = max(_FEWEST_HELD_OUT, round(settings.holdout * count))
    if held > 0.75 * count:
        raise ApproxMassError(f"holdout {settings.holdout} leaves too few images: use about 0.1")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))
    return order[held:], order[: held // 4], order[held // 4 : held]
