"""What a fit is of."""

__all__ = ["FitInput"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .arrays import Bools
from .data import ImageSource
from .data.groups import open_groups
from .data.labels import open_labels
from .data.part import part_of
from .data.skipping import SKIP_LIMIT, Skips
from .settings import Settings


@dataclass(frozen=True, kw_only=True, eq=False)
class FitInput:
    """What a fit is of.

    Attributes:
        source: Images in the size that they have.
        labels: As of `Detector.fit`.
        outliers: As of `Detector.fit`.
        groups: As of `Detector.fit`.
        settings: As asked.
        options: Of the model.
        trimmed: Names of images that are no longer in the source, the most outlying ones.
        skip_limit: As of `Detector.fit`.
        skipped: Name and reason of images that are no longer in the source, the unreadable ones.
    """

    source: ImageSource
    labels: Any
    outliers: Any
    groups: Any
    settings: Settings
    options: Mapping[str, Any]
    trimmed: tuple[str, ...] = ()
    skip_limit: float = SKIP_LIMIT
    skipped: tuple[tuple[str, str], ...] = ()

    def only(self, keep: Bools, **more: Any) -> "FitInput":
        """The images that are marked, `(N,)`, with what goes with them."""
        source, labels = self.source, self.labels
        given = None if labels is None else open_labels(labels)
        groups = None if self.groups is None else open_groups(self.groups, source)
        return replace(
            self,
            # The mode is told by these alone.
            source=part_of(source, keep, source.name).seen(mode=source.mode),
            labels=None if given is None else given[keep],
            groups=None if groups is None else groups[keep],
            **more,
        )

    def skips(self) -> Skips:
        """For a pass over the images."""
        total = len(self.source) + len(self.skipped) + len(self.trimmed)
        return Skips(self.source, self.skip_limit, self.skipped, total)
