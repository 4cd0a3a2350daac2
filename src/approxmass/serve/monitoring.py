"""What Prometheus is told of the server."""

__all__ = ["Metrics"]

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .batching import Row
from .connections import Connections


class Metrics:
    """What Prometheus is told, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names: dict[str, Any] = {"namespace": "approxmass", "registry": self.registry}
        self.requests = Counter("requests", "Requests.", ["route", "status"], **names)
        self.seconds = Histogram("request_seconds", "Time to an answer.", ["route"], **names)
        self.images = Counter("images_scored", "Images scored.", **names)
        self.outliers = Counter("outliers", "Images called outliers.", **names)
        sizes = [2.0**k for k in range(11)]
        self.batch = Histogram("batch_images", "Images scored together.", buckets=sizes, **names)
        self.waiting = Gauge("images_waiting", "Images received, not yet answered.", **names)
        self.open = Gauge("connections", "Connections open.", **names)
        self.dropped = Counter("connections_dropped", "Let go: too many or too slow.", **names)

    def count_batch(self, rows: Sequence[Row]) -> None:
        """Count the images of a batch that has been scored."""
        self.batch.observe(len(rows))
        self.images.inc(len(rows))
        self.outliers.inc(sum(row.is_outlier for row in rows))

    def follow(self, connections: Connections) -> None:
        """Tell of these connections."""
        self.open.set_function(lambda: len(connections))
        connections.on_drop = self.dropped.inc
