"""Who may stay connected: what is slow, half or not read makes room for the others."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from approxmass import Detector
from approxmass.cli.serve import _listen
from approxmass.data.png import png_bytes
from approxmass.errors import ApproxMassError
from approxmass.report import charts
from approxmass.serve import Limits, connections, create_app
from approxmass.serve.connections import BURST, Connection, Connections, Stage
from conftest import textures

TOKEN = "correct-horse"
BEARER = f"Authorization: Bearer {TOKEN}\r\n"
HEAD = "POST /score HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(method="gaussian").fit(textures(300))


class Server:
    """The application as the command serves it, in a thread."""

    def __init__(self, detector: Detector, limits: Limits, token: str | None) -> None:
        self.table = Connections(limits)
        self.listener = _listen("127.0.0.1", 0, socket.AF_INET, ("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        config = uvicorn.Config(
            create_app(detector, token=token, limits=limits, connections=self.table),
            loop="asyncio",
            http=self.table.around(H11Protocol),
            backlog=BURST,
            log_level="error",
            lifespan="off",
            ws="none",
        )
        self.server = uvicorn.Server(config)

    def connect(self, data: bytes | str = b"") -> socket.socket:
        link = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        link.sendall(data.encode() if isinstance(data, str) else data)
        return link


@contextmanager
def served(detector: Detector, token: str | None = TOKEN, **limits: float) -> Iterator[Server]:
    made = Server(detector, Limits(**limits), token)  # type: ignore[arg-type]
    thread = threading.Thread(target=made.server.run, args=([made.listener],))
    thread.start()
    try:
        until(lambda: made.server.started)
        yield made
    finally:
        made.server.force_exit = made.server.should_exit = True
        thread.join()


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def ask(link: socket.socket, data: bytes | str = b"") -> str:
    """One whole answer to a request."""
    link.sendall(data.encode() if isinstance(data, str) else data)
    text = b""
    while b"\r\n\r\n" not in text:
        text += (piece := link.recv(65536))
        assert piece, text
    head, _, body = text.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += (piece := link.recv(65536))
        assert piece, text
    return (head + b"\r\n\r\n" + body).decode()


def answer(link: socket.socket) -> str:
    """All that comes until the connection ends."""
    text = b""
    try:
        while piece := link.recv(65536):
            text += piece
    except ConnectionResetError:
        pass
    return text.decode()


def ended(link: socket.socket) -> bool:
    link.settimeout(0.01)
    try:
        return link.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


# --- one connection


def test_a_head_that_does_not_come_costs_the_connection(detector: Detector) -> None:
    with served(detector, patience=0.4) as server:
        silent, half = server.connect(), server.connect("GET /healthz HT")
        second = server.connect()
        assert "200 OK" in ask(second, HEALTH)
        drips = server.connect("GET /healthz HTTP/1.1\r\n")
        second.sendall(HEALTH[:20])
        for i in range(100):
            if ended(drips):
                break
            drips.sendall(f"X-{i}: a\r\n".encode())  # one that goes on and on
            time.sleep(0.05)
        assert i < 40
        assert answer(silent) == answer(half) == answer(second) == ""
        # One that goes on asking is left alone.
        busy = server.connect()
        for _ in range(10):
            assert "200 OK" in ask(busy, HEALTH)
            time.sleep(0.1)


@pytest.mark.parametrize("bearer", ["", BEARER])
def test_an_answer_before_the_body_has_ended_ends_the_connection(
    bearer: str, detector: Detector
) -> None:
    """Without the token, 401; with it, 408: and no piece of the body keeps it open after that."""
    status = "408" if bearer else "401"
    with served(detector, patience=0.5, seconds=1) as server:
        links = [server.connect(HEAD + bearer + CHUNKED + "\r\n1\r\n{\r\n") for _ in range(5)]
        texts = dict.fromkeys(links, "")
        end = time.monotonic() + 10
        while links and time.monotonic() < end:
            for link in [*links]:
                link.settimeout(0.02)
                try:
                    link.sendall(b"1\r\n \r\n")
                    texts[link] += (piece := link.recv(65536)).decode()
                except TimeoutError:
                    continue
                except OSError:
                    piece = b""
                if not piece:
                    links.remove(link)
        assert not links
        for text in texts.values():
            assert f"HTTP/1.1 {status}" in text
            assert "connection: close" in text
        until(lambda: len(server.table) == 0)


def test_a_get_with_a_body_that_never_ends(detector: Detector) -> None:
    head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with served(detector, patience=0.3) as server:
        text = answer(server.connect(head))
    assert "200 OK" in text
    assert "connection: close" in text


def test_a_large_answer_is_not_kept_for_who_does_not_take_it(detector: Detector) -> None:
    with served(detector) as server:
        deaf = server.connect(b"GET /vega.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(5):  # more than the system holds for it
            deaf.sendall(b"GET /vega.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.5)
        (connection,) = server.table._open.values()
        assert connection.stage is Stage.ANSWER
        assert connection._transport.get_write_buffer_size() < 300_000
        whole = ask(server.connect(), b"GET /vega.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert whole.partition("\r\n\r\n")[2] == charts.vega_script()


def test_a_client_whose_whole_body_came_keeps_its_connection(detector: Detector) -> None:
    with served(detector) as server:
        link = server.connect()
        for bearer, status in (("", "401"), (BEARER, "415"), ("", "401"), (BEARER, "415")):
            text = ask(link, f"{HEAD}{bearer}Content-Length: 4\r\n\r\nabcd")
            assert f"HTTP/1.1 {status}" in text
        assert len(server.table) == 1


def test_a_body_has_a_least_rate_and_an_end(detector: Detector) -> None:
    """The more has come the longer it may take, but never for ever."""
    with served(detector, patience=0.3, rate=1000, seconds=3) as server:

        def took(size: int, pause: float) -> float:
            link = server.connect(f"{HEAD}{BEARER}{CHUNKED}\r\n")
            started = time.monotonic()
            while not ended(link) and time.monotonic() - started < 20:
                try:
                    link.sendall(f"{size:x}\r\n".encode() + b" " * size + b"\r\n")
                except OSError:
                    break
                time.sleep(pause)
            return time.monotonic() - started

        slow, fast = took(1, 0.01), took(1000, 0.02)
    assert 0.3 <= slow < 3 <= fast < 20


def test_a_client_that_does_not_take_its_answer(detector: Detector) -> None:
    with served(detector, seconds=0.5, patience=0.5) as server:
        link = server.connect()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(12):  # more than the system holds for it
            link.sendall(b"GET /vega.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: len(server.table) == 1)
        until(lambda: len(server.table) == 0)
        # One that takes it slowly is waited for.
        slow = server.connect(b"GET /swagger.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        taken = 0
        while taken < 1_000_000:
            taken += len(slow.recv(20_000))
            time.sleep(0.02)


# --- many


def test_others_are_served_whoever_holds_all_connections(detector: Detector) -> None:
    with served(detector, connections=20, connections_each=20) as server:
        idle = [server.connect() for _ in range(10)]
        slow = [server.connect(HEAD + CHUNKED + "\r\n1\r\n{\r\n") for _ in range(30)]
        for i in range(20):
            assert "200 OK" in ask(server.connect(), HEALTH)
            slow.append(server.connect("GET / HT"))
            assert len(server.table) <= 20, i
        until(lambda: sum(map(ended, [*idle, *slow])) >= 40)


def test_one_with_the_token_goes_after_those_without(detector: Detector) -> None:
    with served(detector, connections=8, connections_each=8) as server:
        upload = server.connect(f"{HEAD}{BEARER}{CHUNKED}\r\n")
        waits = server.connect()
        assert "415" in ask(waits, f"{HEAD}{BEARER}Content-Length: 4\r\n\r\nabcd")
        for _ in range(20):
            server.connect(HEAD + CHUNKED + "\r\n")
            time.sleep(0.005)
        assert "415" in ask(waits, f"{HEAD}{BEARER}Content-Length: 4\r\n\r\nabcd")
        image = png_bytes(textures(1))
        body = (
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
            + image
            + b"\r\n--b--\r\n"
        )
        assert "422" in ask(upload, "1\r\n{\r\n0\r\n\r\n")
        form = f"{HEAD}{BEARER}Content-Type: multipart/form-data; boundary=b\r\n"
        head = f"{form}Content-Length: {len(body)}\r\n\r\n".encode()
        assert "200 OK" in ask(upload, head + body)


class Fake(asyncio.Transport):
    """A connection from anywhere."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__({"peername": (host, port)})
        self.gone = False

    def abort(self) -> None:
        self.gone = True

    def get_write_buffer_size(self) -> int:
        return 0


def table_of(
    most: int, each: int, come: list[tuple[str, Stage, bool]]
) -> tuple[list[bool], Connections]:
    """Which of those that come, one after the other, are gone in the end."""

    async def run() -> tuple[list[bool], Connections]:
        table = Connections(Limits(connections=most, connections_each=each))
        transports = []
        for port, (host, stage, trusted) in enumerate(come):
            made = Connection(asyncio.Protocol(), table)
            transports.append(Fake(host, port))
            made.connection_made(transports[-1])
            made.trusted = trusted
            made.enter(stage)
            await asyncio.sleep(0.001)
        return [each.gone for each in transports], table

    return asyncio.run(run())


A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"


@pytest.mark.parametrize(
    ("come", "goes"),
    [
        # The oldest half request.
        ([(A, Stage.HEAD, False), (A, Stage.BODY, False), (A, Stage.HEAD, False)], 0),
        # What has the token only after what has not; of these what waits before what sends.
        ([(A, Stage.HEAD, True), (A, Stage.BODY, False), (A, Stage.HEAD, False)], 1),
        ([(A, Stage.BODY, True), (A, Stage.HEAD, True), (A, Stage.HEAD, False)], 1),
        ([(A, Stage.BODY, True), (A, Stage.BODY, True), (A, Stage.HEAD, False)], 0),
        # What is whole is answered.
        ([(A, Stage.WORK, False), (A, Stage.BODY, True), (A, Stage.HEAD, False)], 1),
        ([(A, Stage.WORK, False), (A, Stage.WORK, False), (A, Stage.HEAD, False)], 2),
        # An answer that is not taken is no better than a question that does not come.
        ([(A, Stage.ANSWER, False), (A, Stage.HEAD, False), (A, Stage.HEAD, False)], 0),
    ],
)
def test_who_goes_first(come: list[tuple[str, Stage, bool]], goes: int) -> None:
    gone, table = table_of(2, 2, come)
    assert [i for i, each in enumerate(gone) if each] == [goes]
    assert len(table) == 2


def test_the_token_keeps_no_more_than_most_of_them() -> None:
    """Else whoever has it could keep all others out."""
    sends, new = (A, Stage.BODY, True), (A, Stage.HEAD, False)
    assert table_of(4, 4, [sends, new, sends, sends, new])[0] == [False, True, False, False, False]
    assert table_of(4, 4, [sends, new, sends, sends, sends, new])[0][0]


def test_the_address_with_the_most_connections_loses_one() -> None:
    come = [(B, Stage.HEAD, False)] + [(A, Stage.HEAD, False)] * 3 + [(C, Stage.HEAD, False)]
    assert table_of(4, 4, come)[0] == [False, True, False, False, False]
    # An address has only so many, even where there is room.
    assert table_of(9, 2, come)[0] == [False, True, False, False, False]


def test_an_address_of_version_6_is_its_network() -> None:
    near = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:0:5::3%eth0"]
    assert table_of(9, 2, [(host, Stage.HEAD, False) for host in near])[0] == [True, False, False]
    far = ["2001:db8::1", "2001:db8:0:1::1", "2001:db9::1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"]
    assert not any(table_of(9, 1, [(host, Stage.HEAD, False) for host in far])[0])


def test_no_more_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def allow(limit: int) -> Connections:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
        return Connections(Limits())

    used = len(os.listdir("/dev/fd"))
    assert 50 < allow(200 + used).most < 200
    assert allow(100_000).most == 512
    assert allow(resource.RLIM_INFINITY).most == 512
    assert allow(200 + used).each <= allow(200 + used).most
    with pytest.raises(ApproxMassError, match="ulimit -n"):
        allow(used + 20)


def test_what_is_let_go_is_counted(detector: Detector) -> None:
    with served(detector, None, connections=4, connections_each=4) as server:
        held = [server.connect("GET / HT") for _ in range(10)]
        until(lambda: sum(map(ended, held)) >= 6)
        text = ask(server.connect(), "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert "approxmass_connections 4.0" in text
    assert "approxmass_connections_dropped_total 7.0" in text


def test_the_command_serves_with_few_descriptors(detector: Detector, tmp_path: Any) -> None:
    """200 of them, and 300 clients who send half a request."""
    detector.save(tmp_path / "d")
    command = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); "
    command += "from approxmass.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "serve", str(tmp_path / "d"), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "APPROXMASS_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on"), process.communicate()[1]
        port = int(line.split()[2].rpartition(":")[2])
        at = ("127.0.0.1", port)
        held = []
        for i in range(300):
            held.append(socket.create_connection(at, timeout=20))
            held[-1].sendall((HEAD + CHUNKED + "\r\n").encode())
            if i % 10 == 0:
                with socket.create_connection(at, timeout=20) as link:
                    assert "200 OK" in ask(link, HEALTH)
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 200
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "stopped\n"
    finally:
        process.kill()


def test_this_module_needs_nothing_private_of_the_server() -> None:
    """What is used of uvicorn: how it makes a protocol, and asyncio's own methods of one."""
    made = Connections(Limits()).around(H11Protocol)
    config = uvicorn.Config(lambda: None, http=made, log_config=None)  # type: ignore[arg-type]
    config.load()
    assert config.http_protocol_class is made
    assert not [name for name in vars(connections) if name.startswith("H11")]
