"""GradCon (Kwon, Prabhushankar, Temel & AlRegib, ECCV 2020)."""

__all__ = ["GradCon"]

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..arrays import Labels, Pixels, Shape
from ..data.pixels import unit_pixels
from ..models.base import Statistic
from ..runtime.random import seeded_init
from ..storage.tensors import digest, load_exactly, tensors_below
from ..training.cached import train_once
from ..training.holdout import hold_out_tenth
from ..training.loop import Step
from .base import Baseline

SIDE = 28


class ConvolutionalAutoencoder(nn.Module):
    """Four strided convolutions to 64x3x3, four transposed ones back; 28x28 in [0, 1].

    Arguments:
        channels: Of the images.

    Example:
        >>> network = ConvolutionalAutoencoder(1)
        >>> sum(p.numel() for p in network.parameters())
        230721
        >>> network(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        sizes = (channels, 32, 32, 64, 64)
        down: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            down += [nn.Conv2d(inputs, outputs, 4, 2, 2), nn.ReLU()]
        self.encoder = nn.Sequential(*down)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 64, 4, 2, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 32, 4, 2, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(32, channels, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions `(N, C, 28, 28)`."""
        y: Tensor = self.decoder(self.encoder(x))
        return y

    def directions(self) -> dict[str, nn.Parameter]:
        """The four decoder weights whose gradients are compared, by name."""
        return {k: p for k, p in self.named_parameters() if k[:7] == "decoder" and p.ndim == 4}


class Reference(nn.Module):
    """Running mean of the gradients of the four decoder weights over all steps so far."""

    count: Tensor

    def __init__(self, network: ConvolutionalAutoencoder) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        for i, weight in enumerate(network.directions().values()):
            self.register_buffer(f"mean{i}", torch.zeros_like(weight.detach()))

    def means(self) -> list[Tensor]:
        """The four means, in the order of `directions`."""
        return [getattr(self, f"mean{i}") for i in range(4)]

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor]) -> None:
        """Take the gradients of one more step into the means."""
        self.count += 1
        for mean, gradient in zip(self.means(), gradients, strict=True):
            mean += (gradient - mean) / self.count


def inconsistency(gradients: Sequence[Tensor], means: Sequence[Tensor]) -> Tensor:
    """`-1/4 sum_i cos(g_i, mean_i)`: -1 where all gradients point along the references, 1 against.

    Example:
        >>> inconsistency([torch.tensor([3.0, 4.0])] * 4, [torch.tensor([1.0, 0.0])] * 4)
        tensor(-0.6000)
    """
    cosines = [
        F.cosine_similarity(g.flatten(), m.flatten(), dim=0)
        for g, m in zip(gradients, means, strict=True)
    ]
    return -torch.stack(cosines).mean()


@dataclass(kw_only=True)
class GradCon(Baseline):
    """Reconstruction error plus the misalignment of its gradient with those of the training.

    An autoencoder is trained by Adam (batches of 64) on `MSE + alpha * inconsistency`, the
    gradient being that of the MSE for the weights of the decoder, the reference the mean gradient
    of the loss over all steps so far. A tenth of the images is held out; the epoch with its
    smallest loss is kept. The score of one image is `MSE + beta * inconsistency` of its own
    gradient. Pixels of another size are resized to 28x28, as the authors do.

    Arguments:
        epochs: Passes over the images; up to 1,000 as published.
        alpha: Weight of the inconsistency in training.
        beta: Weight of the inconsistency in the score; 4 alpha as published.
        learning_rate: Of Adam.
    """

    name: ClassVar[str] = "gradcon"
    statistic: ClassVar[Statistic] = Statistic(
        "gradcon", "reconstruction error with misaligned gradients"
    )

    epochs: int = 20
    alpha: float = 0.03
    beta: float = 0.12
    learning_rate: float = 1e-3

    positive: ClassVar[frozenset[str]] = frozenset({"learning_rate"})

    @property
    def fewest(self) -> int:
        """Images that it needs."""
        return 20

    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        self._make(images.shape[1])
        network, reference = self._network, self._reference
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        x = self._in_batches(at_28, images).to(self.device)
        rows, held = hold_out_tenth(self._units, self.seed)
        validation, x = x[held], x[rows]

        def loss_of(batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            error = F.mse_loss(network(batch), batch)
            weights = list(network.directions().values())
            gradients = torch.autograd.grad(error, weights, create_graph=True)
            term = inconsistency(gradients, reference.means())
            term = term if reference.count else torch.zeros_like(term)
            return error + self.alpha * term, error, term

        def step(at: Step) -> dict[str, Tensor]:
            loss, error, term = loss_of(x[at.rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            # The gradient of the whole loss, as the authors' code has it.
            reference.add([w.grad for w in network.directions().values() if w.grad is not None])
            optimizer.step()
            return {"loss": loss.detach(), "error": error.detach(), "alignment": -term.detach()}

        def validate() -> float:
            parts = torch.split(validation, 64)
            return sum([loss_of(part)[0].item() * len(part) for part in parts]) / len(validation)

        self.trainings.append(
            train_once(
                "gradcon",
                {"alpha": self.alpha, "learning_rate": self.learning_rate},
                digest(images[rows], images[held]),
                {"network": network, "reference": reference},
                {"optimizer": optimizer},
                step,
                count=len(x),
                batch_size=min(64, len(x)),
                epochs=self.epochs,
                seed=self.seed,
                device=self.device,
                validate=validate,
                progress=progress,
            )
        )
        state = {f"network.{k}": v.detach().cpu() for k, v in network.state_dict().items()}
        return state | {f"reference.{k}": v.cpu() for k, v in reference.state_dict().items()}

    def _make(self, channels: int) -> None:
        with seeded_init(self.seed):
            self._network = ConvolutionalAutoencoder(channels).to(self.device)
        self._reference = Reference(self._network).to(self.device)

    def _revive(self, shape: Shape) -> None:
        self._make(shape[0])
        load_exactly(self._network, tensors_below(self._state, "network"))
        load_exactly(self._reference, tensors_below(self._state, "reference"))

    def _score(self, images: Pixels) -> NDArray[Any]:
        frozen = {k: v.detach() for k, v in self._network.named_parameters()}
        chosen = {k: frozen[k] for k in self._network.directions()}

        def error_of(weights: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
            batch = image[None]
            error = F.mse_loss(functional_call(self._network, {**frozen, **weights}, batch), batch)
            return error, error

        def one(image: Tensor) -> Tensor:
            gradients, error = grad(error_of, has_aux=True)(chosen, image)
            term = inconsistency([gradients[k] for k in chosen], self._reference.means())
            score: Tensor = error + self.beta * term
            return score

        scores: NDArray[Any] = self._in_batches(lambda x: vmap(one)(at_28(x)), images, 128).numpy()
        return scores


def at_28(x: Tensor) -> Tensor:
    """Pixels `(N, C, H, W)`, uint8 or in [0, 1], at 28x28 in [0, 1]."""
    x = unit_pixels(x)
    if x.shape[2:] == (SIDE, SIDE):
        return x
    return F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)
