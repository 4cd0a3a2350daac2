"""Flows on vectors: zuko's, by name, behind the same face as the image flow."""

__all__ = ["VECTOR_FLOWS", "VectorFlow"]

import math
from collections.abc import Callable
from typing import Any

import torch
import zuko
from torch import Tensor, nn

from ..errors import ApproxMassError
from .layers import perceptron, soft_clamp, take_rows

# Those whose density can be differentiated twice without solving an equation.
VECTOR_FLOWS: dict[str, Callable[[int], Any]] = {
    "realnvp": lambda d: zuko.flows.RealNVP(
        d, transforms=6, randmask=True, hidden_features=(256, 256)
    ),
    "nice": lambda d: zuko.flows.NICE(d, transforms=6, hidden_features=(256, 256)),
    "maf": lambda d: zuko.flows.MAF(d, transforms=3, hidden_features=(256, 256)),
    "nsf": lambda d: zuko.flows.NSF(d, transforms=3, hidden_features=(256, 256)),
    "gf": lambda d: zuko.flows.GF(d, transforms=6, components=8),
}
# Those made of affine couplings, and the bound of the log-scale that zuko has there.
_AFFINE = ("realnvp", "nice")
_LOG_SCALE = -math.log(1e-3)


class VectorFlow(nn.Module):
    """Normalizing flow on vectors `(N, D)`, towards a standard normal prior.

    Arguments:
        name: One of `VECTOR_FLOWS`; `realnvp` (affine couplings under random masks) is what the
            detector uses.
        dimension: D, at least 2.
        seed: Fixes the initial weights and the random masks.
        jitter: Standard deviation of the Gaussian noise added to training inputs.

    Raises:
        ApproxMassError: an unknown name, or fewer than two dimensions.

    Example:
        >>> flow = VectorFlow("realnvp", 3)
        >>> z, logdet = flow(torch.zeros(5, 3))
        >>> bool(torch.allclose(flow.inverse(z), torch.zeros(5, 3), atol=1e-6))
        True
    """

    orders: Tensor
    inverses: Tensor

    def __init__(self, name: str, dimension: int, *, seed: int = 0, jitter: float = 0.05) -> None:
        super().__init__()
        if name not in VECTOR_FLOWS:
            known = ", ".join(VECTOR_FLOWS)
            raise ApproxMassError(f"unknown flow {name!r} for a whitened space: use one of {known}")
        if dimension < 2:
            raise ApproxMassError(f"a flow on vectors needs at least 2 dimensions, not {dimension}")
        self.dimension = dimension
        self.jitter = jitter
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.flow = VECTOR_FLOWS[name](dimension)
        self.affine = name in _AFFINE
        if self.affine:
            self._register_orders()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(N, D)` to latents `(N, D)` and logdet `(N,)` in nats."""
        if self.affine:
            return self._couple(x)
        z, logdet = self.flow().transform.call_and_ladj(x)
        return z, logdet

    def _register_orders(self) -> None:
        """How to put what each coupling keeps before what it changes, and at last all in order."""
        couplings = self.flow.transform.transforms
        here = torch.arange(self.dimension)
        orders = []
        for mask in [coupling.mask for coupling in couplings] + [here == here]:
            wanted = torch.cat([mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]])
            orders.append(torch.argsort(here)[wanted])
            here = wanted
        self.register_buffer("orders", torch.stack(orders), persistent=False)
        self.register_buffer("inverses", torch.stack(orders).argsort(1), persistent=False)

    def _couple(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What zuko's affine couplings compute, with fewer and contiguous operations.

        They gather and scatter at every coupling, and interleave scale and shift. Here a sample is
        a column, so that a part of the inputs is a block of rows.
        """
        y = x.T
        logdet = x.new_zeros(len(x))
        orders = zip(self.orders, self.inverses, strict=True)
        for coupling, (order, inverse) in zip(self.flow.transform.transforms, orders, strict=False):
            weights, biases = zip(
                *[(m.weight, m.bias) for m in list(coupling.hyper)[::2]], strict=True
            )
            y = take_rows(y, order, inverse)
            kept, change = torch.split(
                y, [coupling.hyper.in_features, coupling.hyper.out_features // 2]
            )
            # Shift and scale of an input lie side by side: all shifts first, in blocks.
            weight, bias = (
                p.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
                for p in (weights[-1], biases[-1])
            )
            answer = perceptron(kept, [*weights[:-1], weight], [*biases[:-1], bias])
            shift, raw = answer.to(x.dtype).chunk(2)
            log_scale = soft_clamp(raw, _LOG_SCALE)
            y = torch.cat([kept, torch.addcmul(shift, change, log_scale.exp())])
            logdet = logdet + log_scale.sum(0)
        return take_rows(y, self.orders[-1], self.inverses[-1]).T, logdet

    def inverse(self, z: Tensor) -> Tensor:
        """The inputs `(N, D)` of latents `(N, D)`."""
        x: Tensor = self.flow().transform.inv(z)
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density `(N,)` in nats of `(N, D)`."""
        z, logdet = self(x)
        log_p: Tensor = logdet - 0.5 * (z.square().sum(1) + self.dimension * math.log(2 * math.pi))
        return log_p

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` vectors `(n, D)`."""
        device = next(self.parameters()).device
        return self.inverse(torch.randn(n, self.dimension, generator=generator, device=device))

    def perturb(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Training noise: Gaussian jitter."""
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x + self.jitter * noise
