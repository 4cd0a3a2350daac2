"""Connections on which nothing comes."""

__all__ = ["impatient"]

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.server import ServerState

from ..errors import ApproxMassError

# What is used of uvicorn's protocol below is not documented: a later one may lack it.
_MEMBERS = ("loop", "transport", "conn", "cycle")
_TESTED = "uvicorn 0.34 to 0.54 and h11 0.14 to 0.16"


def impatient(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP, but a request whose head does not come in time costs the connection.

    uvicorn itself waits for ever, and there are only so many connections.

    Raises:
        ApproxMassError: this uvicorn or h11 is not one on which that works.
    """
    try:
        from uvicorn.protocols.http.h11_impl import H11Protocol

        idle = h11.IDLE
        lacking = _lacking(H11Protocol)
    except (ImportError, AttributeError, TypeError) as error:
        raise _untested(str(error)) from error
    if lacking:
        raise _untested(f"its connections have no {lacking[0]}")

    class Impatient(H11Protocol):
        _cycle_before: Any = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._timer = self.loop.call_later(seconds, self._close_if_idle)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(exc)

        def _close_if_idle(self) -> None:
            if self.conn.their_state is idle and self.cycle is self._cycle_before:
                self.transport.close()
                return
            self._cycle_before = self.cycle
            self._timer = self.loop.call_later(seconds, self._close_if_idle)

    return Impatient


def _lacking(protocol: type[asyncio.Protocol]) -> list[str]:
    """Which members a new connection of uvicorn does not have."""

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    config = Config(nothing, http="h11", ws="none", lifespan="off", log_config=None)
    make: Any = protocol
    loop = asyncio.new_event_loop()
    try:
        made = make(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    finally:
        loop.close()
    lacking = [name for name in _MEMBERS if not hasattr(made, name)]
    if not lacking and not hasattr(made.conn, "their_state"):
        lacking.append("conn.their_state")
    return lacking


def _untested(reason: str) -> ApproxMassError:
    return ApproxMassError(
        f"the server cannot close idle connections with this uvicorn and h11 ({reason}): "
        f"install {_TESTED}",
        code="missing-library",
    )
