"""What the words over a table of metrics mean."""

__all__ = ["LEGEND", "PLACES_LEGEND"]

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
