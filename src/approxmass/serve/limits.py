"""What is too much for the server, and how it says so."""

__all__ = ["Limits", "RequestRefused"]

from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may ask for.

    Attributes:
        body_bytes: Of one body.
        held_bytes: Of the bodies held at once.
        images: In one request, or rows of numbers.
        pixels: Of one image.
        request_pixels: Of the images of one request together.
        seconds: To receive a body, and for the client to take the answer.
        patience: Seconds to receive a head, and to receive a body whatever its rate.
        rate: Bytes of a body a second, at least, after that.
        waiting: Images received and not yet answered.
        batch: Images scored together; a request is never split.
        connections: Open at once, or as many as the system gives descriptors for.
        connections_each: Of these from one address.
    """

    body_bytes: int = 32 * 2**20
    held_bytes: int = 256 * 2**20
    images: int = 256
    pixels: int = 40_000_000
    request_pixels: int = 160_000_000
    seconds: float = 30.0
    patience: float = 10.0
    rate: int = 1000
    waiting: int = 1024
    batch: int = 256
    connections: int = 512
    connections_each: int = 256

    def until(self, received: int) -> float:
        """Seconds from the start of a body of which so many bytes are here, until more must come.

        Example:
            >>> limits = Limits(seconds=30, patience=10, rate=1000)
            >>> limits.until(0), limits.until(5000), limits.until(10**6)
            (10.0, 15.0, 30.0)
        """
        return float(min(self.seconds, self.patience + received / self.rate))


class RequestRefused(HTTPException):
    """A request that is refused: its status and one plain reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        busy = status == HTTPStatus.TOO_MANY_REQUESTS
        super().__init__(status, reason, {"Retry-After": "1"} if busy else None)
