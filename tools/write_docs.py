"""Put the numbers of results/*.json into README.md and docs/*.md, between their markers.

    python tools/write_docs.py

A test runs `updated` and fails where a document differs from what the results say.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import attacks
import drift_power
import false_alarms
import photos
import scale
import small_wheel
from altered_images import markdown as altered_images
from altered_parts import markdown as altered_parts
from altered_photos import markdown as altered_photos
from approxmass.evaluation.intervals import interval_text
from approxmass.paper.audit import markdown as audit
from approxmass.paper.experiments import EXPERIMENTS
from approxmass.paper.pairs import block_markdown
from classifier_rivals import markdown as classifier_rivals
from contaminated import markdown as contaminated
from few_images import markdown as few_images
from foreign_patches import markdown as foreign_patches
from full_cost import markdown as full_cost
from interval_coverage import markdown as coverage
from mutants import markdown as mutants
from onnx_parity import markdown as onnx_parity
from promise import markdown as promise
from tables import markdown as tables

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "docs/results.md",
    "docs/baselines.md",
    "docs/reproduction.md",
    "docs/performance.md",
    "docs/photos.md",
    "docs/drift.md",
    "docs/promises.md",
    "docs/architecture.md",
    "docs/vectors.md",
    "docs/scale.md",
    "docs/export.md",
    "docs/security.md",
)
sys.path.append(str(ROOT / "benchmarks"))


def _read(name: str) -> Any:
    return json.loads((ROOT / name).read_text())


def _demo(facts: dict[str, Any]) -> str:
    lines = [
        "| score | AUROC | 95% interval | TNR at 95% TPR (ID positive) | FPR95 (OOD positive) |",
        "|---|---|---|---|---|",
    ]
    for row in facts["evaluation"]["rows"]:
        m = row["metrics"]
        area, tnr, fpr = m["auroc"], m["tnr95_id_positive"], m["fpr95_ood_positive"]
        lines.append(
            f"| {row['score']} | {area['value']:.4f} | {interval_text(area['low'], area['high'])} "
            f"| {tnr['value']:.3f} | {fpr['value']:.3f} |"
        )
    share = list(facts["flagged_at_5_percent"].values())
    lines.append("")
    lines.append(
        f"FashionMNIST test images against MNIST digits, 1,000 of each, seed {facts['seed']}; "
        f"fitted in {facts['fit']['fit_seconds']:.0f} s. At a false-alarm rate of 5% it "
        f"flags {share[0]:.1%} of the FashionMNIST and {share[1]:.1%} of the MNIST images."
    )
    return "\n".join(lines)


def _range(values: list[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}"


def fragments() -> dict[str, str]:
    """What belongs between the markers of each name."""
    from table import TABLES

    paper = {name: _read(f"results/paper/{name}.json") for name in EXPERIMENTS}
    demo = _read("results/demo.json")
    found = {name: EXPERIMENTS[name].markdown(facts) for name, facts in paper.items()}
    rows = paper["table2"]["rows"]
    grey = [row for row in rows if row["block"] == "grey" and row["method"] == "pca"]
    colour = [row for row in rows if row["block"] == "colour-lossless"]
    (pixels,) = (row for row in colour if row["method"] == "pixels")
    blocks = {
        "table2_grey": block_markdown(paper["table2"], "grey"),
        "table2_lossless": block_markdown(paper["table2"], "colour-lossless"),
        "table2_jpeg": block_markdown(paper["table2"], "colour"),
        "demo": _demo(demo),
        "classifier_rivals": classifier_rivals(_read("results/classifier_rivals.json")),
        "altered_images": altered_images(_read("results/altered_images.json")),
        "altered_photos": altered_photos(_read("results/altered_photos.json")),
        "photos_real": photos.real_markdown(_read("results/photos.json")),
        "photos_parts": photos.parts_markdown(_read("results/photos.json")),
        "altered_parts": altered_parts(_read("results/altered_parts.json")),
        "few": few_images(_read("results/few_images.json")),
        "tables": tables(_read("results/tables.json")),
        "photos_pairs": photos.pairs_markdown(_read("results/photos.json"), "cifar10 pairs"),
        "photos_grey": photos.pairs_markdown(_read("results/photos.json"), "fashion_mnist"),
        "photos_lite2": photos.lite2_markdown(_read("results/photos.json")),
        "photos_classes": photos.classes_markdown(_read("results/photos.json")),
        "coverage": coverage(_read("results/interval_coverage.json")),
        "contaminated": contaminated(_read("results/contaminated.json")),
        "promise": promise(_read("results/promise.json")),
        "alarms_images": false_alarms.images_markdown(_read("results/false_alarms.json")),
        "alarms_groups": false_alarms.groups_markdown(_read("results/false_alarms.json")),
        "alarms_streams": false_alarms.streams_markdown(_read("results/false_alarms.json")),
        "audit": audit(_read("results/paper/audit.json")),
        "foreign_patches": foreign_patches(_read("results/foreign_patches.json")),
        "drift_power": drift_power.power_markdown(_read("results/drift_power.json")),
        "drift_quiet": drift_power.quiet_markdown(_read("results/drift_power.json")),
        "mutants": mutants(_read("results/mutants.json")),
        "attacks": attacks.markdown(_read("results/attacks.json")),
        "scale": scale.markdown(_read("results/scale.json")),
        "scale_memory": scale.memory_markdown(_read("results/scale.json")),
        "ray_kills": scale.kills_markdown(_read("results/ray_kills.json")),
        "onnx_parity": onnx_parity(_read("results/onnx_parity.json")),
        "small_wheel": small_wheel.markdown(_read("results/small_wheel.json")),
        "full_cost": full_cost(_read("results/full_cost.json")),
    }
    return {
        **{name: f"\n{text}\n" for name, text in (found | blocks).items()},
        **{f"bench_{name}": f"\n{table()}\n" for name, table in TABLES.items()},
        "colour_fit": f"{pixels['fit_seconds'] / 60:.0f}",
        "fit": _range([row["fit_seconds"] for row in grey], ".0f"),
        "rate": _range([row["scored_images_per_second"] for row in grey], ",.0f"),
        "flagged": _range([row["flagged_id_at_5_percent"] for row in grey], ".1%"),
    }


def updated(text: str) -> str:
    """A document with every fragment filled in."""
    for name, content in fragments().items():
        pattern = rf"(<!-- {name} -->).*?(<!-- /{name} -->)"
        text = re.sub(pattern, lambda m, c=content: m[1] + c + m[2], text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for document in DOCUMENTS:
        path = ROOT / document
        path.write_text(updated(path.read_text()))
