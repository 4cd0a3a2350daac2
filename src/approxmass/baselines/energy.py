"""Energy-based detection (Liu, Wang, Owens & Li, NeurIPS 2020)."""

__all__ = ["Energy", "energy"]

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..arrays import Labels, Pixels
from ..models.base import Statistic
from ..storage.tensors import digest
from ..training.cached import cosine, train_once
from ..training.holdout import hold_out_tenth
from ..training.loop import Step
from .classifier import ClassifierBaseline, WideResNet, crop_and_flip, forward


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """`-T logsumexp(f / T)` of logits `(N, K)`: `(N,)`, larger = more OOD (equation 4).

    Example:
        >>> energy(torch.zeros(1, 2))
        tensor([-0.6931])
    """
    return -temperature * torch.logsumexp(logits / temperature, dim=1)


@dataclass(kw_only=True)
class Energy(ClassifierBaseline):
    """Energy of the logits; with outliers, after fine-tuning that pushes the energies apart.

    Fine-tuning adds `0.1 (E[relu(E(x_in) - m_in)^2] + E[relu(m_out - E(x_out))^2])` to the
    cross-entropy (equations 7-8): SGD with Nesterov momentum, learning rate 1e-3 falling to 0 by
    half a cosine, batches of 128 images and 256 outliers in one pass. The margins are those of
    the authors for CIFAR-10. A detector that was fine-tuned has seen outliers: say so beside it.

    Arguments:
        temperature: T.
        m_in: Energy that the images should stay below.
        m_out: Energy that the outliers should stay above.
        tuning_epochs: Passes over the images in fine-tuning.
    """

    name: ClassVar[str] = "energy"
    statistic: ClassVar[Statistic] = Statistic("energy", "energy", "nats")

    takes_outliers: ClassVar[bool] = True
    signed: ClassVar[frozenset[str]] = frozenset({"m_in", "m_out"})
    positive: ClassVar[frozenset[str]] = frozenset({"learning_rate", "temperature"})

    temperature: float = 1.0
    m_in: float = -23.0
    m_out: float = -5.0
    tuning_epochs: int = 10

    def _fit(
        self, images: Pixels, labels: Labels | None, outliers: Pixels | None, progress: bool
    ) -> dict[str, Tensor]:
        assert labels is not None
        # The tenth held out is used for nothing here. Left out all the same, so that the network is
        # the very one of Mahalanobis, trained once and taken from the cache by the other.
        rows, _ = hold_out_tenth(self._units, self.seed)
        classes, images, labels = int(labels.max()) + 1, images[rows], labels[rows]
        network = self._train(images, labels, classes, progress)
        if outliers is not None:
            self._tune(network, images, labels, outliers, progress)
        return self._network_state(network)

    def _score(self, images: Pixels) -> NDArray[Any]:
        scores: NDArray[Any] = self._in_batches(
            lambda x: energy(self.network(x), self.temperature), images
        ).numpy()
        return scores

    def _tune(
        self,
        network: WideResNet,
        images: Pixels,
        labels: Labels,
        outliers: Pixels,
        progress: bool,
    ) -> None:
        device = self.device
        x, y = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        others = torch.from_numpy(outliers).to(device)
        colour = images.shape[1] == 3
        optimizer = torch.optim.SGD(
            network.requires_grad_(True).parameters(),
            lr=1e-3,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
        )

        def step(at: Step) -> dict[str, Tensor]:
            generator = at.generator("outliers")
            some = torch.randint(len(others), (2 * len(at.rows),), generator=generator)
            # One pass over both, so that the batch norms see both.
            batch = torch.cat([x[at.rows], others[some]])
            if colour:
                batch = crop_and_flip(batch, at.generator("augment"))
            inside, outside = torch.split(forward(network, batch), [len(at.rows), len(some)])
            energies = energy(inside, self.temperature), energy(outside, self.temperature)
            hinge = F.relu(energies[0] - self.m_in).square().mean()
            hinge = hinge + F.relu(self.m_out - energies[1]).square().mean()
            loss = F.cross_entropy(inside, y[at.rows]) + 0.1 * hinge
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            means = [each.detach().mean() for each in energies]
            return {"loss": loss.detach(), "energy in": means[0], "out": means[1]}

        self.trainings.append(
            train_once(
                "energy-tuning",
                {"temperature": self.temperature, "m_in": self.m_in, "m_out": self.m_out},
                digest(images, labels, outliers),
                {"network": network.train()},
                {"optimizer": optimizer},
                step,
                count=len(x),
                batch_size=min(128, len(x)),
                epochs=self.tuning_epochs,
                seed=self.seed,
                device=self.device,
                schedule=cosine,
                progress=progress,
            )
        )
        network.eval().requires_grad_(False)
