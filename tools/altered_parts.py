"""What was chosen for the parts of photos, and on what: altered in-distribution images alone.

    python tools/altered_parts.py ../shared/data results/altered_parts.json

Sixty training images of each real-size set, whole series or tracks where the set has such groups,
are held out from the fit and told from themselves altered in a place (tools/alterations.py): by the
mean of the highest share of places (AUROC per image), and place by place, where altered pixels are
known (AUROC over places; share of altered images whose highest place is altered). What of it enters
`fused` is tried with the whole detector, on images altered in a place or as a whole. Seed 0;
stopped, it goes on with the next set. Nothing here has seen an outlier.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from alterations import ALTERATIONS
from altered_photos import ALTERED, pictures
from approxmass import Detector, encoders
from approxmass.data import open_images
from approxmass.data.frame import Frame, box_in
from approxmass.data.framing import framed
from approxmass.data.region import inside_of
from approxmass.encoders import network
from approxmass.encoders.base import through
from approxmass.encoders.ledoit_wolf import shrunk_covariance, symmetric_root, unit
from approxmass.encoders.patches import PatchEncoder, Patches
from approxmass.evaluation.metrics import auroc
from approxmass.flows import VectorFlow
from approxmass.mass import log_prob_and_mass
from approxmass.models.statistics import capped
from approxmass.paper.runs import Runs
from approxmass.training.flow import train
from approxmass.training.recipes import for_patches

HELD = 60
LOCAL = [name for name in ALTERATIONS if name not in ("blended with another", "half of another")]
WIDTHS = (24, 40, 112)
SHARES = (0.01, 0.05, 0.1, 0.25)
# How finer maps are brought to the grid, what each map is divided by, what is taken off.
CODES = {
    "means of cells": ("mean", False, "all"),
    "the same, each map of length 1": ("mean", True, "all"),
    "and less the mean of its place": ("mean", True, "place"),
    "largest of cells, each map of length 1, less the mean of its place": ("max", True, "place"),
    "the same, and what is usual in the image taken off": ("max", True, "image"),
}
CHOSEN = "less of what varies at a place, with its determinant (the detector's)"
# Patches of a place for which its own covariance counts as much as that of all places.
EVEN = 250
# What enters `fused`, and the weight of the statistics of parts.
FUSIONS = {
    "no parts": ((), 1.0),
    "patch_nll": (("patch_nll",), 1.0),
    "patch_mass": (("patch_mass",), 1.0),
    "patch_nll and patch_mass (the detector's)": (("patch_nll", "patch_mass"), 1.0),
    "the same, half their weight": (("patch_nll", "patch_mass"), 0.5),
    "and patch_residual": (("patch_nll", "patch_mass", "patch_residual"), 1.0),
}
# Noise and alpha of the flow.
FLOWS = ((0.1, 0.0), (0.5, 0.0), (1.0, 0.0), (0.1, 4.0), (0.1, 13.0), (0.5, 13.0))
Rows = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seen:
    """Both ways of pooling `(2, N, C, h, w)`, where images are `(N, h, w)`, and what is altered."""

    maps: torch.Tensor
    inside: torch.Tensor
    altered: torch.Tensor


class Looker:
    """Maps of lite0 at stride 16."""

    def __init__(self) -> None:
        self.net = network("lite0").to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Sequence[Any], frame: Frame, plain: Any = None) -> Seen:
        """What is seen of images in a frame, and where they differ from the unaltered pixels."""
        pixels = open_images(list(images), mode="rgb", size=frame).read()
        rows = through(self._row, torch.from_numpy(pixels), size=4)
        grid = (frame.height // 16, frame.width // 16)
        inside = [inside_of(box_in(i.height, i.width, frame), frame[:2], grid) for i in images]
        same = pixels if plain is None else plain
        differs = (np.abs(pixels.astype(int) - same).max(1) > 8).astype(np.float32)
        return Seen(
            rows.unflatten(1, (2, sum(WIDTHS), *grid)).transpose(0, 1).half(),
            torch.from_numpy(np.stack(inside)),
            F.avg_pool2d(torch.from_numpy(differs)[:, None], 16)[:, 0],
        )

    def _row(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.net(x.contiguous(memory_format=torch.channels_last))[:3]
        grid = maps[-1].shape[2:]
        return torch.cat(
            [
                pool(m, grid)
                for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
                for m in maps
            ],
            1,
        ).flatten(1)


Code = Callable[[Seen], torch.Tensor]


def shares(data: Path, name: str) -> tuple[list[Any], list[int], list[int]]:
    """The training images of a set, and the places of those held out and of the rest."""
    images, columns = pictures(data / name / "train.parquet")
    groups = [str(group) for group in columns["group"]]
    held: list[int] = []
    for group in np.random.default_rng(0).permutation(sorted(set(groups))):
        if len(held) < HELD:
            held += [place for place, of in enumerate(groups) if of == group]
    held = held[:HELD]
    return images, held, [place for place in range(len(images)) if place not in set(held)]


def task(data: Path, name: str, look: Looker) -> tuple[Seen, Seen, list[Seen]]:
    """What is seen of the images to fit on, of those held out, and of these altered."""
    images, held, rest = shares(data, name)
    frame = framed(open_images(images), 256, stride=32)[0].frame
    assert frame is not None
    plain = open_images([images[i] for i in held], mode="rgb", size=frame).read().astype(int)
    altered = []
    for each in LOCAL:
        rng = np.random.default_rng(1)
        alter = ALTERATIONS[each]
        made = [alter(images[i], images[held[rng.integers(len(held))]], rng) for i in held]
        altered.append(look(made, frame, plain))
    return look([images[i] for i in rest], frame), look([images[i] for i in held], frame), altered


def code_of(name: str, training: Seen) -> Code:
    """Whitened codes `(N, h * w, D)` of what is seen."""
    pooling, scaled, centre = CODES[name]

    def values(seen: Seen) -> torch.Tensor:
        maps = seen.maps[0 if pooling == "mean" else 1].float().permute(0, 2, 3, 1)
        parts = torch.split(maps, list(WIDTHS), dim=-1)
        rows = torch.cat([unit(part) for part in parts], -1) if scaled else maps
        if centre == "image":
            inside = seen.inside[..., None].float()
            rows = rows - (rows * inside).sum((1, 2), True) / inside.sum((1, 2), True)
        return rows

    found, inside = values(training), training.inside
    spread = found[inside].std(0) if not scaled else torch.ones(())
    center = found[inside].mean(0)
    if centre != "all":
        counts = inside.sum(0)[..., None]
        means = (found * inside[..., None]).sum(0) / counts.clamp_min(1)
        within = (((found - means) ** 2) * inside[..., None]).sum((0, 1, 2)) / inside.sum()
        error = within / counts.clamp_min(1)
        between = ((means - center) ** 2 - error)[counts[..., 0] > 0].mean(0).clamp_min(0)
        center = center + (means - center) * (counts > 0) * between / (between + error)
    rows = ((found - center) / spread)[inside]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:20_000]
    root = symmetric_root(*shrunk_covariance(rows[order].double())).float()
    return lambda seen: (((values(seen) - center) / spread) @ root).flatten(1, 2)


def detectors(training: Seen) -> tuple[Code, torch.Tensor, torch.Tensor]:
    """Codes as the detector has them, the log-determinant of each place, and codes to train on."""
    encoder = PatchEncoder(WIDTHS, training.inside[0].numel())

    def patches(seen: Seen) -> Patches:
        places = torch.arange(encoder.places).expand(len(seen.inside), -1)
        values = seen.maps[1].float().flatten(2).mT
        return Patches(values, places.where(seen.inside.flatten(1), torch.tensor(-1)))

    rows = encoder.fit_transform(patches(training))
    return lambda seen: encoder.codes(encoder.centered(patches(seen))), encoder.logdet, rows


def by_place(
    training: Seen, inside: Seen, altered: list[Seen]
) -> Iterator[tuple[str, dict[str, float]]]:
    """The figures of codes that know their place, with and without the determinant."""
    code, logdet, _ = detectors(training)
    yield (
        "less of what varies at a place",
        figures(lambda seen: code(seen).norm(dim=2), inside, altered),
    )
    yield (
        CHOSEN,
        figures(lambda seen: code(seen).square().sum(2) / 2 - logdet, inside, altered),
    )
    # Without shortening there is one covariance for all places.
    kept, encoders.patches._WORTH = encoders.patches._WORTH, 2**60
    plain, _, rows = detectors(training)
    encoders.patches._WORTH = kept
    places = torch.arange(inside.inside[0].numel()).expand(len(training.inside), -1)
    at = places[training.inside.flatten(1)]
    factors = torch.eye(rows.shape[1]).repeat(places.shape[1], 1, 1)
    for place in at.unique().tolist():
        here = rows[at == place]
        weight = len(here) / (len(here) + EVEN)
        covariance = weight * torch.cov(here.T) + (1 - weight) * torch.eye(rows.shape[1])
        factors[place] = torch.linalg.cholesky(torch.linalg.inv(covariance))
    dets = factors.diagonal(dim1=1, dim2=2).log().sum(1)

    def own(seen: Seen, use: float) -> torch.Tensor:
        codes = torch.bmm(plain(seen).transpose(0, 1), factors).transpose(0, 1)
        return codes.square().sum(2) / 2 - use * dets

    yield (
        "each place by its own covariance, half way",
        figures(lambda seen: own(seen, 0.0), inside, altered),
    )
    yield (
        "the same, with its determinant",
        figures(lambda seen: own(seen, 1.0), inside, altered),
    )


def fusions(data: Path, name: str) -> dict[str, Any]:
    """The figures of `fused` of the whole detector, by what enters it."""
    images, held, rest = shares(data, name)
    detector = Detector(mode="rgb", parts=True).fit([images[i] for i in rest])
    usual = detector.score([images[i] for i in held]).statistics
    scores = []
    for alter in ALTERATIONS.values():
        rng = np.random.default_rng(1)
        made = [alter(images[i], images[held[rng.integers(len(held))]], rng) for i in held]
        scores.append(detector.score(made).statistics)
    scorer = detector.model.scorer
    moments = dict(zip(scorer.names, scorer.moments, strict=True))

    def combined(of: Any, taken: tuple[str, ...], weight: float) -> Rows:
        z = [
            (weight if n.startswith("patch") else 1.0)
            * (of[n] - moments[n][0].item())
            / moments[n][1].item()
            for n in ("nll", "mass", "residual", "neighbour", *taken)
        ]
        joined: Rows = np.logaddexp.reduce(z)
        return joined

    return {
        title: {
            "image, 5%": float(
                np.mean([auroc(combined(usual, *how), combined(of, *how)) for of in scores])
            )
        }
        for title, how in FUSIONS.items()
    }


def figures(
    score: Callable[[Seen], torch.Tensor], inside: Seen, altered: list[Seen]
) -> dict[str, float]:
    """AUROC per image by share, over places, and the share of hits, in the mean of alterations."""

    def top(seen: Seen, values: torch.Tensor, share: float) -> Rows:
        known = seen.inside.flatten(1)
        return np.array(
            [
                row[of].topk(max(1, round(share * int(of.sum())))).values.mean().item()
                for row, of in zip(values, known, strict=True)
            ]
        )

    usual = score(inside)
    outs = [score(each) for each in altered]
    found = {
        f"image, {share:.0%}": float(
            np.mean(
                [
                    auroc(top(inside, usual, share), top(seen, out, share))
                    for seen, out in zip(altered, outs, strict=True)
                ]
            )
        )
        for share in SHARES
    }
    places, hits = [], []
    for seen, out in zip(altered, outs, strict=True):
        known, wrong = seen.inside.flatten(1), seen.altered.flatten(1)
        plain = out[known & (wrong == 0)].double().numpy()
        odd = out[known & (wrong > 0.5)].double().numpy()
        if len(odd):
            places.append(auroc(plain, odd))
        some = (wrong.amax(1) > 0.2) & (wrong.mean(1) < 0.5)
        hottest = out.masked_fill(~known, -torch.inf).argmax(1, keepdim=True)
        hits += (wrong.gather(1, hottest)[:, 0] > 0)[some].tolist()
    return found | {"places": float(np.mean(places)), "hottest": float(np.mean(hits))}


def flows(training: Seen, inside: Seen, altered: list[Seen]) -> dict[str, Any]:
    """The figures of NLL and mass of a flow, by noise and alpha."""
    code, logdet, rows = detectors(training)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    rows = rows[order[: 2**16]]
    found: dict[str, Any] = {}
    for noise, alpha in FLOWS:
        flow = VectorFlow("patches", rows.shape[1], jitter=noise)
        settings = for_patches(*rows.shape)
        train(flow, rows, type(settings)(**{**vars(settings), "alpha": alpha}))
        flow.requires_grad_(False)
        for place, statistic in ((0, "NLL"), (1, "mass")):

            def score(seen: Seen, place: int = place, flow: VectorFlow = flow) -> torch.Tensor:
                codes = code(seen)
                parts = [
                    log_prob_and_mass(flow.log_prob, some)[place].detach()
                    for some in torch.split(codes.flatten(0, 1), 4096)
                ]
                values = torch.cat(parts).view(codes.shape[:2]).double()
                return capped(values if place else -values - logdet)

            name = f"{statistic}, noise {noise:g}, alpha {alpha:g}"
            found[name] = figures(score, inside, altered)
            print(name, {k: round(v, 3) for k, v in found[name].items()}, flush=True)
    return found


def main(data: Path, target: Path) -> None:
    """Run what is not in `target` yet."""
    identity = {"command": f"python tools/altered_parts.py {data} {target}", "held": HELD}
    runs = Runs(target, ("set",), identity, resume=True)
    look = Looker()
    for name in ALTERED:
        if runs.has(name):
            continue
        training, inside, altered = task(data, name, look)
        codes = {}
        for each in CODES:
            code = code_of(each, training)
            codes[each] = figures(lambda seen, of=code: of(seen).norm(dim=2), inside, altered)
            print(name, each, {k: round(v, 3) for k, v in codes[each].items()}, flush=True)
        for each, made in by_place(training, inside, altered):
            codes[each] = made
            print(name, each, {k: round(v, 3) for k, v in made.items()}, flush=True)
        found = {"code": codes, "flow": flows(training, inside, altered)}
        found["fused"] = fusions(data, name)
        print(name, {k: round(v["image, 5%"], 4) for k, v in found["fused"].items()}, flush=True)
        runs.keep({"set": name, **_rounded(found)})


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _rounded(value) if isinstance(value, dict) else round(value, 4)
        for name, value in found.items()
    }


def markdown(facts: dict[str, Any]) -> str:
    """Means over the sets."""
    rows = facts["rows"]
    columns = list(next(iter(rows[0]["code"].values())))
    shown = [c.replace("image, ", "image, highest ") for c in columns]
    lines = ["| candidate | " + " | ".join(shown) + " |", "|---|" + "---|" * len(columns)]
    for kind in [each for each in ("code", "flow", "fused") if each in rows[0]]:
        lines.append(f"| **{kind}** |" + " |" * len(columns))
        for name, known in rows[0][kind].items():
            cells = [
                f"{np.mean([row[kind][name][column] for row in rows]):.3f}"
                if column in known
                else "-"
                for column in columns
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
