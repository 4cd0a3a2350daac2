"""What there is to say of a fitted detector, in words."""

__all__ = ["describe", "promised_to", "seen"]

from typing import Any

from .calibrated import ONE, Calibrated
from .calibration import FALSE_ALARM_RATE, fold_bound, smallest_p_value, threshold
from .data import describe_shape
from .drift import power_in_words
from .fit_facts import trimmed_said
from .scoring import Scoring


def describe(detector: Scoring, rate: float = FALSE_ALARM_RATE) -> dict[str, Any]:
    """What a person wants to know of a fitted detector at a false-alarm rate, as plain types.

    Raises:
        ApproxMassError: a rate that the calibration images do not resolve.
    """
    facts, groups = detector.facts, detector.fitted.in_use.groups.values()
    fewest = min(len(group.streamed(detector.statistic)) for group in groups)
    learnt, region = detector.model.describe(), detector.settings.region
    unit = detector.fitted.unit
    if facts.outliers:
        learnt["has seen outliers"] = facts.outliers
    return {
        **learnt,
        f"{unit}s": seen(detector),
        **({"region of interest": str(region)} if region is not None else {}),
        "seed": detector.settings.seed,
        "fitted on": f"{facts.training:,} {unit}s of {facts.source}"
        + (f", by each of {facts.folds} models" if facts.folds > 1 else ""),
        "fingerprint": facts.sha256[:16],
        **({"trimmed": _trimmed(detector)} if facts.trimmed else {}),
        **_calibrations(detector, rate),
        **({"left out": f"{facts.left_out:,} {unit}s"} if facts.left_out else {}),
        "drift": power_in_words(fewest, unit),
        "fit seconds": facts.fit_seconds,
        "notes": "; ".join(facts.notes) or "none",
    }


def seen(detector: Scoring) -> str:
    """What its images, or its rows, are, in words."""
    shape = detector.facts.shape
    return f"{shape[2]} numbers each" if detector.fitted.vectors else describe_shape(shape)


def _by_whom(calibrated: Calibrated, unit: str) -> str:
    """Which images of the fit calibrate, and what that guarantees."""
    if calibrated.fold is None:
        return f"{calibrated.count:,} held-out {unit}s: P(p <= e) <= e, on average over fits"
    term = fold_bound(0.0, calibrated.count, calibrated.folds)
    return (
        f"all {calibrated.count:,} {unit}s, by {calibrated.folds} folds: P(p <= e) <= 2 e + "
        f"{term:.2g}, on average over fits, and near e by simulation"
    )


def promised_to(detector: Scoring) -> str:
    """For which images the guarantee is, where a first pass left some out of the fit; else empty.

    After a later calibration it is for images like those of that, of which none was left out.
    """
    facts = detector.facts
    if not facts.trimmed or len(detector.fitted.calibrations) > 1:
        return ""
    total, unit = facts.images + len(facts.trimmed), detector.fitted.unit
    return (
        f"the guarantee is for {unit}s like the other {facts.images:,}; of {unit}s like all "
        f"{total:,} up to {len(facts.trimmed) / total:.2%} more may be called"
    )


def _trimmed(detector: Scoring) -> str:
    """What a first pass left out, and for which images the guarantee then is."""
    facts, promised = detector.facts, promised_to(detector)
    said = trimmed_said(facts.trimmed, facts.images, detector.fitted.unit)
    found = f"{said} are left out"
    return f"{found}: {promised}" if promised else found


def _calibrations(detector: Scoring, rate: float) -> dict[str, Any]:
    """What new images are compared with, at a false-alarm rate."""
    first, *later = detector.fitted.calibrations
    unit = detector.fitted.unit
    found: dict[str, Any] = {"calibrated on": _by_whom(first.groups[ONE], unit)}
    if later:
        *earlier, latest = [run.said(unit) for run in detector.fitted.calibrations]
        found = {"calibrated on": latest, "earlier calibrations": "; ".join(earlier)}
    found["statistic"] = detector.statistic
    for name, group in detector.fitted.in_use.groups.items():
        of, scores = f", {name}" if name else "", group.scores[detector.statistic]
        found |= {
            f"threshold at {100 * rate:.4g}%{of}": threshold(scores, rate),
            f"false alarms at {100 * rate:.4g}%{of}": group.rate_said(rate),
            f"smallest p-value{of}": smallest_p_value(scores),
        }
    return found
