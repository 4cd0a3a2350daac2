"""The RealNVP of the paper on pixels, vanilla and penalised, with its weights after some epochs.

Trained once: weights, history and scores lie in the cache folder, by a digest of all that makes
them. An unfinished training goes on where it stopped.
"""

__all__ = ["TRAININGS", "PixelFlow", "Recipe", "recipe"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..arrays import Floats, Pixels, Shape
from ..encoders import PixelEncoder
from ..errors import ApproxMassError
from ..flows import RealNVP
from ..flows.resnet import Norm
from ..models.scorer import FlowScorer
from ..runtime.machine import (
    all_processes,
    fast_bf16,
    is_main_process,
    machine_facts,
    pick_device,
)
from ..runtime.random import seeded_init
from ..storage.atomic import write_atomic, write_json
from ..storage.cache import cache_folder, cache_key, check_cache
from ..storage.tensors import digest, load_exactly
from ..training.flow import StepReport, TrainingSettings, train
from ..training.recipes import PUBLISHED
from .runs import read_facts

# Weight of the mass: 2 for the gradient of the mean of 32 images, as published.
TRAININGS = {"untrained": 0.0, "vanilla": 0.0, "penalised": 2 / 32}
_SEED = 0
# Images that are not trained on, to learn what is in-distribution from.
_REFERENCE = 2000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A size of RealNVP and how to train it.

    Attributes:
        scales: Of the flow.
        blocks: Of the flow.
        mid_channels: Of the flow.
        norm: Of the flow.
        images: Training images, the first; negative for all but the last so many.
        epochs: Epochs after which the weights are kept, the last of them the end.
        batch_size: Images a step.
        learning_rate: Its peak.
        seconds: About how long it takes on two cores, vanilla and penalised.
    """

    scales: int
    blocks: int
    mid_channels: int
    norm: Norm = "batch"
    images: int
    epochs: tuple[int, ...]
    batch_size: int = 32
    learning_rate: float
    seconds: Mapping[str, float] = field(default_factory=dict)

    def build(self, shape: Shape) -> RealNVP:
        """The untrained flow for images `(C, H, W)`."""
        with seeded_init(_SEED):
            return RealNVP(
                shape,
                scales=self.scales,
                blocks=self.blocks,
                mid_channels=self.mid_channels,
                norm=self.norm,
            )

    def training(self, alpha: float) -> TrainingSettings:
        """Settings of `train` on this machine."""
        return TrainingSettings(
            alpha=alpha,
            epochs=self.epochs[-1],
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=_SEED,
            precision="bf16" if fast_bf16(pick_device()) else "no",
            **PUBLISHED,
        )


def _compact(images: int, *, vanilla: float, penalised: float) -> Recipe:
    """The published flow made small, for so many images; and the seconds of each training."""
    return Recipe(
        scales=2,
        blocks=2,
        mid_channels=16,
        images=images,
        epochs=tuple(range(1, 9)),
        learning_rate=2e-3,
        seconds={"vanilla": vanilla, "penalised": penalised},
    )


def _published(*, scales: int, blocks: int, learning_rate: float) -> Recipe:
    return Recipe(
        scales=scales,
        blocks=blocks,
        mid_channels=64,
        images=-_REFERENCE,
        epochs=(1, 2, 5, 10, 20, 40, 60, 80, 100, 150, 200),
        learning_rate=learning_rate,
    )


# By the number of channels.
_COMPACT = {
    1: _compact(5000, vanilla=170, penalised=480),
    3: _compact(3600, vanilla=130, penalised=640),
}
# As a detector has it by default in colour: no norm, and longer.
_DETECTOR = {
    3: Recipe(
        scales=2,
        blocks=2,
        mid_channels=16,
        norm="none",
        images=3600,
        epochs=(7, 14, 21, 28),
        batch_size=16,
        learning_rate=3e-3,
        seconds={"vanilla": 265, "penalised": 800},
    ),
}
_PAPER = {
    1: _published(scales=2, blocks=4, learning_rate=5e-5),
    3: _published(scales=3, blocks=6, learning_rate=1e-4),
}


def recipe(scale: str, channels: int, *, detector: bool = False) -> Recipe:
    """The recipe for grey (1 channel) or colour images (3).

    Arguments:
        scale: `laptop` or `full`.
        channels: Of the images.
        detector: At laptop scale, the flow of a detector where its default is pixels, instead of
            the published flow made small.
    """
    if scale != "laptop":
        return _PAPER[channels]
    return _DETECTOR.get(channels, _COMPACT[channels]) if detector else _COMPACT[channels]


class PixelFlow:
    """A flow trained, or taken from the cache.

    Arguments:
        images: Training images `(N, C, H, W)`, uint8.
        training: Of `TRAININGS`.
        how: Recipe.

    Attributes:
        images: Those trained on.
        reference: Others, to learn what is in-distribution from.
        settings: Of the training.
        epochs: After which there are weights, 0 for the untrained flow.
        facts: `seconds` that the training took, and its `history`.

    Raises:
        ApproxMassError: too few images, or a cache that is damaged or cannot be written.
    """

    def __init__(self, images: Pixels, training: str, how: Recipe) -> None:
        self.how = how
        if not len(images[: how.images]) < len(images):
            raise ApproxMassError(
                f"{len(images):,} images are too few: the flow trains on {how.images:,}, and what "
                "is in-distribution is learnt from others; give more",
                code="too-few",
            )
        self.images = torch.from_numpy(images[: how.images])
        self.reference = torch.from_numpy(images[how.images :][:_REFERENCE])
        _, channels, height, width = images.shape
        self.shape: Shape = (channels, height, width)
        self.settings = how.training(TRAININGS[training])
        untrained = how.build(self.shape)
        data = digest(self.images)
        identity: dict[str, Any] = {
            "flow": digest(*untrained.state_dict().values()),
            "settings": asdict(self.settings),
            "data": data,
            "device": pick_device().type,
            "packages": machine_facts()["packages"],
        }
        processes = all_processes().num_processes
        if processes > 1:  # BatchNorm sees what each of them has of a batch
            identity["processes"] = processes
        self.folder = cache_folder() / f"pixel-flow-{cache_key(identity)}"
        if training == "untrained":
            self.epochs: tuple[int, ...] = (0,)
            self.facts: dict[str, Any] = {"seconds": 0.0, "history": []}
            self._once([self._weights(0)], lambda: self._keep(untrained, 0))
        else:
            self.epochs = (0, *how.epochs)
            record = self.folder / "facts.json"
            files = [record, *map(self._weights, self.epochs)]
            self._once(files, lambda: self._train(untrained, data, record))
            self.facts = read_facts(record, "seconds", "history")

    def _once(self, files: Sequence[Path], make: Callable[[], None]) -> None:
        """Make files of the cache unless they are there; then all processes have them."""
        if not all(file.exists() for file in files):
            check_cache(files[0])
            make()
        all_processes().wait_for_everyone()

    def _weights(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch}.safetensors"

    def _keep(self, flow: RealNVP, epoch: int, seconds: float = 0.0) -> None:
        _write(self._weights(epoch), flow.state_dict(), seconds)

    def _train(self, flow: RealNVP, data: str, record: Path) -> None:
        self._keep(flow, 0)

        def after(step: StepReport) -> None:
            ended = step.step % (step.steps // self.settings.epochs) == 0
            if ended and step.epoch in self.epochs:
                self._keep(flow, step.epoch, step.seconds)

        checkpoint = self.folder / "training"
        history = train(
            flow,
            self.images,
            self.settings,
            checkpoint=checkpoint,
            resume=True,
            fingerprint=data,
            on_step=after,
        )
        if is_main_process():
            # From the file: a run that was stopped in its last step has no step left to report.
            _, seconds = _read(self._weights(self.epochs[-1]))
            write_json(record, {"seconds": seconds, "history": [asdict(e) for e in history]})
            checkpoint.unlink(missing_ok=True)

    def flow(self, epoch: int | None = None) -> RealNVP:
        """The flow as it was after an epoch; None for the last.

        Raises:
            ApproxMassError: its file is damaged.
        """
        place = self._weights(self.epochs[-1] if epoch is None else epoch)
        flow, (tensors, _) = self.how.build(self.shape), _read(place)
        try:
            load_exactly(flow, tensors)
        except ValueError as error:
            raise _damaged(place) from error
        return flow.to(pick_device()).eval()

    def scorer(self, epoch: int | None = None) -> FlowScorer:
        """Its scorer, which has yet to be fitted for more than `raw`."""
        return FlowScorer(PixelEncoder(self.shape), self.flow(epoch), self.shape, seed=_SEED)

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts."""
        return {
            "weights": sum(p.numel() for p in self.how.build(self.shape).parameters()),
            "training_images": len(self.images),
            **asdict(self.settings),
            **self.facts,
        }

    def scores(self, images: Pixels, epoch: int | None = None) -> dict[str, Floats]:
        """`nll` and `mass` `(N,)` of images `(N, C, H, W)`, uint8; in eval mode.

        From the cache where they are there.
        """
        epoch = self.epochs[-1] if epoch is None else epoch
        place = self.folder / f"scores-{epoch}-{digest(images)[:24]}.safetensors"

        def score() -> None:
            found = self.scorer(epoch).raw(torch.from_numpy(images))
            _write(place, {name: found[name] for name in ("nll", "mass")})

        self._once([place], score)
        return {name: values.numpy() for name, values in _read(place)[0].items()}


def _write(place: Path, tensors: Mapping[str, Tensor], seconds: float = 0.0) -> None:
    """Tensors by name, their digest, and the seconds that they took."""
    if is_main_process():
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        facts = {"digest": _digest(plain), "seconds": str(seconds)}
        with write_atomic(place) as beside:
            beside.write_bytes(save(plain, facts))


def _read(place: Path) -> tuple[dict[str, Tensor], float]:
    try:
        with safe_open(place, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = file.metadata()
        whole = facts["digest"] == _digest(tensors)
        seconds = float(facts["seconds"])
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise _damaged(place) from error
    if not whole:
        raise _damaged(place)
    return tensors, seconds


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return digest(*(tensors[name] for name in sorted(tensors)))


def _damaged(place: Path) -> ApproxMassError:
    return ApproxMassError(f"{place} was cut short or edited: remove its folder", code="damaged")
