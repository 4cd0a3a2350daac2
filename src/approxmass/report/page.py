"""From an assessment to the page: what is said, and where."""

__all__ = ["check_page", "write_report"]

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..calibration import FALSE_ALARM_RATE, called_ranks, threshold
from ..describe import describe, promised_to, seen
from ..detector import Detector
from ..errors import ApproxMassError
from ..evaluation.assess import Assessment
from ..evaluation.intervals import interval_text
from ..evaluation.legend import LEGEND, PLACES_LEGEND
from ..evaluation.localize import Localization
from ..evaluation.metrics import group_means
from ..explain.picture import scale_of
from ..runtime.extras import require_extra
from ..runtime.machine import machine_facts
from ..storage.atomic import check_file, write_text
from .charts import calibration_chart, histogram, operating_charts, training_chart, vega_script
from .gallery import galleries

# Fewer in-distribution images say nothing about a rate of 5%.
_FEW = 20
# Unreadable images that are named.
_NAMED = 5
_METRICS = {
    "auroc": "AUROC",
    "aupr_id_positive": "AUPR, ID positive",
    "aupr_ood_positive": "AUPR, OOD positive",
    "tnr95_id_positive": "TNR at 95% TPR, ID positive",
    "fpr95_ood_positive": "FPR at 95% TPR, OOD positive",
}


def check_page(page: Path) -> None:
    """Before any work: the page can be made and written.

    Raises:
        ApproxMassError: a name that is not .html, no place to write, or a missing library.
    """
    if page.suffix.lower() not in (".html", ".htm"):
        raise ApproxMassError(
            f"{page}: a report is an HTML page: end its name in .html", code="bad-option"
        )
    require_extra("report", "a report")
    check_file(page)


def write_report(assessment: Assessment, page: Path) -> None:
    """Write one self-contained HTML file; it opens offline, in any browser.

    Raises:
        ApproxMassError: as `check_page`.
    """
    check_page(page)
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("approxmass.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Within a page its own end tag would end the script.
    script = vega_script().replace("</script", "<\\/script")
    html = environment.get_template("page.html").render(_content(assessment), vega=script)
    write_text(page, html)


def _content(assessment: Assessment) -> dict[str, Any]:
    detector = assessment.detector
    first, *others = assessment.sets
    decides = detector.statistic
    limit = threshold(detector.calibration[decides], FALSE_ALARM_RATE)
    inside = assessment.sets[first]

    def grouped(name: str) -> np.ndarray:
        scores = assessment.sets[name].statistics[decides]
        return group_means(scores, assessment.group_size, seed=assessment.seed)

    # The threshold is one for images: no detector decides by it on groups.
    point = limit if assessment.group_size == 1 else None
    unit = detector.fitted.unit
    roc, precision = operating_charts(grouped(first), {n: grouped(n) for n in others}, point, unit)
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "verdict": _verdict(assessment),
        "warnings": assessment.warnings,
        "remarks": _remarks(assessment),
        "id": first,
        "unit": unit,
        "explains": detector.model.explains,
        "decides": decides,
        "protocol": assessment.evaluation.protocol,
        "points": point is not None,
        "histograms": _histograms(assessment),
        "roc": roc,
        "precision": precision,
        "tables": _tables(assessment),
        "metrics": list(_METRICS.values()),
        "legend": " ".join(LEGEND.split()),
        "calibration": calibration_chart(inside.p_value, len(detector.calibration[decides]), unit),
        "training": _training(assessment),
        "galleries": galleries(assessment),
        "places": _places(assessment),
        "scale": _scale(detector),
        "facts": _facts(assessment),
        "sets": [
            {
                "name": name,
                "count": f"{len(scored.names):,}",
                "flagged": f"{scored.flagged:.1%}",
                "sha256": scored.sha256,
                "seconds": f"{scored.seconds:.2f}",
            }
            for name, scored in assessment.sets.items()
        ],
    }


def _verdict(assessment: Assessment) -> dict[str, Any]:
    """The sentence at the top, one on the false-alarm rate, and the figures beside them."""
    first, *others = assessment.sets
    decides = assessment.detector.statistic
    areas = {
        row.ood: row.metrics.auroc for row in assessment.evaluation.rows if row.score == decides
    }
    caught = {name: assessment.sets[name].flagged for name in others}
    worst = min(caught, key=lambda name: caught[name])
    if len(others) == 1:
        catches = f"catches {caught[worst]:.1%} of {worst}"
    else:
        best = max(caught.values())
        catches = (
            f"catches between {caught[worst]:.1%} ({worst}) and {best:.1%} of the sets of outliers"
        )
    passing, unit = assessment.sets[first], assessment.detector.fitted.unit
    count, n = len(passing.names), len(assessment.detector.calibration[decides])
    called = called_ranks(n, FALSE_ALARM_RATE)
    low, high = stats.betabinom(count, called, n + 1 - called).ppf([0.005, 0.995])
    flags = passing.flagged * count
    if count < _FEW:
        promise = f"{count:,} of them are too few to tell whether that keeps the promise of 5%."
    elif low <= flags <= high:
        promise = (
            f"That is what 5% promises for {count:,} {unit}s like those of the fit "
            f"({low / count:.1%} to {high / count:.1%} in 99 of 100 cases)."
        )
    elif flags > high:
        promise = (
            f"That is more than the {high / count:.1%} which 5% allows for {unit}s like those of "
            f"the fit in 99 of 100 cases: {first} differs from what the detector learnt."
        )
    else:
        promise = (
            f"That is less than the {low / count:.1%} to be expected of {unit}s like those of the "
            f"fit in 99 of 100 cases: {first} is blander than what the detector learnt, or part "
            "of it."
        )
    return {
        "sentence": (
            f"At a false-alarm rate of 5% the detector {catches}, and flags "
            f"{passing.flagged:.1%} of {first}."
        ),
        "promise": f"{promise} {_one_detector(assessment.detector)}{_after_trim(assessment)}",
        "figures": [
            {
                "name": name,
                "auroc": f"{areas[name].value:.3f}",
                "interval": interval_text(areas[name].low, areas[name].high),
                "caught": f"{caught[name]:.1%}",
            }
            for name in others
        ],
    }


def _remarks(assessment: Assessment) -> list[str]:
    """What was done to the images unasked, and which of them are not here."""
    found, unit = [], assessment.detector.fitted.unit
    for name, scored in assessment.sets.items():
        found += [f"{name}: {line}" for line in scored.remarks]
        if scored.skipped:
            some = "; ".join(" ".join(each) for each in scored.skipped[:_NAMED])
            more = len(scored.skipped) - _NAMED
            total = len(scored.names) + len(scored.skipped)
            others = f"; and {more:,} more" if more > 0 else ""
            found.append(
                f"{name}: {len(scored.skipped):,} of {total:,} {unit}s cannot be read and are "
                f"skipped: {some}{others}"
            )
    return found


def _one_detector(detector: Detector) -> str:
    """How far its false-alarm rate may lie off the promise."""
    calibrated = detector.fitted.calibrated
    if calibrated.fold is not None:
        return f"By {calibrated.folds} folds the rate is {calibrated.rate_said(FALSE_ALARM_RATE)}."
    rate, unit = detector.realised_rate(), detector.fitted.unit
    return (
        f"The 5% is an average over fits: of this one detector the rate for such {unit}s is "
        f"between {rate.low:.1%} and {rate.high:.1%}, with 95% probability."
    )


def _after_trim(assessment: Assessment) -> str:
    """For which images the promise is, where some were left out of the fit; a sentence to add."""
    promised, left = promised_to(assessment.detector), assessment.detector.facts.trimmed
    if not promised:
        return ""
    unit = assessment.detector.fitted.unit
    return (
        f" Of the {unit}s of the fit {len(left):,} were left out as the most outlying: {promised}."
    )


def _histograms(assessment: Assessment) -> list[dict[str, Any]]:
    detector = assessment.detector
    decides = detector.statistic
    found = []
    for name, statistic in detector.statistics.items():
        # People read the log-likelihood itself; there a larger number is a more typical image.
        sign = statistic.shown_sign
        values = {key: sign * scored.statistics[name] for key, scored in assessment.sets.items()}
        limit = sign * threshold(detector.calibration[name], FALSE_ALARM_RATE)
        spec = histogram(values, statistic.shown_axis, limit, detector.fitted.unit)
        found.append({"spec": spec, "decides": name == decides})
    return found


def _tables(assessment: Assessment) -> list[dict[str, Any]]:
    tables = []
    for ood, rows in groupby(assessment.evaluation.rows, key=lambda row: row.ood):
        some = list(rows)
        metrics = some[0].metrics
        tables.append(
            {
                "ood": ood,
                "counts": f"{metrics.n_id:,} + {metrics.n_ood:,}",
                "rows": [
                    {"score": row.score, "cells": _cells(asdict(row.metrics))} for row in some
                ],
            }
        )
    return tables


def _cells(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            f"{metrics[name]['value']:.3f}",
            interval_text(metrics[name]["low"], metrics[name]["high"]),
        )
        for name in _METRICS
    ]


def _training(assessment: Assessment) -> list[dict[str, Any]]:
    history = assessment.detector.model.history
    columns = {"nll": "NLL, nats", "mass": "approximate mass", "learning_rate": "learning rate"}
    return [
        training_chart(history, name, title)
        for name, title in columns.items()
        if any(getattr(record, name) is not None for record in history)
    ]


def _scale(detector: Detector) -> dict[str, str] | None:
    """What the colours of maps mean; None without maps."""
    if not detector.model.explains or detector.fitted.vectors:
        return None
    usual = detector.fitted.calibrated.peaks
    low, limit, high = scale_of(usual)
    most = f"what 95% of {len(usual):,} usual images keep below"
    if np.isinf(threshold(usual, FALSE_ALARM_RATE)):
        most = f"the most there is in {len(usual):,} usual images, too few for a limit of 5%"
    numbers = {"low": f"{low:.3g}", "limit": f"{limit:.3g}", "high": f"{high:.3g}"}
    return {"of": detector.model.mapped, "most": most, **numbers}


def _places(assessment: Assessment) -> dict[str, Any] | None:
    """The table of maps against masks; None without masks."""
    if assessment.places is None:
        return None
    named = list(assessment.places.sets.items())
    if len(named) > 1:
        named.append(("all", assessment.places.together))
    return {
        "legend": " ".join(PLACES_LEGEND.split()),
        "rows": [(name, None if found is None else _figures(found)) for name, found in named],
    }


def _figures(found: Localization) -> list[tuple[str, str]]:
    cells = [
        (found.pixel_auroc, ""),
        (found.au_pro, ""),
        (found.hits, f" of {found.defects:,}"),
        (found.flagged_hits, f" of {found.flagged:,}"),
    ]
    return [
        ("-", "") if each is None else (f"{each.value:.3f}{of}", interval_text(each.low, each.high))
        for each, of in cells
    ]


def _facts(assessment: Assessment) -> list[tuple[str, list[tuple[str, str]]]]:
    detector = assessment.detector
    described = {
        name: f"{value:,}" if isinstance(value, int) else str(value)
        for name, value in describe(detector).items()
    }
    described["threshold at 5%"] = f"{float(described['threshold at 5%']):.4g}"
    described["smallest p-value"] = f"{float(described['smallest p-value']):.2g}"
    machine = machine_facts()
    versions = {"Python": machine["python"], **machine["packages"]}
    return [
        ("Detector", list(described.items())),
        ("Settings", [(name, str(v)) for name, v in detector.settings.shown().items()]),
        (
            "Machine of this report",
            [
                ("processor", f"{machine['processor']}, {machine['cores']} cores"),
                ("accelerator", str(machine["accelerator"] or "none")),
                *((name, str(version)) for name, version in versions.items()),
            ],
        ),
        (
            "Data of the fit",
            [
                ("source", detector.facts.source),
                (f"{detector.fitted.unit}s", seen(detector)),
                ("sha256", detector.facts.sha256),
            ],
        ),
    ]
