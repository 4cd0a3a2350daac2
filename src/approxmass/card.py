"""The card of a detector: what lies beside `detector.json` for whoever finds the folder."""

__all__ = ["card"]

import json
import shlex

from .describe import describe, promised_to
from .models.base import Model
from .models.flow import FlowModel
from .models.folded import models_of
from .models.kinds import kind_of
from .scoring import Scoring

_P_VALUES = """\
A **p-value** is the chance that {unit}s like those it is calibrated on score at least as high.
Small is out-of-distribution: call what is at most the false-alarm rate that you accept, and of
usual {unit}s about that share is called; the table says what is guaranteed. This holds however
badly it tells outliers, and for {unit}s like those it is calibrated on alone: for another {source}
calibrate again, on new usual ones (`approxmass calibrate`)."""

_USE = """\
```python
from approxmass import Detector

detector = Detector.load({folder}{given})
scores = detector.score({what})  # .p_value, .is_outlier, .to_pandas()
```
"""
_COMMAND = """
```sh
approxmass score {folder} {files} -o scores.csv
approxmass inspect {folder}
```
"""


def card(detector: Scoring, folder: str) -> str:
    """What a fitted detector is, what it promises and what it cannot see, as Markdown.

    Arguments:
        detector: Fitted.
        folder: What its folder is called.

    Example:
        >>> import numpy as np
        >>> from approxmass import Detector
        >>> rows = np.random.default_rng(0).normal(size=(40, 3))
        >>> print(card(Detector().fit(rows), "d").splitlines()[0])
        # d: which rows are unlike those of array
    """
    facts, unit = detector.facts, detector.fitted.unit
    elsewhere = detector.model.name == "density"
    given = ", log_prob=...  # the density that it was made from\n" if elsewhere else ""
    what = "rows" if unit == "row" else "images"
    lines = [
        f"# {_cell(folder)}: which {unit}s are unlike those of {_cell(facts.source)}",
        "",
        f"A detector of approxmass. It has learnt from usual {unit}s alone, and gives each new one "
        "a p-value.",
        "",
        _P_VALUES.format(unit=unit, source="table" if unit == "row" else "camera or day"),
        *([f"\n{promised}."] if (promised := promised_to(detector)) else []),
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in describe(detector).items()),
        "",
        "## What it cannot see",
        "",
        *(f"- {blind}" for blind in blind_spots(detector)),
        "",
        "## Use",
        "",
        _USE.format(folder=json.dumps(folder), what=what, given=given).rstrip("\n"),
    ]
    if not elsewhere:
        files = "table.parquet" if unit == "row" else "images/"
        lines.append(_COMMAND.format(folder=shlex.quote(folder), files=files).rstrip("\n"))
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    lines += ["", f"Made with {versions}. A load tries it on test {unit}s, and says so where it"]
    lines += ["scores otherwise than then. This file is for people, and nothing reads it.", ""]
    # The name of a folder need not be text.
    return "\n".join(lines).encode(errors="backslashreplace").decode()


def blind_spots(detector: Scoring) -> list[str]:
    """Kinds of outliers that a detector of this kind is known to miss, a sentence each."""
    model, unit = detector.model, detector.fitted.unit
    if unit == "row":
        found = [
            "Values that are each usual and usual together, whatever they mean.",
            "A column that did not vary in the fit is compared in its own unit alone.",
        ]
    else:
        found = ["It goes by what an image shows, not by what it means or what it is for."]
        found += _of_images(model, detector)
    return [
        *found,
        f"A kind of outlier that was among the {unit}s of the fit, or calibrates, is usual to it.",
        "It tells that something is unlike the usual, not what it is, nor how bad that is.",
    ]


def _of_images(model: Model, detector: Scoring) -> list[str]:
    found = []
    height, width = detector.shape[1:]
    if detector.settings.size is not None:
        found.append(f"What is too fine to be seen at {width}x{height} pixels.")
    first = models_of(model)[0]
    if isinstance(first, FlowModel):
        chosen = first.chosen
        if kind_of(chosen.encoder).has_parts:
            found.append(
                f"What {chosen.encoder}, a network trained to name things in photos, does not tell "
                "apart: fine texture, counts, left and right, small shifts of colour or focus."
            )
            found.append(
                "What is wrong only by where it is, or by what is missing: each place is compared "
                "with usual ones wherever these were."
                if chosen.parts is True
                else "A small defect of a large image: it is seen as a whole."
            )
    if detector.settings.region is not None:
        found.append("Anything outside of the region of interest.")
    return found


def _cell(value: object) -> str:
    shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
    return " ".join(shown.replace("|", "\\|").split())
