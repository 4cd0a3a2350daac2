"""Scores of images as they arrive in a folder, and an alarm when they drift."""

__all__ = ["AlarmSender", "Watch", "check_log"]

from .alarms import AlarmSender
from .watch import Watch, check_log
