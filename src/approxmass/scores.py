"""The statistics of a trained flow: how unusual an image is, in several senses.

Every statistic is larger for more out-of-distribution:

- `nll`: negative log-likelihood in nats.
- `mass`: approximate mass, the norm of the gradient of the log-likelihood.
- `latent_fit` (pixel flows): departure of the latent maps from white noise.
- `typicality`: distance of the NLL from its in-distribution mean, in nats (Nalisnick et al., 2019).
- `fused`: the largest of `nll`, `mass` and `latent_fit`, each in standard deviations of
  in-distribution images.
"""

__all__ = ["STATISTICS", "Scorer", "capped", "latent_features"]

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from torch import Tensor

from .encoders import Encoder
from .errors import ApproxMassError
from .flows import Flow, RealNVP
from .flows.pixels import unit_pixels
from .mass import log_prob_and_mass

STATISTICS = ("nll", "mass", "latent_fit", "typicality", "fused")
_FUSED = ("nll", "mass", "latent_fit")
# Stands for a score that overflows: larger than any other, and still a number.
_OVERFLOW = 1e30
# The Mahalanobis distance of the latent features is fitted on at most this many training images.
_LATENT_IMAGES = 5000

Floats = NDArray[np.float64]


def latent_features(maps: list[Tensor]) -> Tensor:
    """Facts of latent maps that are 0 or constant for white noise.

    Of each map and channel: the mean, mean products with the neighbours one and two steps along
    rows and columns and one step along the diagonal; of each pair of channels the mean product;
    and all of these divided by the mean square, which tells a smooth latent from a small one. With
    them the logarithms of the mean square and of the kurtosis. After the whiteness test of Wang et
    al. (2020).

    Arguments:
        maps: Latent maps `(N, c, h, w)`.

    Returns:
        Features `(N, F)`.

    Example:
        >>> latent_features([torch.randn(5, 2, 8, 8)]).shape  # 2 * (6 + 2) + 1 + 2 * 6 + 1
        torch.Size([5, 30])
    """
    columns = []
    for z in maps:
        _, c, h, w = z.shape
        square = z.square().mean((2, 3)) + 1e-12
        root = square.sqrt()
        columns += [square.log(), (z.pow(4).mean((2, 3)) / square.square() + 1e-12).log()]
        means = z.mean((2, 3))
        columns += [means, means / root]
        for down, right in ((0, 1), (0, 2), (1, 0), (2, 0), (1, 1)):
            if down < h and right < w:
                product = z[:, :, down:, right:] * z[:, :, : h - down, : w - right]
                columns += [product.mean((2, 3)), product.mean((2, 3)) / square]
        first, second = torch.triu_indices(c, c, offset=1)
        flat = z.flatten(2)
        crossed = flat @ flat.mT / (h * w)
        ratio = crossed / (root[:, :, None] * root[:, None, :])
        columns += [crossed[:, first, second], ratio[:, first, second]]
    return torch.cat(columns, dim=1)


def capped(scores: Floats) -> Floats:
    """Scores with 1e30 for those that overflowed or are no number.

    Example:
        >>> capped(np.array([1.0, np.nan, np.inf]))
        array([1.e+00, 1.e+30, 1.e+30])
    """
    return np.minimum(np.nan_to_num(scores, nan=np.inf, neginf=np.inf), _OVERFLOW)


class Scorer:
    """Computes the statistics of images under one encoder and one flow.

    Scores are deterministic: the flow is in eval mode, and in pixel space every image gets the
    same dequantisation noise, drawn once from `seed`, so that a score depends on its image alone.
    With several draws, the log-likelihood is the mean over them and the mass is that of the mean.

    Arguments:
        encoder: From pixels to the flow's input.
        flow: The trained flow.
        shape: `(C, H, W)` of the images.
        draws: Dequantisation draws an image (pixel space only).
        seed: Fixes the draws.
    """

    def __init__(
        self, encoder: Encoder, flow: Flow, shape: tuple[int, int, int], *, draws: int, seed: int
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.flow = flow.eval().requires_grad_(False)
        self.shape = shape
        self.device = next(flow.parameters()).device
        self.encoder.to(self.device)
        generator = torch.Generator().manual_seed(seed)
        self.noise = torch.rand((draws, *shape), generator=generator).to(self.device) / 255
        self.batch_size = 64 if isinstance(flow, RealNVP) else 2048
        self.reference: dict[str, Tensor] = {}

    @property
    def names(self) -> list[str]:
        """The statistics that this space has."""
        image_flow = isinstance(self.flow, RealNVP)
        return [name for name in STATISTICS if image_flow or name != "latent_fit"]

    def fit(self, training: Tensor, held_out: Tensor) -> "Scorer":
        """Learn what is usual: the latent fit on training images, the rest on held-out ones.

        Arguments:
            training: Images `(N, C, H, W)`, uint8, that the flow was trained on.
            held_out: Images that it was not trained on, used for nothing else.

        Raises:
            ApproxMassError: a score of theirs overflows.
        """
        if isinstance(self.flow, RealNVP):
            features = self._latent(training[:_LATENT_IMAGES])
            center, spread = features.mean(0), features.std(0) + 1e-12
            precision = LedoitWolf().fit((features - center) / spread).precision_
            self.reference["latent.center"] = torch.from_numpy(center)
            self.reference["latent.spread"] = torch.from_numpy(spread)
            self.reference["latent.precision"] = torch.from_numpy(precision)
        raw = self._single(self.raw(held_out))
        for name, values in raw.items():
            if values.max() >= _OVERFLOW:
                raise ApproxMassError(
                    f"the {name} of usual images overflows: the flow did not learn; fit again with "
                    "a smaller alpha or more images"
                )
            moments = [values.mean(), max(values.std(), 1e-12)]
            self.reference[f"{name}.moments"] = torch.tensor(moments, dtype=torch.float64)
        return self

    def __call__(self, images: Tensor) -> dict[str, Floats]:
        """Statistics of images `(N, C, H, W)`, uint8: one `(N,)` float64 array for each of `names`.

        A score that overflows, as for an image that is nothing like the training images, is 1e30.
        """
        if len(images) == 0:  # of which zuko's transforms make nothing
            return {name: np.empty(0) for name in self.names}
        scores = self._single(self.raw(images))
        moments = {name: self.reference[f"{name}.moments"].tolist() for name in scores}
        standard = [(scores[n] - moments[n][0]) / moments[n][1] for n in _FUSED if n in scores]
        scores["typicality"] = np.abs(scores["nll"] - moments["nll"][0])
        scores["fused"] = np.max(standard, axis=0)
        return scores

    def _single(self, raw: dict[str, Floats]) -> dict[str, Floats]:
        """The statistics that need no other statistic."""
        if "latent" in raw:
            center, spread, precision = (
                self.reference[f"latent.{part}"].numpy()
                for part in ("center", "spread", "precision")
            )
            with np.errstate(invalid="ignore", over="ignore"):
                offset = (raw.pop("latent") - center) / spread
                squared = np.einsum("ni,ij,nj->n", offset, precision, offset, optimize=True)
            raw["latent_fit"] = np.sqrt(np.maximum(squared, 0))
        return {name: capped(values) for name, values in raw.items()}

    def raw(self, images: Tensor) -> dict[str, Floats]:
        """`nll` and `mass` of images `(N, C, H, W)`; of an image flow also `latent` `(N, F)`."""
        parts: dict[str, list[Tensor]] = {}
        for batch in torch.split(images, self.batch_size):
            for name, values in self._raw_batch(batch).items():
                parts.setdefault(name, []).append(values.cpu().double())
        return {name: torch.cat(values).numpy() for name, values in parts.items()}

    @torch.no_grad()
    def _latent(self, images: Tensor) -> Floats:
        """Latent features `(N, F)` of an image flow, without the gradient that the mass needs."""
        parts = [
            self._through(self.encoder(unit_pixels(batch.to(self.device))))[1].cpu()
            for batch in torch.split(images, self.batch_size)
        ]
        features: Floats = torch.cat(parts).double().numpy()
        return features

    def _through(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density `(N,)` and latent features `(N, F)` of an image flow, means over draws."""
        assert isinstance(self.flow, RealNVP)
        log_p, latent = [], []
        for noise in self.noise:
            z, logdet = self.flow(x + noise)
            log_p.append(self.flow.latent_log_prob(z) + logdet)
            latent.append(latent_features(self.flow.latent_maps(z.detach())))
        return torch.stack(log_p).mean(0), torch.stack(latent).mean(0)

    def log_prob(self, code: Tensor) -> Tensor:
        """Log-density in nats `(N,)` of the flow's inputs; differentiable."""
        if isinstance(self.flow, RealNVP):
            return self._through(code)[0]
        return self.flow.log_prob(code)

    def _raw_batch(self, images: Tensor) -> dict[str, Tensor]:
        pixels = unit_pixels(images.to(self.device))
        with torch.no_grad():
            code = self.encoder(pixels)
        if not isinstance(self.flow, RealNVP):
            log_p, mass = log_prob_and_mass(self.flow.log_prob, code)
            return {"nll": -log_p, "mass": mass}

        seen = []

        def density(x: Tensor) -> Tensor:
            log_p, latent = self._through(x)
            seen.append(latent)
            return log_p

        log_p, mass = log_prob_and_mass(density, code)
        return {"nll": -log_p, "mass": mass, "latent": seen[0]}
