"""What was chosen for photos, and on what: altered in-distribution images, and sets set apart.

    python tools/altered_photos.py ../shared/data results/altered_photos.json

Nothing here has seen an outlier of a set that is reported. There are two kinds of tasks. *Altered*:
a network's codes are fitted on two thirds or more of the training images of a real-size set, and
100 others, whole series or tracks where the set has such groups, are told from themselves altered
in eleven ways (tools/alterations.py). *Other classes*: one texture, scene, flower, monkey or
traffic sign against the others of its set; these sets are reported elsewhere as outliers of
CIFAR-10, never by their classes. AUROC per image, mean over the alterations or classes. Seed 0;
stopped, it goes on with the next task.
"""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.covariance import LedoitWolf

from alterations import ALTERATIONS
from approxmass.data import open_images
from approxmass.data.framing import framed
from approxmass.encoders import PooledEncoder, network
from approxmass.encoders.base import through
from approxmass.evaluation.metrics import auroc
from approxmass.flows import VectorFlow
from approxmass.mass import log_prob_and_mass
from approxmass.models.statistics import capped, fused
from approxmass.models.summary import Neighbour, Residual
from approxmass.paper.runs import Runs
from approxmass.training.flow import TrainingSettings, train

ALTERED = ("magnetic_tile", "elpv_mono", "plantvillage_apple", "clothing_pants", "gtsrb_speed")
CLASSES = ("dtd", "sun_scenes", "flowers", "monkeys", "gtsrb")
HELD, FEWEST, MOST_CLASSES, MOST_OTHERS = 100, 100, 5, 400
NOISES, ALPHAS = (0.1, 0.5, 1.0), (0.0, 0.25, 1.0)  # alphas by the root of the dimension
# Parts of a code: means (m) or deviations (s) of the maps with so many channels.
LEAD = ("m24", "m40", "m112", "m320")
CODES: dict[str, tuple[tuple[str, ...], str]] = {
    "means of four maps, each number by its deviation": (LEAD, "plain"),
    "the same, the whole of length 1": (LEAD, "whole"),
    "the same, each map of length 1": (LEAD, "each, by deviation"),
    "each map of length 1 alone": (LEAD, "each"),
    "and deviations of the last map": ((*LEAD, "s320"), "each"),
    "and deviations of the last two maps": ((*LEAD, "s112", "s320"), "each"),
    "and deviations of all four maps": ((*LEAD, "s24", "s40", "s112", "s320"), "each"),
    "and the map of 1,280 channels": ((*LEAD, "s112", "s320", "m1280"), "each"),
}
Rows = NDArray[np.float64]
Features = dict[str, Rows]


class Looker:
    """Means and deviations of every map of lite0."""

    def __init__(self) -> None:
        self.net = network("lite0").to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Any, frame: Any) -> Features:
        """Features `(N, C)` by name of images in a frame."""
        pixels = open_images(list(images), mode="rgb", size=frame).read()
        widths = self.net.widths
        rows = through(self._row, torch.from_numpy(pixels), size=4).double().numpy()
        parts = np.split(rows, np.cumsum(2 * widths)[:-1], axis=1)
        names = [f"{kind}{width}" for kind in "ms" for width in widths]
        return dict(zip(names, parts, strict=True))

    def _row(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.net(x.contiguous(memory_format=torch.channels_last))
        return torch.cat(
            [m.mean((2, 3)) for m in maps] + [m.std((2, 3), correction=0) for m in maps], 1
        )


def pictures(path: Path) -> tuple[list[Image.Image], dict[str, list[Any]]]:
    """Images of a Parquet file in RGB, and its other columns."""
    table = pq.read_table(path)
    images = [
        Image.open(io.BytesIO(cell["bytes"])).convert("RGB") for cell in table["image"].to_pylist()
    ]
    return images, {name: table[name].to_pylist() for name in table.column_names if name != "image"}


def altered_task(data: Path, name: str, look: Looker) -> tuple[Features, Features, list[Features]]:
    """Features to fit on, of images held out, and of these altered."""
    images, columns = pictures(data / name / "train.parquet")
    rng = np.random.default_rng(0)
    groups = [str(group) for group in columns["group"]]
    held: list[int] = []
    for group in rng.permutation(sorted(set(groups))):
        if len(held) < HELD:
            held += [place for place, of in enumerate(groups) if of == group]
    held = held[:HELD]
    rest = [place for place in range(len(images)) if place not in set(held)]
    frame = framed(open_images(images), 256, stride=32)[0].frame
    altered = []
    for alter in ALTERATIONS.values():
        rng = np.random.default_rng(1)
        made = [alter(images[i], images[held[rng.integers(len(held))]], rng) for i in held]
        altered.append(look(made, frame))
    return (
        look([images[i] for i in rest], frame),
        look([images[i] for i in held], frame),
        altered,
    )


def class_tasks(
    data: Path, name: str, look: Looker
) -> Iterator[tuple[Features, Features, list[Features]]]:
    """The same for classes of a set: two thirds of one, the rest of it, and some of the others."""
    images, columns = pictures(data / name / "test.parquet")
    found, labels = look(images, 128), np.array(columns["label"])

    def rows(places: Any) -> Features:
        return {part: values[places] for part, values in found.items()}

    large = [label for label in np.unique(labels) if (labels == label).sum() >= FEWEST]
    for label in large[:MOST_CLASSES]:
        inside = np.random.default_rng(0).permutation(np.flatnonzero(labels == label))
        outside = np.random.default_rng(1).permutation(np.flatnonzero(labels != label))
        cut = len(inside) * 2 // 3
        yield rows(inside[:cut]), rows(inside[cut:]), [rows(outside[:MOST_OTHERS])]


def unit(rows: Rows) -> Rows:
    """Rows of length 1."""
    scaled: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
    return scaled


def distance(code: str, training: Features) -> Callable[[Features], Rows]:
    """Mahalanobis distance of a code, covariance by Ledoit and Wolf."""
    parts, how = CODES[code]

    def joined(features: Features) -> Rows:
        scale = unit if how.startswith("each") else np.asarray
        rows = np.concatenate([scale(features[part]) for part in parts], 1)
        return unit(rows) if how == "whole" else rows

    rows = joined(training)
    center = rows.mean(0)
    spread = 1.0 if how == "each" else rows.std(0).clip(1e-9)
    fitted = LedoitWolf(assume_centered=True).fit((rows - center) / spread)
    variance, axes = np.linalg.eigh(fitted.covariance_)
    whitening = axes / np.sqrt(variance)
    return lambda features: np.linalg.norm((joined(features) - center) / spread @ whitening, axis=1)


def area(inside: Rows, outside: list[Rows]) -> float:
    """Mean AUROC over sets of outliers."""
    return float(np.mean([auroc(inside, each) for each in outside]))


def views(features: Features) -> torch.Tensor:
    """As the encoder of the detector has them."""
    parts = (*LEAD, "s112", "s320", "m1280")
    return torch.from_numpy(np.concatenate([features[part] for part in parts], 1)).float()


def trial(
    training: Features, inside: Features, outside: list[Features], *, flows: bool
) -> dict[str, dict[str, float]]:
    """AUROC of every candidate on a task."""
    codes = {}
    for name in CODES:
        far = distance(name, training)
        codes[name] = area(far(inside), [far(each) for each in outside])
    encoder = PooledEncoder(network("lite0"))
    crossed = encoder.fit_transform(views(training))
    found: dict[str, dict[str, float]] = {"code": codes}
    known = {"nll": crossed.square().sum(1) / 2, "mass": crossed.norm(dim=1)}
    plain: dict[str, Residual | Neighbour] = {"residual": Residual(), "neighbour": Neighbour()}
    for name, each in plain.items():
        known[name] = each.fit(encoder.summary(views(training)), seed=0)

    def statistics(features: Features) -> dict[str, torch.Tensor]:
        code, summary = encoder.codes(views(features)), encoder.summary(views(features))
        return {
            "nll": code.square().sum(1) / 2,
            "mass": code.norm(dim=1),
            **{name: each(summary) for name, each in plain.items()},
        }

    moments = {name: torch.stack([v.mean(), v.std()]) for name, v in known.items()}
    found["combination"] = combinations(statistics, moments, inside, outside)
    if flows:
        found["flow"] = {
            f"{statistic}, noise {noise:g}, alpha {alpha:g} sqrt(D)": value
            for noise in NOISES
            for alpha in ALPHAS
            for statistic, value in flow(encoder, crossed, noise, alpha, inside, outside).items()
        }
    return found


def combinations(
    statistics: Callable[[Features], dict[str, torch.Tensor]],
    moments: dict[str, torch.Tensor],
    inside: Features,
    outside: list[Features],
) -> dict[str, float]:
    """Ways to make one statistic of those of the flow as it starts and of the plain ones."""

    def largest(z: torch.Tensor) -> torch.Tensor:
        return z.amax(0)

    def mean(z: torch.Tensor) -> torch.Tensor:
        return z.mean(0)

    everything = [statistics(each) for each in (inside, *outside)]
    found = {name: area_of([each[name] for each in everything]) for name in moments}
    for title, combine in (("largest", largest), ("mean", mean)):
        made = [
            combine(torch.stack([(s[n] - moments[n][0]) / moments[n][1] for n in moments]))
            for s in everything
        ]
        found[title] = area_of(made)
    found["log mean exp (fused)"] = area_of([fused(s, moments) for s in everything])
    return found


def area_of(scores: list[torch.Tensor]) -> float:
    """Mean AUROC of the first set against each of the others."""
    inside, *outside = [each.double().numpy() for each in scores]
    return area(inside, outside)


def flow(
    encoder: PooledEncoder,
    codes: torch.Tensor,
    noise: float,
    alpha: float,
    inside: Features,
    outside: list[Features],
) -> dict[str, float]:
    """AUROC of NLL and mass of a flow that starts at the identity."""
    density = VectorFlow("identity", encoder.dimension, jitter=noise)
    steps = max(1, len(codes) // 64)
    settings = TrainingSettings(
        alpha=alpha * encoder.dimension**0.5, epochs=max(1, round(300 / steps)), batch_size=64
    )
    train(density, codes, settings)
    found = [
        log_prob_and_mass(density.log_prob, encoder.codes(views(each)))
        for each in (inside, *outside)
    ]
    return {
        "NLL": area_of([capped(-log_p.detach().double()) for log_p, _ in found]),
        "mass": area_of([capped(mass.detach().double()) for _, mass in found]),
    }


def mean_of(trials: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over classes."""
    return {
        kind: {
            name: round(float(np.mean([each[kind][name] for each in trials])), 4)
            for name in trials[0][kind]
        }
        for kind in trials[0]
    }


def main(data: Path, target: Path) -> None:
    """Run what is not in `target` yet."""
    identity = {"command": f"python tools/altered_photos.py {data} {target}", "held": HELD}
    runs = Runs(target, ("task", "set"), identity, resume=True)
    look = Looker()
    for name in ALTERED:
        if not runs.has("altered", name):
            found = trial(*altered_task(data, name, look), flows=True)
            runs.keep({"task": "altered", "set": name, **mean_of([found])})
    for name in CLASSES:
        if not runs.has("other classes", name):
            trials = [trial(*task, flows=False) for task in class_tasks(data, name, look)]
            runs.keep({"task": "other classes", "set": name, **mean_of(trials)})


def markdown(facts: dict[str, Any]) -> str:
    """Means over the sets of each kind of task."""
    rows = facts["rows"]
    tasks = ("altered", "other classes")
    lines = ["| candidate | altered | other classes |", "|---|---|---|"]
    for kind, title in (("code", "code"), ("combination", "score"), ("flow", "flow")):
        some = {
            task: [row[kind] for row in rows if row["task"] == task and kind in row]
            for task in tasks
        }
        lines.append(f"| **{title}** | | |")
        for name in some["altered"][0]:
            cells = [
                f"{np.mean([row[name] for row in some[task]]):.3f}" if some[task] else ""
                for task in tasks
            ]
            lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
