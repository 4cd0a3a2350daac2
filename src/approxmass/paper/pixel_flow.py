"""The RealNVP of the paper on pixels, vanilla and penalised, with its weights after some epochs.

Trained once: weights, history and scores lie in the cache folder of the baselines, by a digest of
all that makes them. An unfinished training goes on where it stopped.
"""

__all__ = ["TRAININGS", "PixelFlow", "Recipe", "recipe"]

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..artifact import write_atomic, write_json
from ..baselines.base import Floats
from ..baselines.training import cache_folder
from ..encoders import PixelEncoder
from ..errors import ApproxMassError
from ..flows import RealNVP
from ..flows.resnet import Norm
from ..machine import all_processes, default_device, fast_bf16, is_main_process, machine_facts
from ..resumable import digest
from ..scores import Scorer, capped
from ..training import StepReport, TrainingSettings, train
from .runs import read_facts

# Weight of the mass: 2 for the gradient of the mean of 32 images, as published.
TRAININGS = {"untrained": 0.0, "vanilla": 0.0, "penalised": 2 / 32}
_SEED = 0
# Images that are not trained on, to learn what is usual from.
_REFERENCE = 2000


@dataclass(frozen=True)
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
    norm: Norm
    images: int
    epochs: tuple[int, ...]
    batch_size: int
    learning_rate: float
    seconds: Mapping[str, float] = field(default_factory=dict)

    def build(self, shape: tuple[int, ...]) -> RealNVP:
        """The untrained flow."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            return RealNVP(
                shape,
                scales=self.scales,
                blocks=self.blocks,
                mid_channels=self.mid_channels,
                norm=self.norm,
            )

    def training(self, alpha: float) -> TrainingSettings:
        """Settings of `train`."""
        return TrainingSettings(
            alpha=alpha,
            epochs=self.epochs[-1],
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=5e-5,
            clip=100,
            seed=_SEED,
            precision="bf16" if fast_bf16() else "no",
        )


def _seconds(vanilla: float, penalised: float) -> dict[str, float]:
    return {"vanilla": vanilla, "penalised": penalised}


_COMPACT = {
    1: Recipe(2, 2, 16, "batch", 5000, tuple(range(1, 9)), 32, 2e-3, _seconds(170, 480)),
    3: Recipe(2, 2, 16, "batch", 3600, tuple(range(1, 9)), 32, 2e-3, _seconds(130, 640)),
}
# As a detector has it by default in colour: no norm, and longer.
_DETECTOR = {
    3: Recipe(2, 2, 16, "none", 3600, (7, 14, 21, 28), 16, 3e-3, _seconds(265, 800)),
}
_KEPT = (1, 2, 5, 10, 20, 40, 60, 80, 100, 150, 200)
_PAPER = {
    1: Recipe(2, 4, 64, "batch", -_REFERENCE, _KEPT, 32, 5e-5),
    3: Recipe(3, 6, 64, "batch", -_REFERENCE, _KEPT, 32, 1e-4),
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
    """

    def __init__(self, images: NDArray[np.uint8], training: str, how: Recipe) -> None:
        self.how = how
        if not len(images[: how.images]) < len(images):
            raise ApproxMassError(
                f"{len(images):,} images are too few: the flow trains on {how.images:,}, and what "
                "is usual is learnt from others; give more"
            )
        self.images = torch.from_numpy(images[: how.images])
        self.reference = torch.from_numpy(images[how.images :][:_REFERENCE])
        self.training = training
        self.shape = self.images.shape[1:]
        flow = how.build(self.shape)
        self.settings = how.training(TRAININGS[training])
        data = digest(self.images)
        identity = {
            "flow": digest(*flow.state_dict().values()),
            "settings": asdict(self.settings),
            "data": data,
            "device": default_device().type,
            "packages": machine_facts()["packages"],
        }
        processes = all_processes().num_processes
        if processes > 1:  # BatchNorm sees what each of them has of a batch
            identity["processes"] = processes
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
        self.folder = cache_folder() / f"pixel-flow-{key}"
        self.epochs = (0,) if training == "untrained" else (0, *how.epochs)
        self.facts: dict[str, Any] = {"seconds": 0.0, "history": []}
        self._train(flow, data)

    def _weights(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch}.safetensors"

    def _keep(self, flow: RealNVP, epoch: int) -> None:
        _write(self._weights(epoch), flow.state_dict())

    def _train(self, flow: RealNVP, data: str) -> None:
        record = self.folder / "facts.json"
        if all(self._weights(epoch).exists() for epoch in self.epochs) and (
            self.training == "untrained" or record.exists()
        ):
            if self.training != "untrained":
                self.facts = read_facts(record, "seconds", "history")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep(flow, 0)
        if self.training == "untrained":
            all_processes().wait_for_everyone()
            return
        clock = self.folder / "seconds.json"
        before = read_facts(clock, "seconds")["seconds"] if clock.exists() else 0.0
        started = time.monotonic()

        def after(step: StepReport) -> None:
            if step.step % (step.steps // self.settings.epochs):
                return
            if step.epoch in self.epochs:
                self._keep(flow, step.epoch)
            if is_main_process():
                write_json(clock, {"seconds": before + time.monotonic() - started})

        history = train(
            flow,
            self.images,
            self.settings,
            checkpoint=self.folder / "training",
            resume=True,
            fingerprint=data,
            on_step=after,
        )
        seconds = before + time.monotonic() - started
        self.facts = {"seconds": seconds, "history": [asdict(each) for each in history]}
        if is_main_process():
            write_json(record, self.facts)
            (self.folder / "training").unlink(missing_ok=True)
        all_processes().wait_for_everyone()

    def flow(self, epoch: int | None = None) -> RealNVP:
        """The flow as it was after an epoch; None for the last."""
        epoch = self.epochs[-1] if epoch is None else epoch
        flow = self.how.build(self.shape)
        flow.load_state_dict(_read(self._weights(epoch)))
        return flow.to(default_device()).eval()

    def scorer(self, epoch: int | None = None) -> Scorer:
        """Its scorer, which has yet to be fitted for more than `raw`."""
        channels, height, width = self.shape
        shape = (channels, height, width)
        return Scorer(PixelEncoder(shape), self.flow(epoch), shape, draws=1, seed=_SEED)

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts."""
        return {
            "weights": sum(p.numel() for p in self.how.build(self.shape).parameters()),
            "training_images": len(self.images),
            **asdict(self.settings),
            **self.facts,
        }

    def scores(self, images: Tensor, epoch: int | None = None) -> dict[str, Floats]:
        """`nll` and `mass` of each image, eval mode; from the cache where they are there."""
        epoch = self.epochs[-1] if epoch is None else epoch
        place = self.folder / f"scores-{epoch}-{digest(images)[:24]}.safetensors"
        if not place.exists():
            found = self.scorer(epoch).raw(images)
            _write(place, {n: torch.from_numpy(capped(found[n])) for n in ("nll", "mass")})
            all_processes().wait_for_everyone()
        return {name: values.numpy() for name, values in _read(place).items()}


def _write(place: Path, tensors: Mapping[str, Tensor]) -> None:
    if is_main_process():
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with write_atomic(place) as beside:
            beside.write_bytes(save(plain, {"digest": _digest(plain)}))


def _read(place: Path) -> dict[str, Tensor]:
    try:
        with safe_open(place, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            whole = file.metadata()["digest"] == _digest(tensors)
    except (SafetensorError, LookupError, TypeError):
        whole = False
    if not whole:
        raise ApproxMassError(f"{place} was cut short or edited: remove its folder")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return digest(*(tensors[name] for name in sorted(tensors)))
