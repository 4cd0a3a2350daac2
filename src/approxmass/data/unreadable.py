"""Why an image cannot be used."""

__all__ = ["DAMAGED", "UnreadableError"]

from ..errors import Code

DAMAGED = "cannot be decoded (truncated, corrupt, or of an unknown kind): replace or remove it"


class UnreadableError(Exception):
    """Why an image cannot be used, worded to follow its name.

    Attributes:
        index: Its place in a block.
        code: The kind of mistake, as in `ApproxMassError`.
    """

    def __init__(self, reason: str, *, index: int = 0, code: Code = "bad-image") -> None:
        super().__init__(reason)
        self.index = index
        self.code = code
