"""The one exception that a person can cause."""

__all__ = ["ApproxMassError"]


class ApproxMassError(ValueError):
    """A mistake in what was given: the message names the thing and the cure, in one line.

    The command prints it without a traceback and leaves with exit code 2. Library users
    catch it (or its base, `ValueError`).
    """
