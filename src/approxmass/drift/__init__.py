"""Has a stream of scores drifted? A sequential test: false alarms and power are stated."""

__all__ = ["DriftMonitor", "DriftSteps"]

from .monitor import DriftMonitor, DriftSteps
