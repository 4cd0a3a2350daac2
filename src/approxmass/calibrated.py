"""What new images are compared with: scores of images that calibrate, all together or by group."""

__all__ = ["GIVEN", "ONE", "Calibrated", "CalibrationRun"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats
from .calibration import (
    RealisedRate,
    check_rate,
    fold_bound,
    fold_p_values,
    p_values,
    realised_rate,
)
from .errors import ApproxMassError
from .runtime.schema import Count, Digest, held_to

# The name of the only group, where images are not told apart.
ONE = ""
# What told groups apart, where the group of each image was given.
GIVEN = "given"


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated:
    """Scores of in-distribution images, among which those of new ones take their place.

    Attributes:
        scores: Of images that calibrate, `(n,)`, by statistic; larger = more OOD.
        peaks: The largest values `(m,)` of the maps of some of these; empty without maps.
        fold: `(n,)` of 0 to K-1, where each was scored by that one of K models which was learnt
            without it; so of peaks. None where nothing was learnt from any of them.
    """

    scores: Mapping[str, Floats]
    peaks: Floats
    fold: NDArray[np.int64] | None = None

    @property
    def folds(self) -> int:
        """How many; 1 of images held out."""
        return 1 if self.fold is None else int(self.fold.max()) + 1

    @property
    def count(self) -> int:
        """Images that calibrate."""
        return len(next(iter(self.scores.values())))

    def p_values(self, name: str, values: Floats) -> Floats:
        """p-values `(N,)` by a statistic `(folds, N)` of new images; see `fold_p_values`."""
        if self.fold is None:
            return p_values(self.scores[name], values[0])
        return fold_p_values(self.scores[name], self.fold, values)

    def rate_facts(self, rate: float) -> dict[str, float]:
        """What is known of the false-alarm rate at a rate asked for, ready for JSON.

        Raises:
            ApproxMassError: a rate that so many images do not resolve.
        """
        if self.fold is None:
            return asdict(realised_rate(self.count, rate))
        check_rate(rate, self.count)
        most = fold_bound(rate, self.count, self.folds)
        return {"asked": rate, "at_most_on_average": most}

    def rate_said(self, rate: float) -> str:
        """That in words."""
        facts = self.rate_facts(rate)
        if self.fold is None:
            return str(RealisedRate(**facts))
        most = facts["at_most_on_average"]
        return (
            f"near {100 * rate:.4g}% by simulation; surely at most {most:.1%}, on average over fits"
        )

    def streamed(self, name: str) -> Floats:
        """Those among which the scores of a stream or a group take their place, exactly.

        By folds those of the first, by the model that was learnt without it, as `Scores.streamed`.
        """
        return self.scores[name] if self.fold is None else self.scores[name][self.fold == 0]


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationRun:
    """One calibration of a detector: that of its fit, or a later one on other images.

    Attributes:
        made: When, UTC, as `2026-05-31T12:00:00+00:00`.
        source: What the images were read from.
        sha256: Of their pixels.
        per: What tells the groups apart: a column, `subfolder`, or `given` where each image's was
            given; None for one calibration for all images.
        groups: By group; of `ONE` alone without.
        left_out: Images that were copies, of others or of images of the fit.
    """

    made: str
    source: str
    sha256: str
    per: str | None
    groups: Mapping[str, Calibrated]
    left_out: int = 0

    @classmethod
    def now(
        cls,
        source: str,
        sha256: str,
        groups: Mapping[str, Calibrated],
        per: str | None = None,
        left_out: int = 0,
    ) -> "CalibrationRun":
        """One that has just been made."""
        made = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            made=made, source=source, sha256=sha256, per=per, groups=groups, left_out=left_out
        )

    @property
    def count(self) -> int:
        """Images that calibrate, of all groups."""
        return sum(group.count for group in self.groups.values())

    @property
    def fewest(self) -> int:
        """Images that calibrate the group with the fewest."""
        return min(group.count for group in self.groups.values())

    @property
    def only(self) -> Calibrated:
        """The calibration that all images have.

        Raises:
            ApproxMassError: each group has its own.
        """
        if self.per is not None:
            raise ApproxMassError(
                f"this detector is calibrated per {self._word} ({_listed(self.groups)}): choose "
                "one, with --for NAME or detector.calibrated_for(NAME)",
                code="bad-group",
            )
        return self.groups[ONE]

    def of(self, group: str) -> Calibrated:
        """The calibration of a group.

        Raises:
            ApproxMassError: there is none.
        """
        if self.per is None:
            raise ApproxMassError(
                "this detector has one calibration for all: leave the group out, or "
                "calibrate it per group",
                code="bad-group",
            )
        if group not in self.groups:
            raise ApproxMassError(f"what is given {self.refusal(group)}", code="bad-group")
        return self.groups[group]

    def refusal(self, group: str | None) -> str | None:
        """Why an image of such a group has no p-value, worded to follow its name; None if it has.

        Arguments:
            group: None for an image of none.
        """
        if group in self.groups:
            return None
        if group is None:
            what = "subfolder" if self.per == "subfolder" else f"value for {self.per}"
            return f"is in no group: it has no {what}, and calibration is per {self._word}"
        return (
            f"is of group {group!r}, for which nothing is calibrated (there is "
            f"{_listed(self.groups)}): calibrate with usual ones of it too"
        )

    def rows(
        self, groups: Sequence[str] | None, count: int
    ) -> Iterator[tuple[str, Calibrated, NDArray[np.int64]]]:
        """Each calibration that some of `count` images need, and which.

        Arguments:
            groups: Of each; None where images are not told apart.
            count: Of the images.

        Raises:
            ApproxMassError: groups that are not known, are missing, or that nobody asked for.
        """
        if groups is None:
            yield ONE, self.only, np.arange(count)
            return
        if len(groups) != count:
            raise ApproxMassError(
                f"there are {len(groups):,} groups for {count:,} scores: give each its own",
                code="bad-group",
            )
        for name in dict.fromkeys(groups) if count else list(self.groups)[:1]:
            yield name, self.of(name), np.flatnonzero(np.array(groups, object) == name)

    def alone(self, group: str) -> "CalibrationRun":
        """That of one group, for all images."""
        found = self.of(group)
        named = f"{self.source}, {self._word} {group}"
        return CalibrationRun(
            made=self.made, source=named, sha256=self.sha256, per=None, groups={ONE: found}
        )

    def said(self, unit: str = "image") -> str:
        """In words, of images or what else a detector takes one of."""
        groups = ""
        if self.per is not None:
            counts = (f"{name} {group.count:,}" for name, group in self.groups.items())
            groups = f", per {self._word}: {', '.join(counts)}"
        day, time = self.made[:10], self.made[11:16]
        left = f"; {self.left_out:,} copies left out" if self.left_out else ""
        return f"{day} {time} UTC, {self.count:,} {unit}s of {self.source}{groups}{left}"

    @property
    def _word(self) -> str:
        return "group" if self.per in (None, GIVEN) else str(self.per)

    def facts(self) -> dict[str, Any]:
        """All but the scores, ready for JSON."""
        return {
            "made": self.made,
            "source": self.source,
            "sha256": self.sha256,
            "per": self.per,
            "left_out": self.left_out,
            "groups": {
                name: {"images": group.count, "folds": group.folds}
                for name, group in self.groups.items()
            },
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The scores, under names for a file."""
        found: dict[str, NDArray[Any]] = {}
        for place, group in enumerate(self.groups.values()):
            found |= {f"{place}.scores.{name}": values for name, values in group.scores.items()}
            found[f"{place}.peaks"] = group.peaks
            if group.fold is not None:
                found[f"{place}.fold"] = group.fold
        return found

    @classmethod
    def from_saved(cls, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `facts` and `arrays` gave.

        Raises:
            LookupError, TypeError, ValueError: they do not fit together.
        """
        known = held_to(_RunFacts, facts, "calibrations")
        groups = {}
        for place, (name, of) in enumerate(known.groups.items()):
            start = f"{place}.scores."
            scores = {
                key.removeprefix(start): values
                for key, values in arrays.items()
                if key.startswith(start)
            }
            fold = arrays.get(f"{place}.fold")
            found = Calibrated(scores=scores, peaks=arrays[f"{place}.peaks"], fold=fold)
            if not all(
                a.dtype == np.float64 and a.ndim == 1 for a in (*scores.values(), found.peaks)
            ):
                raise ValueError("scores of another type")
            if fold is not None and not np.array_equal(np.unique(fold), np.arange(of.folds)):
                raise ValueError("another number of folds")
            sizes = {
                len(values) for values in (*scores.values(), *([] if fold is None else [fold]))
            }
            if sizes != {of.images} or found.folds != of.folds or len(found.peaks) > of.images:
                raise ValueError("another number of calibration scores")
            groups[name] = found
        if not groups or (known.per is None) != (list(groups) == [ONE]):
            raise ValueError("calibrations of other groups")
        datetime.fromisoformat(known.made)
        return cls(
            made=known.made,
            source=known.source,
            sha256=known.sha256,
            per=known.per,
            groups=groups,
            left_out=known.left_out,
        )


@dataclass(frozen=True)
class _GroupFacts:
    """Of a group, in `detector.json`."""

    images: Count
    folds: Count


@dataclass(frozen=True)
class _RunFacts:
    """Of a calibration, in `detector.json`."""

    made: str
    source: str
    sha256: Digest
    per: str | None
    left_out: Count
    groups: dict[str, _GroupFacts]


def _listed(names: Mapping[str, Any]) -> str:
    some = [repr(name) for name in list(names)[:5]]
    return ", ".join(some) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
