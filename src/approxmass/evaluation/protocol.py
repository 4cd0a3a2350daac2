"""Compare scores of in-distribution and out-of-distribution images under a named protocol."""

__all__ = ["Evaluation", "Row", "evaluate"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..arrays import Floats
from .metrics import Metrics, group_means, ood_metrics


@dataclass(frozen=True)
class Row:
    """How well one score tells one set of outliers from the in-distribution set."""

    ood: str
    score: str
    metrics: Metrics


@dataclass(frozen=True)
class Evaluation:
    """Rows that share one in-distribution set and one protocol."""

    id: str
    protocol: str
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return asdict(self)


def evaluate(
    id_name: str,
    id_scores: Mapping[str, Floats],
    ood_scores: Mapping[str, Mapping[str, Floats]],
    *,
    group_size: int = 1,
    seed: int = 0,
    unit: str = "image",
) -> Evaluation:
    """Metrics of every score on every set of outliers, classes balanced by seeded subsampling.

    Arguments:
        id_name: Name of the in-distribution set.
        id_scores: Scores `(N,)` of its images, by name of the score.
        ood_scores: The same for each set of outliers, by name of the set.
        group_size: 1 scores images; n scores groups of n images by their mean.
        seed: Fixes the groups, the balancing and the intervals.
        unit: What one of them is, in words.

    Raises:
        ApproxMassError: fewer images than a group has, or scores that are not finite.

    Example:
        >>> import numpy as np
        >>> inside, outside = np.arange(50.0), np.arange(50.0) + 100
        >>> result = evaluate("id", {"nll": inside}, {"ood": {"nll": outside}})
        >>> result.protocol, result.rows[0].metrics.auroc.value
        ('per image, balanced', 1.0)
    """
    per = f"per {unit}" if group_size == 1 else f"per group of {group_size}"
    rows = [
        Row(
            ood,
            score,
            ood_metrics(
                group_means(id_scores[score], group_size, seed=seed),
                group_means(scores[score], group_size, seed=seed),
                seed=seed,
            ),
        )
        for ood, scores in ood_scores.items()
        for score in scores
    ]
    return Evaluation(id_name, f"{per}, balanced", rows)
