"""Which connections may stay open: how many, and for how long while nothing whole comes of them."""

__all__ = ["Connection", "Connections", "Listener", "Stage"]

import asyncio
import ipaddress
import os
import resource
import socket
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, cast

from starlette.types import Scope

from ..errors import ApproxMassError
from .limits import Limits

# Connections accepted in one turn of the event loop. It takes a few turns until one that is let go
# gives its descriptor back, and some are needed for files.
BURST = 8
_SPARE = 6 * BURST + 16
_FEWEST = 16
# Of all connections, those that the token may keep open while their request is not whole.
_MOST_TRUSTED = 0.75
# Connections that the system holds until they are accepted.
_QUEUE = 1024


class Stage(Enum):
    """How far the request of a connection has come."""

    HEAD = auto()  # nothing whole of it yet, or the one before is answered
    BODY = auto()
    WORK = auto()  # it is here, whole, and the answer is ours to make
    ANSWER = auto()  # on its way to the client, who may be slow to take it


class Connection(asyncio.Protocol):
    """One connection: the server's own protocol, and how far its request has come.

    Arguments:
        inner: What speaks HTTP on it.
        table: Of all connections.

    Attributes:
        peer: Host and port of the client, as an ASGI scope has them.
        origin: What counts as one client's address.
        stage: Of its request.
        since: When this stage began, in seconds of the event loop.
        trusted: Its last request had the token.
    """

    def __init__(self, inner: asyncio.Protocol, table: "Connections") -> None:
        self.peer: tuple[str, int] = ("", 0)
        self.origin = ""
        self.stage, self.since, self.trusted = Stage.HEAD, 0.0, False
        self._untaken = 0
        self._inner, self._table = inner, table
        # What comes most often goes straight on.
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, for which another connection may have to go."""
        self._transport = cast(asyncio.Transport, transport)
        host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
        self.peer, self.origin = (str(host), int(port)), _origin(str(host))
        self.enter(Stage.HEAD)
        self._inner.connection_made(transport)
        self._table.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._table.remove(self)
        self._inner.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Nothing more will come."""
        return self._inner.eof_received()

    def enter(self, stage: Stage) -> None:
        """Its request has come to a stage."""
        self.stage, self.since = stage, asyncio.get_running_loop().time()

    def takes(self) -> bool:
        """Whether the client has taken some of its answer since this was last asked."""
        before, self._untaken = self._untaken, self._transport.get_write_buffer_size()
        return self._untaken < before

    def close(self) -> None:
        """End it at once."""
        self._transport.abort()


class Connections:
    """The open connections of a server, of which some are let go when there are too many.

    First goes what has no token and is not whole yet, then what waits for its next request, then
    what has the token and is not whole; of these one of the address with the most connections, the
    oldest. Where the last make out most of all, the token counts for nothing. A request that is
    whole is answered, whatever comes. So nobody who sends half a request keeps another out, not
    even one behind the same address.

    Arguments:
        limits: How many, and how long.

    Attributes:
        most: Connections at once: those of the limits, or fewer where the system gives fewer
            descriptors.
        on_drop: Called when one is let go, because there are too many or it is too slow.

    Raises:
        ApproxMassError: The system gives next to none.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.most = min(limits.connections, _room())
        self.each = min(limits.connections_each, self.most)
        self.on_drop: Callable[[], None] = lambda: None
        self._open: dict[tuple[str, int], Connection] = {}
        self._of: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def around(self, protocol: Callable[..., asyncio.Protocol]) -> type[asyncio.Protocol]:
        """A server's protocol whose connections are counted here, to be put in its place."""
        return cast(type, lambda **given: Connection(protocol(**given), self))

    def of(self, scope: Scope) -> Connection | None:
        """The connection of an ASGI request; None where another server accepted it."""
        client: Any = scope.get("client")
        return None if client is None else self._open.get(tuple(client))

    def add(self, new: Connection) -> None:
        """Count one more; where that is too many, another goes, or this one if none may."""
        self._open[new.peer] = new
        self._of[new.origin] += 1
        if self._timer is None:
            self._sweep()
        if self._of[new.origin] > self.each:
            crowd = [each for each in self._open.values() if each.origin == new.origin]
        elif len(self._open) > self.most:
            crowd = [*self._open.values()]
        else:
            return
        droppable = [each for each in crowd if each is not new and each.stage is not Stage.WORK]
        sending = sum(each.trusted and each.stage is not Stage.HEAD for each in droppable)
        counts = sending <= _MOST_TRUSTED * len(crowd)

        def worth(connection: Connection) -> tuple[int, int, float]:
            rank = 0
            if counts and connection.trusted:
                rank = 1 if connection.stage is Stage.HEAD else 2
            return rank, -self._of[connection.origin], connection.since

        self._drop(min(droppable, key=worth, default=new))

    def remove(self, connection: Connection) -> None:
        """Count one less, if it still counts."""
        if self._open.get(connection.peer) is connection:
            del self._open[connection.peer]
            self._of[connection.origin] -= 1
            if not self._of[connection.origin]:
                del self._of[connection.origin]

    def _drop(self, connection: Connection) -> None:
        self.on_drop()
        self.remove(connection)
        connection.close()

    def _sweep(self) -> None:
        """End, now and then, those of which nothing whole came for too long."""
        loop, limits = asyncio.get_running_loop(), self.limits
        # A body has its own deadline, which the client is told of; here it is only a little later.
        patience = {
            Stage.HEAD: limits.patience,
            Stage.BODY: limits.seconds + limits.patience,
            Stage.ANSWER: limits.seconds,
        }
        now = loop.time()
        for each in [*self._open.values()]:
            if each.takes():
                each.since = now
            elif each.stage in patience and now - each.since > patience[each.stage]:
                self._drop(each)
        again = min(1, limits.patience / 4)
        self._timer = loop.call_later(again, self._sweep) if self._open else None


class Listener(socket.socket):
    """A socket that accepts a few connections a turn, while many may wait their turn.

    asyncio has one number for both.
    """

    def listen(self, backlog: int = 0, /) -> None:
        """Listen, whatever number is given."""
        super().listen(_QUEUE)


def _origin(host: str) -> str:
    """What one client may have many of: an IPv4 address, or the 64 bits of an IPv6 network."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def _room() -> int:
    """How many connections the descriptors of this process are enough for."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return 2**31
    room = limit - len(os.listdir("/dev/fd")) - _SPARE
    if room < _FEWEST:
        raise ApproxMassError(
            f"the server may open {limit} files and connections, which is too few: allow more, "
            "ulimit -n 1024",
            code="address",
        )
    return room
