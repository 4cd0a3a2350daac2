"""What a person should know before trusting the verdicts on a set of outliers."""

__all__ = ["weak_spots"]

from collections.abc import Mapping

from ..arrays import Floats
from .metrics import auroc
from .paired import paired_difference

# An AUROC below this is near chance, whatever its interval; another score is clearly better if it
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
        others: mass, which decides, is near chance (AUROC 0.500): do not rely on the verdicts
        others: nll is clearly better than mass, which decides (AUROC 0.955 against 0.500):
        statistic='nll' makes it decide, if these are the outliers that matter
    """
    lines = []
    for name, scores in outside.items():
        areas = {key: auroc(inside[key], values) for key, values in scores.items()}
        area = areas[decides]
        if area < _NEAR_CHANCE:
            lines.append(
                f"{name}: {decides}, which decides, is near chance (AUROC {area:.3f}): do not "
                "rely on the verdicts"
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
