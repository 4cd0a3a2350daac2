"""Put the numbers of results/*.json into README.md and docs/*.md, between their markers.

    python tools/write_docs.py

A test runs `updated` and fails where a document differs from what the results say.
"""

import json
import re
from pathlib import Path
from typing import Any

from approxmass.paper.audit import markdown as audit
from approxmass.paper.one_class import TABLES
from approxmass.paper.one_class import markdown as one_class
from classifier_rivals import markdown as classifier_rivals
from full_cost import markdown as full_cost
from grey_pairs import markdown as grey_pairs

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/results.md", "docs/baselines.md", "docs/reproduction.md")


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
            f"| {row['score']} | {area['value']:.4f} | {area['low']:.3f}-{area['high']:.3f} "
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


COLOUR = {
    "street_characters": "street characters",
    "gtsrb": "GTSRB",
    "dtd": "DTD",
    "sun_scenes": "scenes",
    "flowers": "flowers",
    "monkeys": "monkeys",
    "cats": "cats",
}


def _colour(facts: dict[str, Any]) -> str:
    scores = ("nll", "mass", "latent_fit", "fused")
    lines = ["| outliers | " + " | ".join(scores) + " |", "|---|" + "---|" * len(scores)]
    for key, name in COLOUR.items():
        cells = []
        for score in scores:
            (area,) = (
                row["metrics"]["auroc"]
                for row in facts["rows"]
                if row["score"] == score and Path(row["ood"]).parent.name == key
            )
            cells.append(f"{area['value']:.3f} [{area['low']:.2f}, {area['high']:.2f}]")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _range(values: list[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}"


def fragments() -> dict[str, str]:
    """What belongs between the markers of each name."""
    grey, demo = _read("results/grey_pairs.json"), _read("results/demo.json")
    colour, rivals = _read("results/colour.json"), _read("results/classifier_rivals.json")
    table3 = _read("results/paper/table3.json")
    fits = [run for run in grey["rows"] if "training" in run]
    return {
        "grey_pairs": "\n" + grey_pairs(grey) + "\n",
        "demo": "\n" + _demo(demo) + "\n",
        "colour": "\n" + _colour(colour) + "\n",
        "classifier_rivals": "\n" + classifier_rivals(rivals) + "\n",
        "one_class": "\n" + one_class(TABLES["table3"], table3) + "\n",
        "audit": "\n" + audit(_read("results/paper/audit.json")) + "\n",
        "table4": "\n" + one_class(TABLES["table4"], _read("results/paper/table4.json")) + "\n",
        "full_cost": "\n" + full_cost(_read("results/full_cost.json")) + "\n",
        "colour_fit": f"{colour['fit']['fit_seconds'] / 60:.0f}",
        "fit": _range([run["fit_seconds_with_reading"] for run in fits], ".0f"),
        "rate": _range([run["scored_images_per_second"] for run in fits], ",.0f"),
        "flagged": _range([run["flagged_id_at_5_percent"] for run in fits], ".1%"),
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
