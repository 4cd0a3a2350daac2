"""The command `serve`."""

__all__ = ["serve"]

import contextlib
import logging
import socket
from ipaddress import ip_address
from typing import Annotated

import typer

from ..errors import ApproxMassError
from ..runtime.extras import require_extra
from .console import out, say
from .options import Device, Folder, For, Threads, loaded

# Seconds that Ctrl-C leaves to the requests under way.
_GRACE = 30


def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="APPROXMASS_TOKEN",
            help="What clients must send; needed to listen beyond this machine.",
        ),
    ] = None,
    group: For = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Answer over HTTP, with a page to drop images on: /score, /explain, /drift, /metrics."""
    token = token or None
    family, address = _address(host, port)
    _check_token(token, host, address[0])
    require_extra("serve", "the server")
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from ..serve import Limits, create_app
    from ..serve.connections import BURST, Connections

    listener = _listen(host, port, family, address)
    detector = loaded(folder, group, device, threads)
    # What is wrong with a request, the answer says; anyone could fill the terminal with it.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    limits = Limits()
    connections = Connections(limits)
    config = uvicorn.Config(
        create_app(detector, token=token, limits=limits, connections=connections),
        loop="asyncio",
        http=connections.around(H11Protocol),
        backlog=BURST,
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )
    name, number = listener.getsockname()[:2]
    name = f"[{name}]" if family == socket.AF_INET6 else name
    out.print(f"listening on http://{name}:{number} (Ctrl-C stops)", soft_wrap=True, markup=False)
    # uvicorn passes Ctrl-C on once it has stopped, but not where it was started to ignore it.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
    say("stopped")


def _check_token(token: str | None, host: str, number: str) -> None:
    """Refuse a token that no header can carry, and none at all where others reach the host."""
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ApproxMassError(
            "the token may hold only ASCII letters, digits and signs, no spaces", code="bad-option"
        )
    if token is None and not ip_address(number.partition("%")[0]).is_loopback:
        raise ApproxMassError(
            f"{host} can be reached from other machines: give --token, or set APPROXMASS_TOKEN",
            code="address",
        )


def _listen(
    host: str, port: int, family: socket.AddressFamily, address: tuple[str, int]
) -> socket.socket:
    """A socket that listens there.

    Raises:
        ApproxMassError: it cannot.
    """
    from ..serve.connections import Listener

    # With the protocol named, asyncio sends small answers at once; else they wait for each other.
    listener = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ApproxMassError(
            f"cannot listen on {host} port {port}: {reason}: choose another --port or --host",
            code="address",
        ) from None
    return listener


def _address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Where to listen, IPv4 first: the numbers of a host, which may be a name.

    Raises:
        ApproxMassError: There is no such host.
    """
    try:
        if not host:
            raise OSError("it is empty")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ApproxMassError(
            f"--host {host}: {reason}: give an address of this machine, such as 127.0.0.1",
            code="address",
        ) from None
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, (str(address[0]), int(address[1]))
