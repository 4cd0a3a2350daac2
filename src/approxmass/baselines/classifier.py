"""A wide residual network (Zagoruyko & Komodakis, 2016) and its training.

The network behind Generalized ODIN, Mahalanobis and energy. Trained once for the same data and
settings, and then taken from the cache by whichever method asks.
"""

__all__ = ["ClassifierBaseline", "WideResNet", "crop_and_flip", "input_gradient"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arrays import Labels, Pixels, Shape
from ..data.pixels import unit_pixels
from ..errors import ApproxMassError
from ..runtime.machine import fast_autocast
from ..runtime.random import seeded_init
from ..storage.tensors import digest, load_exactly, tensors_below
from ..training.cached import cosine, step_schedule, train_once
from ..training.loop import Step
from .base import Baseline


class _Block(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU before each, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        through: Tensor = self.conv2(F.relu(self.norm2(self.conv1(h))))
        return through + (x if self.shortcut is None else self.shortcut(h))


def _blocks(depth: int) -> int:
    """Blocks of each group of a wide residual network.

    Raises:
        ApproxMassError: a depth that is not 6n + 4.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ApproxMassError(
            f"the depth of a wide residual network is 6n + 4, not {depth}", code="bad-option"
        )
    return blocks


class WideResNet(nn.Module):
    """WRN-depth-width on pixels `(N, C, H, W)` in [0, 1], normalised by the training images.

    Arguments:
        channels: C.
        head: From penultimate features `(N, 64 * width)` to logits.
        depth: 6n + 4.
        width: Factor on the 16, 32 and 64 channels of the three groups.

    Raises:
        ApproxMassError: a depth that is not 6n + 4.

    Example:
        >>> network = WideResNet(3, nn.Linear(640, 10), depth=28, width=10)
        >>> sum(p.numel() for p in network.parameters())  # the published 36.5M
        36479194
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, head: nn.Module, *, depth: int = 16, width: int = 2) -> None:
        super().__init__()
        blocks = _blocks(depth)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.stem = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        groups, inputs = [], 16
        for outputs, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            group = [_Block(inputs, outputs, stride)]
            group += [_Block(outputs, outputs, 1) for _ in range(blocks - 1)]
            groups.append(nn.Sequential(*group))
            inputs = outputs
        self.groups = nn.ModuleList(groups)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = head
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def layers(self, x: Tensor) -> list[Tensor]:
        """Spatial means of the stem and of each group, `(N, C_l)`; the last are penultimate."""
        h = self.stem((x - self.mean) / self.std)
        out = [h]
        for group in self.groups:
            h = group(h)
            out.append(h)
        out[-1] = F.relu(self.norm(h))
        return [maps.mean((2, 3)) for maps in out]

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features `(N, 64 * width)`."""
        return self.layers(x)[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, K)`."""
        logits: Tensor = self.head(self.features(x))
        return logits


@dataclass(kw_only=True)
class ClassifierBaseline(Baseline):
    """A baseline on a wide residual network; a tenth of the images (at most 1,000) is held out.

    SGD with Nesterov momentum 0.9 and weight decay 5e-4, batches of 128; crop and flip in colour.
    WRN-16-8 has the 11M weights of the paper's grey flow and WRN-28-13 the 62M of its colour flow.

    Arguments:
        depth: Of the network, 6n + 4.
        width: Of the network.
        epochs: Passes over the training images; 200 as published.
        learning_rate: At the start.
        schedule: `cosine`, or `step`: a tenth after half, a hundredth after three quarters.
    """

    needs_labels: ClassVar[bool] = True
    positive: ClassVar[frozenset[str]] = frozenset({"learning_rate"})

    depth: int = 16
    width: int = 2
    epochs: int = 8
    learning_rate: float = 0.1
    schedule: Literal["cosine", "step"] = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        _blocks(self.depth)

    @property
    def fewest(self) -> int:
        """Images that it needs."""
        return 20

    def _head(self, features: int, classes: int) -> nn.Module:
        return nn.Linear(features, classes)

    def _undecayed(self, network: WideResNet) -> list[nn.Parameter]:
        """Weights of the network without weight decay."""
        return []

    def _build(self, channels: int, classes: int) -> WideResNet:
        with seeded_init(self.seed):
            head = self._head(64 * self.width, classes)
            network = WideResNet(channels, head, depth=self.depth, width=self.width)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # not in the stubs
        return network.to(self.device)

    def _train(self, images: Pixels, labels: Labels, classes: int, progress: bool) -> WideResNet:
        """The network, in eval mode, trained on these images."""
        device = self.device
        network = self._build(images.shape[1], classes)
        x, y = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        values = images.reshape(*images.shape[:2], -1)
        network.mean[:, 0, 0] = torch.from_numpy(values.mean((0, 2)) / 255).float()
        network.std[:, 0, 0] = torch.from_numpy(values.std((0, 2)) / 255).float().clamp_min(1e-3)
        undecayed = self._undecayed(network)
        plain = {id(p) for p in undecayed}
        decayed = [p for p in network.parameters() if id(p) not in plain]
        groups: list[dict[str, Any]] = [{"params": decayed}]
        if undecayed:
            groups.append({"params": undecayed, "weight_decay": 0.0})
        optimizer = torch.optim.SGD(
            groups,
            lr=self.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
        )
        colour = images.shape[1] == 3

        def step(at: Step) -> dict[str, Tensor]:
            batch = x[at.rows]
            if colour:
                batch = crop_and_flip(batch, at.generator("augment"))
            logits = forward(network, batch)
            loss = F.cross_entropy(logits, y[at.rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            hits = (logits.detach().argmax(1) == y[at.rows]).float().mean()
            return {"loss": loss.detach(), "accuracy": hits}

        self.trainings.append(
            train_once(
                f"classifier-{type(network.head).__name__.lower()}",
                {
                    "depth": self.depth,
                    "width": self.width,
                    "learning_rate": self.learning_rate,
                    "schedule": self.schedule,
                    "head": repr(network.head),
                },
                digest(images, labels),
                {"network": network.train()},
                {"optimizer": optimizer},
                step,
                count=len(x),
                batch_size=min(128, len(x)),
                epochs=self.epochs,
                seed=self.seed,
                device=self.device,
                schedule=cosine if self.schedule == "cosine" else step_schedule,
                progress=progress,
            )
        )
        return network.eval().requires_grad_(False)

    def _network_state(self, network: WideResNet) -> dict[str, Tensor]:
        self.network = network
        return {f"network.{k}": v.detach().cpu() for k, v in network.state_dict().items()}

    def _revive(self, shape: Shape) -> None:
        weights = tensors_below(self._state, "network")
        network = self._build(shape[0], self._classes(weights))
        load_exactly(network, weights)
        self.network = network.eval().requires_grad_(False)

    def _classes(self, weights: dict[str, Tensor]) -> int:
        return len(weights["head.weight"])

    def classify(self, images: Pixels) -> Labels:
        """The class of uint8 images `(N, C, H, W)`, `(N,)`."""
        classes: Labels = self._in_batches(lambda x: self.network(x).argmax(1), images).numpy()
        return classes


def forward(network: nn.Module, batch: Tensor) -> Tensor:
    """Logits of uint8 images for training, in bfloat16 where that is fast; returned in float32."""
    x = unit_pixels(batch).contiguous(memory_format=torch.channels_last)
    with fast_autocast(x.device):
        logits: Tensor = network(x)
    return logits.float()


def crop_and_flip(images: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Shift each image `(N, C, H, W)` by up to `pad` pixels, black beyond its edge; mirror half.

    Example:
        >>> images = torch.arange(1, 10, dtype=torch.uint8).reshape(1, 1, 3, 3)
        >>> crop_and_flip(images, torch.Generator().manual_seed(0), pad=1)[0, 0].tolist()
        [[5, 4, 0], [8, 7, 0], [0, 0, 0]]
    """
    n, _, height, width = images.shape
    down, right = torch.randint(2 * pad + 1, (2, n, 1), generator=generator).to(images.device)
    mirror = (torch.rand(n, 1, generator=generator) < 0.5).to(images.device)
    padded = F.pad(images, (pad, pad, pad, pad))
    rows = torch.arange(height, device=images.device) + down
    across = torch.arange(width, device=images.device)
    columns = torch.where(mirror, across.flip(0), across) + right
    each = torch.arange(n, device=images.device)[:, None, None]
    # Indexing puts the channels last.
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def input_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient of each image's `function` value with respect to its own pixels, as `x`."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(x).sum(), x)
    return gradient
