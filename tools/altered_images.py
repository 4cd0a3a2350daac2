"""Which statistic a colour detector on pixels should use, asked of no OOD set that is reported.

    python tools/altered_images.py ../shared/data results/altered_images.json

The OOD images here are CIFAR-10 test images, altered: blurred, enlarged, noisy, with less and more
contrast, inverted, with the colours exchanged, without colour, upside down, cut up; and MNIST and
KMNIST test images in two random colours. AUROC per image, 300 of each; seed 0; the flow is that of
Table 2, taken from the cache if it is there.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from approxmass import open_images
from approxmass.evaluation.metrics import auroc
from approxmass.paper.images import load
from approxmass.paper.pixel_flow import PixelFlow, recipe
from approxmass.paper.runs import Runs

COUNT = 300


def altered(x: Tensor, data: Path) -> dict[str, Tensor]:
    """OOD images made from in-distribution ones `(N, 3, H, W)`, uint8, by what was done."""
    generator = torch.Generator().manual_seed(0)
    side = x.shape[-1]
    x = x.float()
    mean = x.mean((1, 2, 3), keepdim=True)

    def enlarged(y: Tensor) -> Tensor:
        return F.interpolate(y, size=side, mode="bicubic")

    def noise(sigma: float) -> Tensor:
        return sigma * torch.randn(x.shape, generator=generator)

    quarter = side // 4
    cells = [
        x[:, :, i : i + quarter, j : j + quarter]
        for i in range(0, side, quarter)
        for j in range(0, side, quarter)
    ]
    order = torch.randperm(16, generator=generator).tolist()
    rows = [torch.cat([cells[k] for k in order[4 * i : 4 * i + 4]], 3) for i in range(4)]
    made = {
        "blurred twofold": enlarged(F.interpolate(x, size=side // 2, mode="area")),
        "blurred fourfold": enlarged(F.interpolate(x, size=side // 4, mode="area")),
        "enlarged twofold": enlarged(x[:, :, quarter : 3 * quarter, quarter : 3 * quarter]),
        "noise of 5 levels": x + noise(5),
        "noise of 15 levels": x + noise(15),
        "half the contrast": mean + (x - mean) / 2,
        "more contrast": mean + (x - mean) * 1.5,
        "inverted": 255 - x,
        "colours exchanged": x[:, [2, 0, 1]],
        "without colour": x.mean(1, keepdim=True).expand_as(x),
        "upside down": x.flip(2),
        "cut up": torch.cat(rows, 2),
    }
    for name in ("mnist", "kmnist"):
        source = open_images(data / name / "test.parquet", size=side)
        grey = torch.from_numpy(source.read()[:COUNT]).float() / 255
        ink, paper = (torch.rand(2, COUNT, 3, 1, 1, generator=generator) * 255).unbind()
        made[f"{name} in two colours"] = ink * grey + paper * (1 - grey)
    return {k: v.round().clamp(0, 255).to(torch.uint8) for k, v in made.items()}


def main(data: Path, target: Path) -> None:
    """Run what is not in `target` yet."""
    identity = {"command": f"python tools/altered_images.py {data} {target}", "images": COUNT}
    runs = Runs(target, ("training",), identity, resume=True)
    train, test = (load("cifar10_lossless", split, data).images for split in ("train", "test"))
    if runs.has("penalised"):
        return
    flow = PixelFlow(train, "penalised", recipe("laptop", 3, detector=True))
    scorer = flow.scorer().fit(flow.images, flow.reference)
    pixels = torch.from_numpy(test)
    # The altered images are not the ones that they are compared with.
    inside = scorer.statistics_of(pixels[:COUNT])
    sets = {}
    for name, images in altered(pixels[-COUNT:], data).items():
        found = scorer.statistics_of(images)
        sets[name] = {k: round(auroc(inside[k], found[k]), 4) for k in inside}
    runs.keep({"training": "penalised", "sets": sets})


def markdown(facts: dict[str, Any]) -> str:
    """AUROC by what was done to the images, and the means."""
    (row,) = facts["rows"]
    scores = list(next(iter(row["sets"].values())))
    head = " | ".join(scores)
    lines = [f"| in-distribution images, | {head} |", "|---|" + "---|" * len(scores)]
    for name, areas in row["sets"].items():
        lines.append(f"| {name} | " + " | ".join(f"{areas[k]:.3f}" for k in scores) + " |")
    means = [sum(a[k] for a in row["sets"].values()) / len(row["sets"]) for k in scores]
    lines.append("| **mean** | " + " | ".join(f"**{mean:.3f}**" for mean in means) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
