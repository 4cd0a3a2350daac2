"""Connections on which nothing comes."""

__all__ = ["impatient"]

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient(seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP, but a request whose head does not come in time costs the connection.

    uvicorn itself waits for ever, and there are only so many connections.
    """

    class Impatient(H11Protocol):
        last: Any = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.watch = self.loop.call_later(seconds, self.look)

        def connection_lost(self, exc: Exception | None) -> None:
            self.watch.cancel()
            super().connection_lost(exc)

        def look(self) -> None:
            if self.conn.their_state is h11.IDLE and self.cycle is self.last:
                self.transport.close()
                return
            self.last = self.cycle
            self.watch = self.loop.call_later(seconds, self.look)

    return Impatient
