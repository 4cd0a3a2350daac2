"""What a person can get wrong: one exception, and a stable word for each kind of mistake."""

__all__ = ["ApproxMassError", "Code"]

from typing import Literal

# Programs and tests go by these words; the messages are for people and may change.
Code = Literal[
    "bad-option",  # an option out of range, or not one of those there are
    "unknown-option",  # an option that this method does not have
    "bad-source",  # nothing there, not a source of images, or none in it
    "bad-image",  # an image that cannot be used, or pixels out of range
    "wrong-shape",  # images of another size, colour or shape than is needed
    "bad-labels",  # labels missing, not one an image, or not classes
    "bad-outliers",  # outliers missing, not asked for, or of another kind
    "bad-masks",  # masks missing, unreadable, or of another size than their images
    "bad-group",  # images of a group that nothing was calibrated for, or of none
    "too-few",  # too few images for what is asked
    "no-variation",  # all images the same
    "not-fitted",  # nothing has been learnt yet
    "not-a-detector",  # a folder that holds no detector
    "damaged",  # cut short, altered, or of another version
    "other-scores",  # a saved detector that scores otherwise here than where it was fitted
    "other-run",  # a checkpoint, log or table of another run
    "wrong-encoder",  # loaded with a module where there was none, or the reverse
    "no-explanation",  # the method has no density to explain
    "no-export",  # a detector that no graph can hold
    "bad-scores",  # scores that are none, NaN, or not one an image
    "rate",  # a false-alarm rate that the calibration cannot resolve
    "diverged",  # the training or the scores became NaN or grew without bound
    "no-density",  # a function that is no log-density
    "cannot-write",  # no place, no space, or no right to write
    "would-overwrite",  # the place is needed for something else, or taken
    "in-use",  # another process is at work there
    "missing-library",  # an extra that is not installed
    "no-device",  # a device that this machine does not have
    "no-memory",  # more memory needed than there is
    "address",  # where a server cannot listen, or may not
    "unknown-row",  # a row or protocol that an experiment does not have
]


class ApproxMassError(ValueError):
    """A mistake in what was given: the message names the thing and the cure, in one line.

    The command prints it without a traceback and leaves with exit code 2. Library users
    catch it (or its base, `ValueError`) and look at `code`.

    Arguments:
        message: For people.
        code: The kind of mistake, a word that stays.

    Example:
        >>> ApproxMassError("seed must be at least 0, not -1", code="bad-option").code
        'bad-option'
    """

    def __init__(self, message: str, *, code: Code) -> None:
        super().__init__(message)
        self.code = code
