"""What there is to say of a fitted detector and of a table of metrics, in words."""

__all__ = ["LEGEND", "PLACES_LEGEND", "describe"]

from typing import Any

from ..calibration import FALSE_ALARM_RATE, smallest_p_value, threshold
from ..data import describe_shape
from ..detector import Detector
from ..drift import power_in_words

LEGEND = (
    "Larger score = more out-of-distribution. ID or OOD after a metric: its positive\n"
    "class. TNR95: share of OOD rejected where 95% of ID pass; FPR95: share of ID\n"
    "flagged where 95% of OOD are caught. Intervals are 95%, by formulas."
)
PLACES_LEGEND = (
    "By the pixels of these images and of the in-distribution ones, of which none is\n"
    "a defect. AU-PRO: mean share of each defect that is found, up to 30% of the\n"
    "other pixels. Hottest place: on a defect, or no farther than a cell of the map."
)


def describe(detector: Detector) -> dict[str, Any]:
    """What a person wants to know of a fitted detector, as plain types."""
    facts, scores = detector.facts, detector.calibration_scores
    learnt, region = detector.model.describe(), detector.settings.region
    if facts.outliers:
        learnt["has seen outliers"] = facts.outliers
    return {
        **learnt,
        "images": describe_shape(facts.shape),
        **({"region of interest": str(region)} if region is not None else {}),
        "seed": detector.settings.seed,
        "fitted on": f"{facts.training:,} images of {facts.source}",
        "fingerprint": facts.sha256[:16],
        "calibrated on": f"{facts.calibration:,} held-out images",
        **({"left out": f"{facts.left_out:,} images"} if facts.left_out else {}),
        "statistic": detector.statistic,
        "threshold at 5%": threshold(scores, FALSE_ALARM_RATE),
        "smallest p-value": smallest_p_value(scores),
        "drift": power_in_words(facts.calibration),
        "fit seconds": facts.fit_seconds,
        "notes": "; ".join(facts.notes) or "none",
    }
