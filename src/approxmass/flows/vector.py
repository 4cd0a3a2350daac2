"""Flows on vectors: zuko's, by name, behind the same face as the image flow."""

__all__ = ["VECTOR_FLOWS", "VectorFlow"]

import functools
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import zuko
from torch import Tensor, nn

from ..errors import ApproxMassError
from ..runtime.random import seeded_init
from .fast_coupling import (
    couple,
    coupling_masks,
    layout_known,
    log_prob_and_gradient,
    row_orders,
    start_at_identity,
)

# Those whose density can be differentiated twice without solving an equation.
VECTOR_FLOWS: dict[str, Callable[[int], Any]] = {
    "realnvp": lambda d: zuko.flows.RealNVP(
        d, transforms=6, randmask=True, hidden_features=(256, 256)
    ),
    "identity": lambda d: zuko.flows.RealNVP(
        d, transforms=4, randmask=True, hidden_features=(128, 128)
    ),
    # Whitened codes need no large scales, and beyond the training patches these would explode.
    "patches": lambda d: zuko.flows.RealNVP(
        d,
        transforms=6,
        randmask=True,
        hidden_features=(256, 256),
        univariate=functools.partial(zuko.transforms.MonotonicAffineTransform, slope=0.5),
    ),
    "nice": lambda d: zuko.flows.NICE(d, transforms=6, hidden_features=(256, 256)),
    "maf": lambda d: zuko.flows.MAF(d, transforms=3, hidden_features=(256, 256)),
    "nsf": lambda d: zuko.flows.NSF(d, transforms=3, hidden_features=(256, 256)),
    "gf": lambda d: zuko.flows.GF(d, transforms=6, components=8),
    # The standard normal density, of which nothing is left to learn.
    "gaussian": lambda d: zuko.lazy.Flow(
        zuko.lazy.UnconditionalTransform(zuko.transforms.IdentityTransform),
        zuko.lazy.UnconditionalDistribution(
            zuko.distributions.DiagNormal, torch.zeros(d), torch.ones(d), buffer=True
        ),
    ),
}
# Those made of affine couplings.
_AFFINE = ("realnvp", "identity", "patches", "nice")
# Those that start as the identity, so that their density starts as the standard normal one.
_FROM_IDENTITY = ("identity", "patches")


class VectorFlow(nn.Module):
    """Normalizing flow on vectors `(N, D)`, towards a standard normal prior.

    Arguments:
        name: One of `VECTOR_FLOWS`; `realnvp` (affine couplings under random masks) is what the
            detector uses; `identity` is a smaller one that starts as the identity, so that its
            density starts as the standard normal one, and so does `patches`, a larger one;
            `gaussian` is that density, and learns nothing.
        dimension: D, at least 2; of `gaussian` 1.
        seed: Fixes the initial weights and the random masks.
        jitter: Standard deviation of the Gaussian noise added to training inputs.

    Its `state_dict` holds all that `log_prob` depends on. Affine couplings are computed with fewer
    operations than zuko's; where the installed zuko builds them in another way than is known here,
    by zuko, with a RuntimeWarning.

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
            raise ApproxMassError(
                f"unknown flow {name!r} of vectors: use one of {known}",
                code="bad-option",
            )
        if dimension < (1 if name == "gaussian" else 2):
            raise ApproxMassError(
                f"a flow on vectors needs at least 2 dimensions, not {dimension}",
                code="bad-option",
            )
        self.name = name
        self.dimension = dimension
        self.jitter = jitter
        with seeded_init(seed):
            self.flow = VECTOR_FLOWS[name](dimension)
        masks = coupling_masks(self.flow, dimension) if name in _AFFINE else None
        if masks is not None:
            # Part of the state, so that a saved flow depends on nothing that is made anew.
            orders, inverses = row_orders(masks)
            self.register_buffer("orders", orders)
            self.register_buffer("inverses", inverses)
        self.fast = name in _AFFINE and layout_known(self.flow, dimension)
        if name in _AFFINE and not self.fast:
            warnings.warn(
                f"zuko {zuko.__version__} builds its couplings in a way unknown here: "
                "they are computed by zuko, which takes longer",
                RuntimeWarning,
                stacklevel=2,
            )
        if name in _FROM_IDENTITY:
            start_at_identity(self.flow)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(N, D)` to latents `(N, D)` and logdet `(N,)` in nats."""
        if self.fast:
            return couple(self.flow, x, self.orders, self.inverses)
        z, logdet = self.flow().transform.call_and_ladj(x)
        return z, logdet.sum(1) if logdet.dim() > 1 else logdet  # of the identity one a number

    def inverse(self, z: Tensor) -> Tensor:
        """The inputs `(N, D)` of latents `(N, D)`."""
        x: Tensor = self.flow().transform.inv(z)
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density `(N,)` in nats of `(N, D)`."""
        z, logdet = self(x)
        log_p: Tensor = logdet - 0.5 * (z.square().sum(1) + self.dimension * math.log(2 * math.pi))
        return log_p

    def log_prob_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density in nats `(N,)` of `(N, D)` and its gradient `(N, D)`.

        Where it is `fast` the gradient is written out, and both can be differentiated once; else
        it is autograd's.

        Example:
            >>> flow = VectorFlow("identity", 2)  # starts as the standard normal density
            >>> flow.log_prob_and_gradient(torch.tensor([[3.0, 4.0]]))[1].detach()
            tensor([[-3., -4.]])
        """
        if self.fast:
            return log_prob_and_gradient(self.flow, x, self.orders, self.inverses)
        further = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            log_p = self.log_prob(x)
            (gradient,) = torch.autograd.grad(log_p.sum(), x, create_graph=further)
        return log_p, gradient

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` vectors `(n, D)`."""
        x: Tensor = torch.randn(n, self.dimension, generator=generator, device=self.device)
        return self.inverse(x)

    def perturb(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Training noise: Gaussian jitter."""
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x + self.jitter * noise

    def __repr__(self) -> str:
        """A line of what it is; `print(flow.flow)` shows all the layers."""
        weights = sum(p.numel() for p in self.parameters())
        return (
            f"VectorFlow({self.name}, dimension={self.dimension}, jitter={self.jitter}, "
            f"weights={weights:,})"
        )
