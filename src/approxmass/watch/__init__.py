"""Scores of images as they arrive in a folder, and an alarm when they drift."""

__all__ = ["Watch", "check_log"]

from .watch import Watch, check_log
