"""Has a stream of scores drifted? A sequential test: false alarms and power are stated."""

__all__ = ["DriftMonitor", "DriftPower", "DriftSteps", "drift_power", "power_in_words"]

from .monitor import DriftMonitor, DriftSteps
from .power import DriftPower, drift_power, power_in_words
