"""What a log comes to: how many images, and its alarms."""

__all__ = ["Alarm", "Totals"]

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Alarm:
    """A drift alarm.

    Attributes:
        image: The image that raised it, as a path from the folder.
        images: How many images were scored since the last alarm or the start, with this one.
        direction: What most of the evidence is for: images that are more `out-of-distribution`
            than the usual, or `blander`.
        drift: The evidence; 1 or more.
        time: When the image was scored, UTC, as `2026-01-31T23:59:59Z`.
        id: The check of its row in the log, which no other alarm has.
    """

    image: str
    images: int
    direction: str
    drift: float
    time: str
    id: str


@dataclass
class Totals:
    """What is in a log, the rows of earlier runs included.

    Attributes:
        scored: Images that could be read.
        unreadable: Images that could not, and have not been scored since.
        outliers: Images with a p-value of at most 5%.
        drift: The evidence of a drift after the last image; 1 raises an alarm.
        alarms: All drift alarms.
    """

    scored: int = 0
    unreadable: int = 0
    outliers: int = 0
    drift: float = 0.0
    alarms: list[Alarm] = field(default_factory=list)
    _since: int = 0  # images since the last alarm

    def take(self, rows: Any) -> list[Alarm]:
        """Take in rows of a log, all of them readable images; returns the alarms in them."""
        alarms = []
        raised = rows["alarm"].to_numpy().astype(bool).nonzero()[0].tolist()
        done = 0
        for place in raised:
            row = rows.slice(place, 1).to_pylist()[0]
            count = self._since + place + 1 - done
            alarms.append(
                Alarm(
                    image=row["name"],
                    images=count,
                    direction=row["direction"],
                    drift=row["drift"],
                    time=row["time"],
                    id=row["check"],
                )
            )
            self._since, done = 0, place + 1
        self._since += len(rows) - done
        self.scored += len(rows)
        self.outliers += int(rows["is_outlier"].to_numpy().astype(bool).sum())
        if len(rows):
            self.drift = rows["drift"][-1].as_py()
        self.alarms += alarms
        return alarms
