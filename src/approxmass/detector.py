"""The detector: fit on in-distribution images, score others, decide, save and load."""

__all__ = ["Detector", "Scores"]

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import artifact
from .calibration import benjamini_hochberg, group_p_value, p_values, smallest_p_value
from .data import Chunk, ImageSource, open_images
from .encoders import Encoder, PixelEncoder, WhitenedEncoder
from .errors import ApproxMassError
from .flows import Flow, RealNVP, VectorFlow
from .progress import TrainingBar
from .scores import STATISTICS, Scorer
from .training import EpochRecord, TrainingSettings, train

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Images larger than this a side are resized to it unless a size is given.
_LARGEST_SIDE = 64
# Fewest images that leave enough for calibrating at a false-alarm rate of 5%.
_FEWEST_IMAGES = 100
# False-alarm rate behind `Scores.is_outlier`.
_FALSE_ALARM_RATE = 0.05


@dataclass(frozen=True)
class Scores:
    """Scores of N images, one row each; every array is `(N,)`.

    `log_prob` is in nats over what the flow models: pixels scaled to [0, 1] in `pixels` space,
    the code of the encoder elsewhere.
    """

    log_prob: Floats
    mass: Floats
    statistic: Floats  # the one behind the p-value; larger = more out-of-distribution
    p_value: Floats
    is_outlier: Bools  # p_value <= 0.05
    statistics: dict[str, Floats]  # every statistic of the space, by name


@dataclass(frozen=True)
class _Recipe:
    """How to train a kind of flow when nobody says otherwise."""

    images_seen: int  # epochs follow from it
    most_epochs: int
    training: TrainingSettings


def _recipe(space: str, preset: str, grey: bool) -> _Recipe:
    if space != "pixels":
        return _Recipe(220_000, 20, TrainingSettings(alpha=0, epochs=1, batch_size=512))
    if preset == "paper":
        rate = 5e-5 if grey else 1e-4
        settings = TrainingSettings(
            alpha=0, epochs=1, batch_size=32, learning_rate=rate, weight_decay=5e-5, clip=100
        )
        return _Recipe(10**12, 200, settings)
    settings = TrainingSettings(alpha=0, epochs=1, batch_size=32, learning_rate=1e-3, clip=100)
    return _Recipe(30_000, 40, settings)


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
        statistic: The score behind the p-values, one of `STATISTICS`.
        draws: Dequantisation draws an image (`pixels` only).

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
        statistic: str = "fused",
        draws: int = 1,
    ) -> None:
        if isinstance(space, str) and space not in ("auto", "pca", "pixels"):
            raise ApproxMassError(f"unknown space {space!r}: use 'auto', 'pca' or 'pixels'")
        if alpha != "auto" and not (isinstance(alpha, float | int) and 0 <= alpha < math.inf):
            raise ApproxMassError(f"alpha must be 'auto' or a number of at least 0, not {alpha!r}")
        if epochs != "auto" and not (isinstance(epochs, int) and epochs > 0):
            raise ApproxMassError(f"epochs must be 'auto' or at least 1, not {epochs!r}")
        if size is not None and size < 1:
            raise ApproxMassError(f"size must be at least 1, not {size}")
        if not 0 < holdout < 1:
            raise ApproxMassError(f"holdout must be between 0 and 1, not {holdout}")
        if statistic not in STATISTICS:
            known = ", ".join(STATISTICS)
            raise ApproxMassError(f"unknown statistic {statistic!r}: use one of {known}")
        if draws < 1 or components < 1:
            raise ApproxMassError("draws and components must be at least 1")
        self.space = space if isinstance(space, str) else "features"
        self.alpha, self.seed, self.preset, self.size = alpha, seed, preset, size
        self.components, self.epochs, self.holdout = components, epochs, holdout
        self.statistic, self.draws = statistic, draws
        self.features = space if isinstance(space, nn.Module) else None
        self._asked = (self.space, preset, size)
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.history: list[EpochRecord] = []
        self.calibration: dict[str, Floats] = {}
        self._scorer: Scorer | None = None

    def fit(
        self,
        images: Any,
        *,
        checkpoint: Path | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> "Detector":
        """Learn from in-distribution images, all read into memory as uint8.

        Nine tenths train the flow. Of the held-out tenth, a quarter learns the usual range of each
        statistic and the rest gives the p-values, so that these keep their guarantee.

        Arguments:
            images: In-distribution images, at least 100, all of one size.
            checkpoint: File for the state of the training, so that it can be resumed.
            resume: Go on from `checkpoint` if it is there.
            progress: Show remarks and a progress bar on standard error.

        Raises:
            ApproxMassError: images that cannot be used, or settings that do not go together.
            TrainingDivergedError: the loss became NaN or grew without bound.
        """
        started = time.monotonic()
        self.space, self.preset, self.size = self._asked  # an earlier fit has filled them in
        self.notes = []
        source = self._open_to_fit(images)
        data = torch.from_numpy(source.read())
        if len(data) < _FEWEST_IMAGES:
            raise ApproxMassError(
                f"{source.name} has {len(data)} images: give at least {_FEWEST_IMAGES}, so that "
                "some can be held out to calibrate"
            )
        shape = source.shape
        self._choose_space(shape)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(self.seed))
        held = max(_FEWEST_IMAGES * 2 // 5, round(self.holdout * len(data)))
        reference, calibration, training = order[: held // 4], order[held // 4 : held], order[held:]
        if len(training) < len(data) // 4:
            raise ApproxMassError(f"holdout {self.holdout} leaves too few images: use about 0.1")

        encoder, flow = self._build(data[training], shape)
        settings = self._training_settings(encoder, len(training), grey=shape[0] == 1)
        bar = self._bar(encoder, flow, settings) if progress else None
        with bar or contextlib.nullcontext():
            inputs = data[training] if self.space == "pixels" else _encode(encoder, data[training])
            self.history = train(
                flow, inputs, settings, checkpoint=checkpoint, resume=resume, on_step=bar
            )
        scorer = Scorer(encoder, flow, shape, draws=self.draws, seed=self.seed)
        scorer.fit(data[training], data[reference])
        self.calibration = scorer(data[calibration])
        self._scorer = scorer
        self.facts = {
            "shape": list(shape),
            "dimension": encoder.dimension,
            "weights": sum(p.numel() for p in flow.parameters()),
            "training": asdict(settings),
            "images": {
                "source": source.name,
                "sha256": hashlib.sha256(data.numpy().tobytes()).hexdigest(),
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
        parts = []
        source = open_images(images, size=self.size)
        for chunk, scores in self.score_chunks(source):
            chunk.require_readable(source.name)
            parts.append(scores)
        join = np.concatenate
        return Scores(
            join([p.log_prob for p in parts]),
            join([p.mass for p in parts]),
            join([p.statistic for p in parts]),
            join([p.p_value for p in parts]),
            join([p.is_outlier for p in parts]),
            {name: join([p.statistics[name] for p in parts]) for name in self._fitted.names},
        )

    def score_chunks(self, images: Any) -> Iterator[tuple[Chunk, Scores]]:
        """Score images piece by piece, in order and in flat memory.

        Yields:
            Each chunk, with the scores of its readable images.
        """
        scorer = self._fitted
        for chunk in self._open_to_score(images).chunks(2048):
            statistics = scorer(torch.from_numpy(chunk.images)) if len(chunk.images) else {}
            statistics = statistics or {name: np.empty(0) for name in scorer.names}
            statistic = statistics[self.statistic]
            p = p_values(self.calibration[self.statistic], statistic)
            yield (
                chunk,
                Scores(
                    -statistics["nll"],
                    statistics["mass"],
                    statistic,
                    p,
                    p <= _FALSE_ALARM_RATE,
                    statistics,
                ),
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
        self._fitted  # noqa: B018
        smallest = smallest_p_value(self.calibration[self.statistic])
        if false_alarm_rate < smallest:
            raise ApproxMassError(
                f"a false-alarm rate of {false_alarm_rate:g} needs at least "
                f"{math.ceil(1 / false_alarm_rate) - 1} calibration images: fit on more images "
                f"or ask for at least {smallest:.2g}"
            )
        p = self.score(images).p_value
        if control == "discoveries":
            return benjamini_hochberg(p, false_alarm_rate)
        called: Bools = p <= false_alarm_rate
        return called

    def group_p_value(self, images: Any) -> float:
        """One p-value for all the images together: has this batch or stream shifted?"""
        return group_p_value(self.calibration[self.statistic], self.score(images).statistic)

    def save(self, folder: str | Path) -> None:
        """Write the detector to a folder; an older detector there is replaced when this is whole.

        Raises:
            ApproxMassError: the folder holds something else, or cannot be written.
        """
        scorer = self._fitted
        manifest = {
            "settings": self.settings,
            "facts": self.facts,
            "notes": self.notes,
            "history": [asdict(record) for record in self.history],
        }
        weights = {f"flow.{k}": v for k, v in scorer.flow.state_dict().items()}
        weights |= {f"encoder.{k}": v for k, v in scorer.encoder.state_dict().items()}
        calibration = {f"scores.{k}": torch.from_numpy(v) for k, v in self.calibration.items()}
        calibration |= {f"reference.{k}": v for k, v in scorer.reference.items()}
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
        settings = dict(manifest["settings"])
        if (settings["space"] == "features") != (features is not None):
            raise ApproxMassError(
                f"{folder} was fitted on {'a' if features is None else 'no'} module of features: "
                f"load it with{'' if features is None else 'out'} features=..."
            )
        space = settings.pop("space")
        detector = cls(features if features is not None else space, **settings)
        detector.facts, detector.notes = manifest["facts"], manifest["notes"]
        detector.history = [EpochRecord(**record) for record in manifest["history"]]
        channels, height, width = manifest["facts"]["shape"]
        shape = (channels, height, width)
        weights = tensors["weights"]
        encoder: Encoder = PixelEncoder(shape)
        if space != "pixels":
            encoder = WhitenedEncoder(detector.components, features)
            for name in ("mean", "axes", "scale", "energy"):
                setattr(encoder, name, weights[f"encoder.{name}"])
        encoder.load_state_dict(_below(weights, "encoder"))
        flow = detector._flow(shape, encoder.dimension)
        flow.load_state_dict(_below(weights, "flow"))
        flow.to(_device())
        scorer = Scorer(encoder, flow, shape, draws=detector.draws, seed=detector.seed)
        scorer.reference = _below(tensors["calibration"], "reference")
        scores = _below(tensors["calibration"], "scores")
        detector.calibration = {name: value.numpy() for name, value in scores.items()}
        detector._scorer = scorer
        return detector

    @property
    def settings(self) -> dict[str, Any]:
        """What the detector was made with, `auto` replaced by what a fit chose."""
        names = "space alpha seed preset components size epochs holdout statistic draws"
        return {name: getattr(self, name) for name in names.split()}

    def describe(self) -> dict[str, Any]:
        """What a person wants to know of a fitted detector, as plain types."""
        self._fitted  # noqa: B018
        images, last = self.facts["images"], self.history[-1]
        scores = self.calibration[self.statistic]
        return {
            "space": self.space,
            "flow": f"{self.preset}, {self.facts['weights']:,} weights",
            "images": _describe(tuple(self.facts["shape"])),
            "dimension": self.facts["dimension"],
            "alpha": self.facts["training"]["alpha"],
            "epochs": self.facts["training"]["epochs"],
            "seed": self.seed,
            "last epoch": f"NLL {last.nll:,.2f} nats"
            + ("" if last.mass is None else f", mass {last.mass:,.2f}"),
            "fitted on": f"{images['source']}, {images['training']:,} images",
            "fingerprint": images["sha256"],
            "calibrated on": f"{images['calibration']:,} held-out images",
            "statistic": self.statistic,
            "threshold at 5%": float(np.quantile(scores, 0.95, method="higher")),
            "smallest p-value": smallest_p_value(scores),
            "fit seconds": self.facts["fit_seconds"],
            "notes": "; ".join(self.notes) or "none",
        }

    @property
    def _fitted(self) -> Scorer:
        if self._scorer is None:
            raise ApproxMassError("this detector has learnt nothing yet: call fit first")
        return self._scorer

    def _open_to_fit(self, images: Any) -> ImageSource:
        source = open_images(images, size=self.size)
        side = max(source.native_shape[1:])
        if self.size is None and side > _LARGEST_SIDE:
            height, width = source.native_shape[1:]
            self.size = _LARGEST_SIDE
            self.notes.append(
                f"size: images of {height}x{width} are resized to {self.size}x{self.size}, the "
                "largest side that is kept unless a size is given"
            )
            source = source.resized(self.size)
        return source

    def _open_to_score(self, images: Any) -> ImageSource:
        source = open_images(images, size=self.size)
        expected = tuple(self.facts["shape"])
        if source.shape != expected:
            raise ApproxMassError(
                f"{source.name} has images of {_describe(source.shape)}, but the detector was "
                f"fitted on {_describe(expected)}: convert them, or fit with a size and images of "
                "the same colours"
            )
        return source

    def _choose_space(self, shape: tuple[int, int, int]) -> None:
        if self.space == "auto":
            self.space = "pca" if shape[0] == 1 else "pixels"
            why = (
                "the images are grey, and there the whitened mass is strongest"
                if shape[0] == 1
                else "the images are in colour, and there the latent fit of a pixel flow is "
                "strongest"
            )
            self.notes.append(f"space: {self.space}, because {why}")
        if self.preset == "auto":
            self.preset = "compact" if self.space == "pixels" else "realnvp"

    def _build(self, training: Tensor, shape: tuple[int, int, int]) -> tuple[Encoder, Flow]:
        if self.space == "pixels":
            return PixelEncoder(shape), self._flow(shape, math.prod(shape))
        if self.features is not None:
            self.features.cpu()  # PCA runs there
        encoder = WhitenedEncoder(self.components, self.features).fit(training, seed=self.seed)
        return encoder, self._flow(shape, encoder.dimension)

    def _flow(self, shape: tuple[int, int, int], dimension: int) -> Flow:
        if self.space != "pixels":
            return VectorFlow(self.preset, dimension, seed=self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return RealNVP.preset(self.preset, shape)

    def _training_settings(self, encoder: Encoder, count: int, grey: bool) -> TrainingSettings:
        recipe = _recipe(self.space, self.preset, grey)
        if self.alpha != "auto":
            alpha = float(self.alpha)
        else:
            alpha = 2 / 32 if self.space == "pixels" else 0.35 * math.sqrt(encoder.dimension)
        if self.epochs != "auto":
            epochs = self.epochs
        else:
            epochs = min(recipe.most_epochs, max(1, round(recipe.images_seen / count)))
        return replace(recipe.training, alpha=alpha, epochs=epochs, seed=self.seed)

    def _bar(self, encoder: Encoder, flow: Flow, settings: TrainingSettings) -> TrainingBar:
        bar = TrainingBar()
        if self.space == "pixels":
            per_dim = 1 / (encoder.dimension * math.log(2))
            bar = TrainingBar("bits/dim", (per_dim, math.log2(255)))
        weights = sum(p.numel() for p in flow.parameters())
        for note in self.notes:
            bar.console.print(note, soft_wrap=True)
        bar.console.print(
            f"flow: {self.preset}, {weights:,} weights on {encoder.dimension} dimensions; "
            f"alpha {settings.alpha:.3g}, {settings.epochs} epochs"
        )
        return bar


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under `prefix.`, without it."""
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _describe(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[2]} {'grey' if shape[0] == 1 else 'colour'}"


@torch.no_grad()
def _encode(encoder: Encoder, images: Tensor) -> Tensor:
    encoder.to(_device())
    batches = torch.split(images, 4096)
    return torch.cat([encoder(batch.to(_device()).float() / 255) for batch in batches])
