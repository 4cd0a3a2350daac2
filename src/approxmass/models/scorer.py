"""Encoder, flow and the in-distribution range of their statistics, as one module."""

__all__ = ["FlowScorer"]

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..arrays import Floats, Shape
from ..encoders import Encoder, PooledEncoder, VectorEncoder
from ..encoders.base import UnitOf
from ..flows import Flow, RealNVP, VectorFlow
from ..mass import log_prob_and_mass
from ..runtime.batches import fixed_batches, map_batches
from ..runtime.random import seeded_generator
from .base import Statistic
from .latent import LATENT_IMAGES, LatentFit, latent_features
from .parts import PARTS, Parts
from .statistics import STATISTICS, capped, fused, nll_and_mass, range_of
from .summary import Neighbour, Residual

# Codes to know the flow again by.
_DRAWN = 4
# Numbers of the rows that a row is compared with: all 4,000 of up to 131 columns.
_REMEMBERED = 2**19
# Among the statistics of a batch: the maps.
_MAP = "map"


class FlowScorer(nn.Module):
    """From views of images to every statistic of a flow; its buffers hold all that these need.

    Scores are deterministic: the flow is in eval mode, and on pixels every image gets the
    same dequantisation noise, drawn once from `seed`, so that a score depends on its image alone.
    With several draws, the log-likelihood is the mean over them and the mass is that of the mean.

    Arguments:
        encoder: From images to views, and from these to the flow's input.
        flow: The trained flow.
        shape: `(C, H, W)` of the images.
        parts: The patch level, where there is one.
        draws: Dequantisation draws an image (image flows only).
        seed: Fixes the draws.
    """

    moments: Tensor
    noise: Tensor
    drawn: Tensor
    drawn_parts: Tensor

    def __init__(
        self,
        encoder: Encoder,
        flow: Flow,
        shape: Shape,
        *,
        parts: Parts | None = None,
        draws: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.flow = flow.eval().requires_grad_(False)
        self.shape = shape
        self.seed = seed
        self.parts = None if parts is None else parts.eval().requires_grad_(False)
        self.latent = None
        self.plain = nn.ModuleDict()
        if isinstance(encoder, PooledEncoder):
            self.plain = nn.ModuleDict({"residual": Residual(), "neighbour": Neighbour()})
        elif isinstance(encoder, VectorEncoder):
            self.plain = nn.ModuleDict({"neighbour": Neighbour(_REMEMBERED)})
        noise = torch.empty(0)
        if isinstance(flow, RealNVP):
            self.latent = LatentFit()
            generator = torch.Generator().manual_seed(seed)
            noise = torch.rand((draws, *shape), generator=generator) / 255
        self.register_buffer("noise", noise)
        for name in ("drawn", "drawn_parts"):
            self.register_buffer(name, torch.empty(0))
        # Mean and standard deviation of each of `names` on in-distribution images.
        moments = torch.full((len(self.names), 2), torch.nan, dtype=torch.float64)
        self.register_buffer("moments", moments)
        self.to(next(itertools.chain(flow.parameters(), flow.buffers())).device)

    @property
    def names(self) -> tuple[str, ...]:
        """The statistics that need no other statistic."""
        latent = ["latent_fit"] if self.latent is not None else []
        return ("nll", "mass", *latent, *self.plain, *(PARTS if self.parts is not None else ()))

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """All statistics, in the order in which they are given."""
        return tuple(STATISTICS[name] for name in (*self.names, "typicality", "fused"))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.moments.device

    @property
    def batch_size(self) -> int:
        """Images that go through together, no more and no less: see `runtime/batches.py`."""
        if self.parts is not None:
            return 16
        on_cpu = self.device.type == "cpu"  # where a lone image pays for the others
        if self.latent is not None:
            return 16 if on_cpu else 64
        return 256 if on_cpu else 2048

    @property
    def _largest_batch(self) -> int:
        """Rows that go through together where there are many; of images no more than a batch."""
        small = self.parts is not None or self.latent is not None
        return 0 if small or self.device.type != "cpu" else 4 * self.batch_size

    def fit(
        self,
        training: Tensor,
        held_out: Tensor,
        *,
        codes: Tensor | None = None,
        whole: Tensor | None = None,
        units: UnitOf | None = None,
    ) -> "FlowScorer":
        """Learn the plain statistics and the latent fit, and the in-distribution range of each.

        The range is from held-out images, and, of a network's codes, from those training images
        too that the flow has not seen, and by folds from all for the plain statistics.

        Arguments:
            training: Views of the training images.
            held_out: Views of images that it was not trained on, used for nothing else.
            codes: A network's, of training images that the flow has not seen.
            whole: With parts, whole views of some of these images, for the range of these.
            units: Of each training image: those of one belong together; None for each by itself.

        Raises:
            ApproxMassError: a score of theirs overflows.
        """
        if self.latent is not None:
            self.latent.fit(self._latent_features(training[:LATENT_IMAGES]))
        known: dict[str, Tensor] = {}
        if isinstance(self.encoder, PooledEncoder | VectorEncoder) and codes is not None:
            summary = self.encoder.summary(training.to(self.device))
            for name, plain in self._plain():
                known[name] = plain.fit(summary, seed=self.seed, units=units).double().cpu()
            if len(codes):
                known |= self._in_batches(self._flow_of_codes, codes)
        ranges = self._in_batches(self._of_image, held_out)
        if whole is not None and self.parts is not None:
            ranges |= self._in_batches(self._of_parts, whole)
        for place, (name, values) in enumerate(ranges.items()):
            values = torch.cat([values, known[name]]) if name in known else values
            of = self.parts.code if self.parts is not None and name in PARTS else self.encoder
            self.moments[place] = range_of(name, values, of.dimension)
        self.drawn = self._draw(self.flow)
        if self.parts is not None:
            self.drawn_parts = self._draw(self.parts.flow)
        return self

    def _draw(self, flow: Flow) -> Tensor:
        """A few codes of nobody's images, in the range of usual ones: from the flow itself."""
        generator = seeded_generator(self.seed, "probe", 0, self.device)
        codes = flow.sample(_DRAWN, generator)
        known = codes[codes.flatten(1).isfinite().all(1)]
        return known if len(known) else torch.empty(0, device=self.device)

    def own_probe(self) -> dict[str, Floats]:
        """NLL and mass `(n,)` of codes that the flows drew after their training."""
        found = {}
        if len(self.drawn):
            found["nll of a drawn code"], found["mass of a drawn code"] = self._densities(
                self.drawn
            )
        if self.parts is not None and len(self.drawn_parts):
            nll, mass = self.parts.densities(self.drawn_parts)
            found |= {"patch_nll of a drawn code": nll, "patch_mass of a drawn code": mass}
        return {name: values.detach().cpu().numpy() for name, values in found.items()}

    def statistics_of(self, views: Tensor, maps: list[Tensor] | None = None) -> dict[str, Floats]:
        """Statistics of views, as the encoder gives them: one `(N,)` float64 array each.

        A score that overflows, as for an image that is nothing like the training images, is 1e30.
        With parts, their maps `(n, k)` of some images after the others go to `maps`.
        """

        def of(some: Tensor) -> dict[str, Tensor]:
            seen: list[Tensor] = []
            scores: dict[str, Tensor] = self(some, None if maps is None else seen)
            return scores | ({_MAP: seen[0]} if seen else {})

        parts = self._in_batches(of, views)
        if maps is not None and _MAP in parts:
            maps.append(parts[_MAP])
        return {s.name: parts[s.name].numpy() for s in self.statistics}

    def raw(self, views: Tensor) -> dict[str, Tensor]:
        """The statistics of `names`, `(N,)` float64 on the CPU, of views.

        The in-distribution range is not needed, but for the latent fit.
        """
        parts = self._in_batches(self, views)
        return {name: parts[name] for name in self.names if name in parts}

    def forward(self, views: Tensor, maps: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Every statistic `(N,)`, float64, of views; with parts, their map goes to `maps`."""
        scores = self._of_image(views) | self._of_parts(views, maps)
        moments = dict(zip(self.names, self.moments, strict=True))
        scores["typicality"] = (scores["nll"] - moments["nll"][0]).abs()
        scores["fused"] = fused(scores, moments)
        return scores

    def _of_image(self, views: Tensor) -> dict[str, Tensor]:
        """Those of an image as a whole, of views or of what a fit keeps of them."""
        with torch.no_grad():
            code = self.encoder.codes(views)
        seen: list[Tensor] = []
        scores = dict(zip(("nll", "mass"), self._densities(code, seen), strict=True))
        if self.latent is not None and len(self.latent.center):
            scores["latent_fit"] = capped(self.latent(seen[0].double()))
        if isinstance(self.encoder, PooledEncoder | VectorEncoder):
            rows = isinstance(self.encoder, VectorEncoder)
            summary = code if rows else self.encoder.summary(views)
            scores |= {name: capped(plain(summary).double()) for name, plain in self._plain()}
        return scores

    def _of_parts(self, views: Tensor, maps: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Those of the places of an image, of whole views; none without parts."""
        if self.parts is None or not isinstance(self.encoder, PooledEncoder):
            return {}
        found: dict[str, Tensor] = self.parts(self.encoder.patches(views), maps)
        return found

    def _flow_of_codes(self, codes: Tensor) -> dict[str, Tensor]:
        return dict(zip(("nll", "mass"), self._densities(codes), strict=True))

    def _plain(self) -> list[tuple[str, Residual | Neighbour]]:
        return [
            (name, each)
            for name, each in self.plain.items()
            if isinstance(each, Residual | Neighbour)
        ]

    def decides_at(self, name: str) -> Callable[[Tensor], Tensor]:
        """A statistic as a differentiable function of codes; those of a summary are left out."""

        def value(code: Tensor) -> Tensor:
            seen: list[Tensor] = []
            scores = dict(
                zip(("nll", "mass"), self._densities(code, seen, create_graph=True), strict=True)
            )
            if self.latent is not None:
                scores["latent_fit"] = capped(self.latent(seen[0].double()))
            moments = dict(zip(self.names, self.moments, strict=True))
            scores["typicality"] = (scores["nll"] - moments["nll"][0]).abs()
            return scores[name] if name in scores else fused(scores, moments)

        return value

    def _densities(
        self, code: Tensor, seen: list[Tensor] | None = None, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """NLL and mass `(N,)`, float64, of codes; latent features of an image flow go to `seen`."""
        if isinstance(self.flow, VectorFlow):
            with torch.set_grad_enabled(create_graph):
                return nll_and_mass(self.flow, code)

        def density(at: Tensor) -> Tensor:
            log_p, features = self._through(at)
            if seen is not None:
                seen.extend(f if create_graph else f.detach() for f in features)
            return log_p

        log_p, mass = log_prob_and_mass(density, code, create_graph=create_graph)
        return capped(-log_p.double()), capped(mass.double())

    def log_prob(self, code: Tensor) -> Tensor:
        """Log-density in nats `(N,)` of codes; differentiable."""
        return self._through(code)[0]

    def _through(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Log-density `(N,)`, and of an image flow latent features `(N, F)`: means over draws."""
        if not isinstance(self.flow, RealNVP):
            return self.flow.log_prob(x), []
        log_p, latent = [], []
        for noise in self.noise:
            z, logdet = self.flow(x + noise)
            log_p.append(self.flow.latent_log_prob(z) + logdet)
            latent.append(latent_features(self.flow.latent_maps(z)))
        return torch.stack(log_p).mean(0), [torch.stack(latent).mean(0)]

    @torch.no_grad()
    def _latent_features(self, views: Tensor) -> Tensor:
        """Latent features `(N, F)` of an image flow, without the gradient that the mass needs."""
        parts = [
            self._through(self.encoder.codes(batch.to(self.device)))[1][0][:count].cpu()
            for batch, count in fixed_batches(views, self.batch_size)
        ]
        return torch.cat(parts)

    def _in_batches(
        self, of: Callable[[Tensor], dict[str, Tensor]], views: Tensor
    ) -> dict[str, Tensor]:
        if len(views) == 0:  # of which zuko's transforms make nothing
            return {s.name: torch.empty(0, dtype=torch.float64) for s in self.statistics}

        def found(batch: Tensor) -> dict[str, Tensor]:
            return {name: values.cpu() for name, values in of(batch.to(self.device)).items()}

        parts = [
            {name: values[:count] for name, values in part.items()}
            for part, count in map_batches(found, views, self.batch_size, self._largest_batch)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def extra_repr(self) -> str:
        """For `print`."""
        return f"shape={self.shape}, statistics={', '.join(s.name for s in self.statistics)}"
