"""OCGAN (Perera, Nallapati & Xiang, CVPR 2019), and the plain autoencoder inside it."""

__all__ = ["OCGAN", "Autoencoder"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arrays import Labels, Pixels, Shape
from ..errors import ApproxMassError
from ..models.base import Statistic
from ..runtime.machine import fast_autocast
from ..runtime.random import seeded_init
from ..storage.tensors import digest, load_exactly, tensors_below
from ..training.cached import train_once
from ..training.holdout import hold_out_tenth
from ..training.loop import Step
from .base import Baseline
from .gradcon import at_28

_MINING_STEPS = 5
# Length of one mining step, in units of the root of the latent dimension.
_MINING_RATE = 0.05


def _encoder(channels: int, width: int, latent: int) -> nn.Sequential:
    """From images `(N, C, 28, 28)` to latents `(N, latent, 1, 1)` in (-1, 1)."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 5, 2, 2),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 5, 2, 2),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, latent, 7),
        nn.Tanh(),
    )


def _decoder(channels: int, width: int, latent: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(latent, 2 * width, 7),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(2 * width, width, 5, 2, 2, output_padding=1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(width, channels, 5, 2, 2, output_padding=1),
        nn.Tanh(),
    )


def _critic(channels: int, width: int) -> nn.Sequential:
    """Logit `(N, 1)` that images `(N, C, 28, 28)` are real: three strided convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 5, 2, 2),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 5, 2, 2),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 5, 2, 2),
        nn.BatchNorm2d(4 * width),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(4 * width * 16, 1),
    )


def _latent_critic(latent: int) -> nn.Sequential:
    """Logit `(N, 1)` that latents `(N, latent, 1, 1)` are uniform: 128-64-32-16-1."""
    sizes = (latent, 128, 64, 32, 16)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def mine(
    classifier: Callable[[Tensor], Tensor], decoder: Callable[[Tensor], Tensor], latents: Tensor
) -> Tensor:
    """Informative negatives: latents moved to where the classifier finds their images most fake.

    Gradient steps of equal length on `atanh(latents)`, so that they stay in (-1, 1).

    Arguments:
        classifier: Logits `(N, 1)` that images are real.
        decoder: From latents to images.
        latents: Starting points `(N, ...)` in (-1, 1).
    """
    free = latents.detach().clamp(-0.999, 0.999).atanh()
    length = _MINING_RATE * free[0].numel() ** 0.5
    for _ in range(_MINING_STEPS):
        with torch.enable_grad():
            free.requires_grad_()
            real = classifier(decoder(free.tanh()))
            loss = F.binary_cross_entropy_with_logits(real, torch.zeros_like(real), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, free)
        norms = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
        free = (free - length * gradient / norms).detach()
    return free.tanh().clamp(-1 + 1e-6, 1 - 1e-6)


@dataclass(kw_only=True)
class Autoencoder(Baseline):
    """Reconstruction error of a denoising autoencoder: OCGAN without its adversaries.

    28x28 (other sizes are resized), pixels scaled to [-1, 1], a latent in (-1, 1). Three
    convolutions each way; the innermost spans its 7x7 maps, so that the latent is a vector of 16,
    as in the authors' code for 61x61. A tenth of the images is held out; the epoch with its
    smallest error is kept.

    Arguments:
        epochs: Passes over the images; 200 as published.
        width: Channels of the first convolution; 64 as published.
        latent: Length of the latent.
        noise: Standard deviation of the Gaussian noise on the inputs in training.
        learning_rate: Of Adam (beta1 0.5).
        batch_size: Images a step.
    """

    name: ClassVar[str] = "autoencoder"
    statistic: ClassVar[Statistic] = Statistic("autoencoder", "reconstruction error")

    epochs: int = 20
    width: int = 16
    latent: int = 16
    noise: float = 0.2
    learning_rate: float = 1e-3
    batch_size: int = 128

    positive: ClassVar[frozenset[str]] = frozenset({"learning_rate"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 2:
            raise ApproxMassError(
                "batch_size must be at least 2: the batch norms need more than 1",
                code="bad-option",
            )

    @property
    def fewest(self) -> int:
        """Images that it needs."""
        return 20

    def _modules(self, channels: int) -> dict[str, nn.Module]:
        return {
            "encoder": _encoder(channels, self.width, self.latent),
            "decoder": _decoder(channels, self.width, self.latent),
        }

    def _make(self, channels: int) -> None:
        with seeded_init(self.seed):
            self._parts = {
                name: module.to(self.device).eval()
                for name, module in self._modules(channels).items()
            }
        for module in self._parts.values():
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # not in the stubs

    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        self._make(images.shape[1])
        optimizers = {
            f"{name}_optimizer": torch.optim.Adam(
                module.parameters(), lr=self.learning_rate, betas=(0.5, 0.999)
            )
            for name, module in self._parts.items()
        }
        x = self._in_batches(_centered, images).to(self.device)
        rows, held = hold_out_tenth(self._units, self.seed)
        validation, x = x[held], x[rows]

        def step(at: Step) -> dict[str, Tensor]:
            for module in self._parts.values():
                module.train()
            with fast_autocast(x.device):
                return self._step(x[at.rows], at, optimizers)

        def validate() -> float:
            for module in self._parts.values():
                module.eval()
            with torch.no_grad():
                errors = torch.cat([self._error(batch) for batch in torch.split(validation, 256)])
            return float(errors.mean())

        self.trainings.append(
            train_once(
                type(self).__name__.lower(),
                {k: v for k, v in self.options().items() if k != "score_by"},
                digest(images[rows], images[held]),
                self._parts,
                optimizers,
                step,
                count=len(x),
                batch_size=min(self.batch_size, len(x)),
                epochs=self.epochs,
                seed=self.seed,
                device=self.device,
                validate=validate,
                progress=progress,
            )
        )
        for module in self._parts.values():
            module.eval()
        return {
            f"{name}.{key}": value.detach().cpu()
            for name, module in self._parts.items()
            for key, value in module.state_dict().items()
        }

    def _revive(self, shape: Shape) -> None:
        self._make(shape[0])
        for name, module in self._parts.items():
            load_exactly(module, tensors_below(self._state, name))

    def _step(
        self, x: Tensor, at: Step, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> dict[str, Tensor]:
        encoder, decoder = self._parts["encoder"], self._parts["decoder"]
        loss = F.mse_loss(decoder(encoder(self._noisy(x, at))), x)
        _update(loss, optimizers["encoder_optimizer"], optimizers["decoder_optimizer"])
        return {"error": loss.detach()}

    def _noisy(self, x: Tensor, at: Step) -> Tensor:
        noise = torch.randn(x.shape, generator=at.generator("noise")).to(x.device)
        return x + self.noise * noise

    def _reconstruction(self, x: Tensor) -> Tensor:
        y: Tensor = self._parts["decoder"](self._parts["encoder"](x))
        return y

    def _error(self, x: Tensor) -> Tensor:
        return (self._reconstruction(x) - x).square().mean((1, 2, 3))

    def _score(self, images: Pixels) -> NDArray[Any]:
        scores: NDArray[Any] = self._in_batches(
            lambda x: self._score_batch(_centered(x)), images
        ).numpy()
        return scores

    @torch.no_grad()
    def _score_batch(self, x: Tensor) -> Tensor:
        return self._error(x)


@dataclass(kw_only=True)
class OCGAN(Autoencoder):
    """The autoencoder with adversaries that make all of its latent space look like the class.

    A latent discriminator pulls the latents towards the uniform distribution on (-1, 1)^latent; a
    visual one makes images of uniform latents look real, above all those that a classifier finds
    least so (informative-negative mining). The published score is the reconstruction error.

    Arguments:
        weight: Lambda, of the reconstruction error against the two adversarial terms.
        score_by: `error` of the reconstruction; minus the logit of the `visual` discriminator for
            the reconstruction; or minus that of the `latent` one.
    """

    name: ClassVar[str] = "ocgan"
    statistic: ClassVar[Statistic] = Statistic("ocgan", "OCGAN: reconstruction error")

    weight: float = 10.0
    score_by: Literal["error", "visual", "latent"] = "error"

    def _modules(self, channels: int) -> dict[str, nn.Module]:
        return {
            **super()._modules(channels),
            "latent": _latent_critic(self.latent),
            "visual": _critic(channels, 12),
            "classifier": _critic(channels, self.width),
        }

    def _step(
        self, x: Tensor, at: Step, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> dict[str, Tensor]:
        encoder, decoder = self._parts["encoder"], self._parts["decoder"]
        latent, visual = self._parts["latent"], self._parts["visual"]
        classifier = self._parts["classifier"]
        uniform = 2 * torch.rand(len(x), self.latent, 1, 1, generator=at.generator("latents")) - 1
        uniform = uniform.to(x.device)
        noisy = self._noisy(x, at)
        with torch.no_grad():
            code = encoder(noisy)
            generated, rebuilt = decoder(uniform), decoder(code)

        fake, real = _verdict(classifier(generated), 0), _verdict(classifier(rebuilt), 1)
        _update((fake + real) / 2, optimizers["classifier_optimizer"])
        of_latent = (_verdict(latent(uniform), 1) + _verdict(latent(code), 0)) / 2
        _update(of_latent, optimizers["latent_optimizer"])
        of_visual = (_verdict(visual(x), 1) + _verdict(visual(generated), 0)) / 2
        _update(of_visual, optimizers["visual_optimizer"])

        # Eval mode: each latent is mined for itself, and no batch statistics are touched.
        mined = mine(classifier.eval(), decoder.eval(), uniform)
        classifier.train(), decoder.train()
        code = encoder(noisy)
        error = F.mse_loss(decoder(code), x)
        fooling = _verdict(visual(decoder(mined)), 1) + _verdict(latent(code), 1)
        _update(
            self.weight * error + fooling,
            optimizers["encoder_optimizer"],
            optimizers["decoder_optimizer"],
        )
        return {
            "error": error.detach(),
            "visual": of_visual.detach(),
            "latent": of_latent.detach(),
        }

    @torch.no_grad()
    def _score_batch(self, x: Tensor) -> Tensor:
        if self.score_by == "error":
            return self._error(x)
        if self.score_by == "visual":
            logits: Tensor = self._parts["visual"](self._reconstruction(x))
        else:
            logits = self._parts["latent"](self._parts["encoder"](x))
        return -logits[:, 0]


def _centered(x: Tensor) -> Tensor:
    return 2 * at_28(x) - 1


def _verdict(logits: Tensor, real: int) -> Tensor:
    """Binary cross-entropy of logits that should say real (1) or fake (0)."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def _update(loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    torch.autograd.backward(loss)
    for optimizer in optimizers:
        optimizer.step()
