"""What a person should know before trusting the verdicts on a set of outliers."""

__all__ = ["weak_spots"]

from collections.abc import Mapping

from ..arrays import Floats
from .intervals import Interval
from .metrics import auroc, ood_metrics
from .paired import paired_difference

# An AUROC up to this is near chance, however sure that is; another score is clearly better if it
# is so much ahead and the paired interval leaves no doubt.
_NEAR_CHANCE, _CLEARLY = 0.6, 0.02


def weak_spots(
    decides: str,
    inside: Mapping[str, Floats],
    outside: Mapping[str, Mapping[str, Floats]],
    *,
    seed: int = 0,
) -> list[str]:
    """A line for each set of outliers on which the deciding statistic is weak.

    Arguments:
        decides: The statistic behind the verdicts.
        inside: Statistics `(N,)` of in-distribution images, by name.
        outside: The same of each set of outliers, by name of the set.
        seed: Of the intervals.

    Example:
        >>> import numpy as np
        >>> inside = {"mass": np.arange(100.0), "nll": np.arange(100.0)}
        >>> outside = {"mass": np.arange(100.0), "nll": np.arange(100.0) + 70}
        >>> for line in weak_spots("mass", inside, {"others": outside}):
        ...     print(line)
        others: mass, which decides, is near chance (AUROC 0.500, 95% interval 0.4...-0.5...):
        do not rely on the verdicts
        others: nll is clearly better than mass, which decides (AUROC 0.955 against 0.500):
        statistic='nll' makes it decide, if these are the outliers that matter
    """
    lines = []
    for name, scores in outside.items():
        areas = {key: auroc(inside[key], values) for key, values in scores.items()}
        found = ood_metrics(inside[decides], scores[decides], balanced=False, seed=seed).auroc
        area = areas[decides]
        if (word := _weakness(found)) is not None:
            lines.append(
                f"{name}: {decides}, which decides, {word} (AUROC {area:.3f}, 95% interval "
                f"{found.low:.3f}-{found.high:.3f}): do not rely on the verdicts"
            )
        best = max(areas, key=lambda key: areas[key])
        if areas[best] < area + _CLEARLY:
            continue
        ahead = paired_difference(
            [(inside[best], scores[best])], [(inside[decides], scores[decides])], seed=seed
        )
        if ahead.low > 0:
            lines.append(
                f"{name}: {best} is clearly better than {decides}, which decides (AUROC "
                f"{areas[best]:.3f} against {area:.3f}): statistic={best!r} makes it decide, if "
                "these are the outliers that matter"
            )
    return lines


def _weakness(area: Interval) -> str | None:
    """What is wrong with an AUROC, in words; None for one that is above chance beyond doubt."""
    if area.high < 0.5:
        return "takes these for more usual than usual ones"
    if area.value < _NEAR_CHANCE:
        return "is near chance"
    return "cannot be told from chance with so few" if area.low <= 0.5 else None
