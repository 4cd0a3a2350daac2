"""The default detector on photos, three seeds, beside its vanilla flow and the plain lines.

    python tools/photos.py ../shared/data results/photos.json [SET ...]

Every image set with real photos, the six colour pairs of the paper, one class of CIFAR-10 against
the nine others, and FashionMNIST against three grey sets. Nothing is set by hand. A set is a row;
stopped, it goes on with the next one that is missing.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from altered_photos import pictures
from approxmass import Detector, open_images
from approxmass.data import ImageSource, open_labels
from approxmass.data.masks import open_masks
from approxmass.data.part import part_of
from approxmass.evaluation.assess import score_set
from approxmass.evaluation.compare import Comparison, compare
from approxmass.evaluation.intervals import Interval, interval_text
from approxmass.evaluation.localize import Localization, Places
from approxmass.evaluation.metrics import auroc
from approxmass.evaluation.paired import paired_difference
from approxmass.paper.runs import Runs

SEEDS = (0, 1, 2)
# Real-size sets: they were looked at while the method was made.
REAL = ("magnetic_tile", "elpv_mono", "plantvillage_apple", "clothing_pants", "gtsrb_speed")
# The paper's colour pairs; names in the table by folder.
PAIRS = {
    "street_characters": "street characters (stand-in for SVHN)",
    "gtsrb": "GTSRB",
    "dtd": "DTD (10 classes)",
    "sun_scenes": "sun scenes (stand-in for Places365)",
    "flowers": "flowers (stand-in for iNaturalist Plantae)",
    "monkeys": "monkeys (stand-in for iNaturalist Animalia)",
}
GREY = {"mnist": "MNIST", "kmnist": "KMNIST", "emnist_letters": "EMNIST letters"}
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# Of the images of the nine other classes every ninth is scored.
EVERY = 9
# After the file: the name of its bad images.
BAD = ":bad"
MINUTES = {"fashion_mnist": 12.0, "cifar10 pairs": 8.0}

Task = tuple[ImageSource, ImageSource, dict[str, Any]]


def labelled(path: Path, keep: Any, name: str) -> ImageSource:
    """Those images of a file whose label `keep` takes."""
    source = open_images(path)
    labels = open_labels(source)
    assert labels is not None
    return part_of(source, np.array([bool(keep(label)) for label in labels]), name)


def real(data: Path, name: str) -> Task:
    """Good and bad images of a real-size set."""
    test = data / name / "test.parquet"
    names = {0: "good", 1: f"{test}{BAD}"}
    good, bad = (labelled(test, lambda label, is_=is_: label == is_, n) for is_, n in names.items())
    return open_images(data / name / "train.parquet"), good, {"bad": bad}


def one_class(data: Path, kind: int) -> Task:
    """A class of CIFAR-10 (JPEG) against every ninth image of the nine others."""
    train, test = (data / "cifar10_jpeg" / f"{split}.parquet" for split in ("train", "test"))
    others = labelled(test, lambda label: label != kind, "others")
    return (
        labelled(train, lambda label: label == kind, CIFAR[kind]),
        labelled(test, lambda label: label == kind, "good"),
        {"others": part_of(others, np.arange(len(others)) % EVERY == 0, "others")},
    )


def tasks(data: Path) -> Iterator[tuple[str, Task]]:
    """Every row: its name and its images."""
    for name in REAL:
        yield name, real(data, name)
    lossless = data / "cifar10_lossless"
    oods: dict[str, Any] = {t: data / n / "test.parquet" for n, t in PAIRS.items()}
    test = open_images(lossless / "test.parquet")
    yield "cifar10 pairs", (open_images(lossless / "train.parquet"), test, oods)
    for kind, name in enumerate(CIFAR):
        yield f"one class: {name}", one_class(data, kind)
    grey = data / "fashion_mnist"
    oods = {t: data / n / "test.parquet" for n, t in GREY.items()}
    test = open_images(grey / "test.parquet")
    yield "fashion_mnist", (open_images(grey / "train.parquet"), test, oods)
    for name in REAL:
        yield f"lite2: {name}", real(data, name)


def row(name: str, task: Task) -> dict[str, Any]:
    """Three seeds of a set, and the means and paired intervals over them."""
    started = time.monotonic()
    images, inside, oods = task
    encoder = "lite2" if name.startswith("lite2") else "auto"
    settings = {"encoder": encoder, "parts": False} if encoder == "lite2" else {"encoder": encoder}
    found = [compare(images, oods, id_images=inside, seed=seed, **settings) for seed in SEEDS]
    if found[0].detector.settings.options["parts"]:
        for each in found:
            each.scores["penalised: fused, without parts"] = without_parts(
                each, images, inside, oods
            )
    facts = [each.facts() for each in found]
    mean = {
        line: {
            ood: round(
                float(np.mean([auroc(f.scores[line][f.id], f.scores[line][ood]) for f in found])), 4
            )
            for ood in oods
        }
        for line in found[0].scores
    }
    best = {ood: max((k for k in mean if k.startswith("plain")), key=lambda k: mean[k][ood])
            for ood in oods}  # fmt: skip
    return {
        "set": name,
        "seconds": round(time.monotonic() - started),
        "counts": facts[0]["counts"],
        "training": facts[0]["fit"]["training"],
        "calibration": facts[0]["fit"]["calibration"],
        "notes": facts[0]["fit"]["notes"],
        "mean": mean,
        "flagged": [
            {f"{line['of']}: {line['name']}": line["flagged"] for line in f["lines"]} for f in facts
        ],
        "fit_seconds": [f["fit_seconds"] for f in facts],
        "images_per_second": [f["images_per_second"] for f in facts],
        "penalised_less_vanilla": {
            statistic: {
                ood: paired(found, f"penalised: {statistic}", f"vanilla: {statistic}", ood)
                for ood in oods
            }
            for statistic in ("fused", "nll", "mass", "patch_nll", "patch_mass")
            if f"vanilla: {statistic}" in found[0].scores
        },
        "fused_less_best_plain": {
            ood: {"line": best[ood]} | paired(found, "penalised: fused", best[ood], ood)
            for ood in oods
        },
        **extra(found, inside, oods),
        "settings": facts[0]["settings"],
        "machine": facts[0]["machine"],
    }


def without_parts(
    found: Comparison, images: ImageSource, inside: ImageSource, oods: Mapping[str, Any]
) -> dict[str, Any]:
    """The same detector without its patch level: what that adds."""
    plain = Detector(seed=found.seed, parts=False).fit(images)
    sets = {found.id: inside, **oods}
    return {name: plain.score(of).statistic for name, of in sets.items()}


def extra(found: list[Comparison], inside: ImageSource, oods: Mapping[str, Any]) -> dict[str, Any]:
    """What there is to say of parts: what they add, and how well maps fit masks."""
    if "penalised: fused, without parts" not in found[0].scores:
        return {}
    (ood,) = oods
    facts: dict[str, Any] = {
        "with_less_without_parts": paired(
            found, "penalised: fused", "penalised: fused, without parts", ood
        ),
        "detector_mib": round(size_of(found[0].detector), 1),
        "pasted": [
            asdict(pasted(each.detector, Path(oods[ood].name.removesuffix(BAD)), each.seed))
            for each in found
        ],
    }
    masks = masks_of(oods[ood])
    if masks is not None:
        figures = [places(each.detector, inside, oods[ood], masks) for each in found]
        facts["places"] = [asdict(each) for each in figures if each is not None]
    return facts


def size_of(detector: Detector) -> float:
    """MiB of its folder."""
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder) / "d")
        return sum(path.stat().st_size for path in Path(folder, "d").iterdir()) / 2**20


def masks_of(source: ImageSource) -> list[Any] | None:
    """Masks of the bad images of a Parquet file, as they are kept, where it has them."""
    whole = open_images(source.name.removesuffix(BAD))
    if "mask" not in pq.read_schema(whole.name).names:
        return None
    labels = open_labels(whole)
    assert labels is not None
    pairs = zip(open_masks("mask", whole).stream(), labels, strict=True)
    return [kept for kept, label in pairs if label == 1]


def pasted(detector: Detector, test: Path, seed: int) -> Localization:
    """How well maps show a square from another good image, an eighth of the short side long."""
    images, columns = pictures(test)
    good = [image for image, label in zip(images, columns["label"], strict=True) if label == 0]
    rng, made, masks = np.random.default_rng(seed), [], []
    for place, image in enumerate(good):
        other = good[(place + rng.integers(1, len(good))) % len(good)]
        side = max(1, min(*image.size, *other.size) // 8)
        left, top = rng.integers(other.width - side + 1), rng.integers(other.height - side + 1)
        x, y = int(rng.integers(image.width - side + 1)), int(rng.integers(image.height - side + 1))
        altered, mask = image.copy(), np.zeros((image.height, image.width), bool)
        altered.paste(other.crop((left, top, left + side, top + side)), (x, y))
        mask[y : y + side, x : x + side] = True
        made.append(altered)
        masks.append(mask)
    gathered = Places()
    score_set(detector, made, places=gathered, masks=open_masks(masks, open_images(made)))
    figures = gathered.figures()
    assert figures is not None
    return figures


def places(
    detector: Detector, inside: ImageSource, bad: ImageSource, masks: list[Any]
) -> Localization | None:
    """How well the maps of good and bad images show the defects."""
    gathered = Places()
    score_set(detector, inside, places=gathered)
    score_set(detector, bad, places=gathered, masks=open_masks(masks, bad))
    return gathered.figures()


def paired(found: list[Comparison], one: str, other: str, ood: str) -> dict[str, float]:
    """A difference over all seeds, which share their test images."""

    def pairs(key: str) -> list[tuple[Any, Any]]:
        return [(each.scores[key][each.id], each.scores[key][ood]) for each in found]

    area: Interval = paired_difference(pairs(one), pairs(other))
    return {k: round(getattr(area, k), 4) for k in ("value", "low", "high")}


def main(data: Path, target: Path, only: list[str]) -> None:
    """Run what is not in `target` yet."""
    identity: Mapping[str, Any] = {"command": f"python tools/photos.py {data} {target}"}
    runs = Runs(target, ("set",), dict(identity), resume=True)
    for name, task in tasks(data):
        if (only and name not in only) or runs.has(name):
            continue
        runs.keep(row(name, task))
        print(name, "done", flush=True)


def _area(row: dict[str, Any], line: str) -> float:
    return float(np.mean(list(row["mean"][line].values())))


def _signed(found: Mapping[str, float]) -> str:
    unclear = found["low"] <= 0 <= found["high"]
    words = ", not distinguishable" if unclear else ""
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]{words}"


def _table(columns: list[str], areas: list[dict[str, float]]) -> str:
    """Lines by columns, with their mean where all have them; the best of each column in bold."""
    lines = [
        "| line | " + " | ".join(columns) + " | mean |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    names = list(areas[0])
    everywhere = [name for name in names if all(name in each for each in areas)]
    means = {name: float(np.mean([each[name] for each in areas])) for name in everywhere}
    for name in names:
        cells = []
        for each in [*areas, means]:
            if name not in each:
                cells.append("-")
                continue
            best = round(each[name], 3) == round(max(each.values()), 3)
            cells.append(f"**{each[name]:.3f}**" if best else f"{each[name]:.3f}")
        kind, _, line = name.partition(": ")
        shown = line if kind == "plain" else f"{line}, {kind}"
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def lite2_markdown(facts: dict[str, Any]) -> str:
    """The real-size sets with the larger network."""
    rows = [row for row in facts["rows"] if row["set"].startswith("lite2: ")]
    areas = [{line: _area(row, line) for line in row["mean"]} for row in rows]
    return _table([row["set"].split(": ")[1] for row in rows], areas)


def real_markdown(facts: dict[str, Any]) -> str:
    """The real-size sets."""
    rows = sorted(
        (row for row in facts["rows"] if row["set"] in REAL), key=lambda row: REAL.index(row["set"])
    )
    areas = [{line: _area(row, line) for line in row["mean"]} for row in rows]
    lines = [_table([row["set"] for row in rows], areas), ""]
    lines += [
        "| set | flagged at 5%: good | bad | fused - best plain line | mass: penalised - vanilla "
        "| fused: penalised - vanilla |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        good, bad = (
            " / ".join(f"{flagged['penalised: fused'][kind]:.1%}" for flagged in row["flagged"])
            for kind in ("good", "bad")
        )
        best = row["fused_less_best_plain"]["bad"]
        differences = row["penalised_less_vanilla"]
        lines.append(
            f"| {row['set']} | {good} | {bad} "
            f"| {_signed(best)} ({best['line'].removeprefix('plain: ')}) "
            f"| {_signed(differences['mass']['bad'])} | {_signed(differences['fused']['bad'])} |"
        )
    return "\n".join(lines)


def parts_markdown(facts: dict[str, Any]) -> str:
    """The real-size sets: what parts add, and how well maps show defects."""
    rows = sorted(
        (row for row in facts["rows"] if row["set"] in REAL), key=lambda row: REAL.index(row["set"])
    )
    lines = [
        "| set | fused: with - without parts | patch_mass: penalised - vanilla | patch_nll: "
        "penalised - vanilla | MiB of the detector |",
        "|---|---|---|---|---|",
    ]
    rows = [row for row in rows if "with_less_without_parts" in row]
    for row in rows:
        differences = row["penalised_less_vanilla"]
        lines.append(
            f"| {row['set']} | {_signed(row['with_less_without_parts'])} "
            f"| {_signed(differences['patch_mass']['bad'])} "
            f"| {_signed(differences['patch_nll']['bad'])} | {row['detector_mib']:.1f} |"
        )
    lines += [
        "",
        "| set, seed | pixel AUROC | AU-PRO at 30% | hottest place on the defect "
        "| of those flagged |",
        "|---|---|---|---|---|",
    ]
    for key, shown in (("places", "masks"), ("pasted", "a square pasted")):
        for row in rows:
            for seed, found in zip(SEEDS, row.get(key, []), strict=False):
                hits, flagged = _within(found["hits"]), _within(found["flagged_hits"])
                lines.append(
                    f"| {row['set']}, {shown}, {seed} | {_within(found['pixel_auroc'])} "
                    f"| {_within(found['au_pro'])} | {hits} of {found['defects']} "
                    f"| {flagged} of {found['flagged']} |"
                )
    return "\n".join(lines)


def _within(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    return f"{found['value']:.3f} [{interval_text(found['low'], found['high'], ', ')}]"


def pairs_markdown(facts: dict[str, Any], name: str) -> str:
    """A set against several others."""
    (row,) = (row for row in facts["rows"] if row["set"] == name)
    oods = list(next(iter(row["mean"].values())))
    areas = [{line: by_set[ood] for line, by_set in row["mean"].items()} for ood in oods]
    seconds = " / ".join(f"{each:.0f}" for each in row["fit_seconds"])
    return _table(oods, areas) + (
        f"\n\nFitted on {row['training']:,} images, calibrated on {row['calibration']:,}; fit "
        f"seconds {seconds}, on one core beside other work."
    )


def classes_markdown(facts: dict[str, Any]) -> str:
    """One class of CIFAR-10 against nine."""
    rows = [row for row in facts["rows"] if row["set"].startswith("one class")]
    areas = [{line: _area(row, line) for line in row["mean"]} for row in rows]
    return _table([row["set"].split(": ")[1] for row in rows], areas)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
