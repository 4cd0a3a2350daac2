"""Tells alarms to a web address or a command, each at least once."""

__all__ = ["AlarmSender"]

import base64
import contextlib
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from ..errors import ApproxMassError
from ..storage.atomic import write_json
from .totals import Alarm

# Seconds that a web address, and a command, may take for one alarm.
_POST, _COMMAND = 10.0, 60.0
# Seconds to the next try of one that failed; twice as many after each.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
# Seconds for what is left at the end of a run.
_LAST = 15.0


class AlarmSender:
    """Tells alarms to a web address or a command, one after the other, beside the scoring.

    An alarm is in the log before it is sent. Which was sent last is in a file beside the log,
    written after the receiver has taken it: one that was not is sent again, by this run or the
    next, and twice at the worst. Each has an `id` by which a receiver knows it again.

    A web address gets a POST of JSON and is to answer with a status of 200 to 299 within 10
    seconds; it is not followed elsewhere. A command is split as a shell would, is run without one,
    gets the JSON on its standard input, and is to end with 0 within a minute. One that fails is
    tried again after 1, 2, 4, ... 60 seconds.

    Arguments:
        target: `http://...`, `https://...`, or a command with its arguments.
        facts: What is sent of each alarm besides its attributes, such as the detector's name.
        say: Is told, in a line, when an alarm could not be sent for the first time.

    Raises:
        ApproxMassError: no address and no command there is.

    Example:
        >>> AlarmSender("no-such-command --at-all", {})
        Traceback (most recent call last):
        approxmass.errors.ApproxMassError: there is no command no-such-command: correct it, ...
    """

    def __init__(
        self,
        target: str,
        facts: Mapping[str, str],
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._facts, self._say = dict(facts), say
        self._send = _sender(target)
        self._turn = threading.Condition()
        self._left: list[Alarm] = []
        self._sent, self._ending = 0, False
        self._file: Path
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, file: Path, alarms: Sequence[Alarm]) -> None:
        """Begin with the alarms of a log that have not been sent.

        Where nothing was ever sent for this log, that is none: nobody asked for its alarms.

        Arguments:
            file: Where it is kept which alarm was sent last.
            alarms: All of the log.

        Raises:
            ApproxMassError: the file is not what it should be, or cannot be written.
        """
        self._file, self._sent = file, len(alarms)
        if file.exists():
            last = _last_sent(file)
            places = [place for place, alarm in enumerate(alarms) if alarm.id == last]
            self._sent = places[-1] + 1 if places else 0
            self._left = list(alarms[self._sent :])
        else:
            self._keep(alarms[-1].id if alarms else "")
        self._thread.start()

    def add(self, alarms: Sequence[Alarm]) -> None:
        """Send these too, once they are in the log."""
        with self._turn:
            self._left += alarms
            self._turn.notify()

    def close(self) -> int:
        """Try for a last time, for 15 seconds at most; returns how many alarms are not sent."""
        with self._turn:
            self._ending = True
            self._turn.notify()
        if self._thread.is_alive():
            self._thread.join(_LAST)
        return len(self._left)

    def _keep(self, last: str) -> None:
        write_json(self._file, {"alarms_sent": self._sent, "last": last})

    def _run(self) -> None:
        wait = _FIRST_WAIT
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._left or self._ending)
                if not self._left:
                    return
                alarm, last_try = self._left[0], self._ending
            trouble = self._tried(alarm)
            if trouble is None:
                wait = _FIRST_WAIT
                continue
            if wait == _FIRST_WAIT:
                self._say(f"the alarm at {alarm.image} was not sent, {trouble}: it is tried again")
            if last_try:
                return
            with self._turn:
                self._turn.wait_for(lambda: self._ending, wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _tried(self, alarm: Alarm) -> str | None:
        """Send an alarm and keep that it was; returns what went wrong."""
        trouble = self._send(json.dumps(self._facts | asdict(alarm)).encode() + b"\n")
        if trouble is not None:
            return trouble
        with self._turn:
            self._left.pop(0)
            self._sent += 1
        try:
            self._keep(alarm.id)
        except ApproxMassError as error:  # the next run sends it again
            self._say(str(error))
        return None


def _last_sent(file: Path) -> str:
    try:
        return str(json.loads(file.read_text())["last"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ApproxMassError(
            f"{file}, which tells the alarms that were sent, cannot be read: remove it, and those "
            "from now on are sent",
            code="damaged",
        ) from None


def _sender(target: str) -> Callable[[bytes], str | None]:
    """Sends one alarm, and returns what went wrong."""
    if target.lower().startswith(("http://", "https://")):
        try:
            parts = urlsplit(target)
            known = parts.hostname is not None and parts.port != 0
        except ValueError:
            known = False
        if not known:
            raise ApproxMassError(
                f"{target} is no web address: give one such as https://host/path",
                code="bad-option",
            )
        return lambda data: _post(parts, data)
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise ApproxMassError(
            f"{target} is no command: {str(error).lower()}", code="bad-option"
        ) from None
    if not words or shutil.which(words[0]) is None:
        called = words[0] if words else "without a name"
        raise ApproxMassError(
            f"there is no command {called}: correct it, or give an address http://... or "
            "https://...",
            code="bad-option",
        )
    return lambda data: _run_command(words, data)


def _post(parts: SplitResult, data: bytes) -> str | None:
    made = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = made(str(parts.hostname), parts.port, timeout=_POST)
    headers = {"Content-Type": "application/json", "User-Agent": "approxmass"}
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()

    def cut() -> None:  # the limit of a connection is for each step of it
        with contextlib.suppress(OSError, AttributeError):
            connection.sock.shutdown(socket.SHUT_RDWR)

    watchdog = threading.Timer(_POST, cut)
    watchdog.daemon = True
    watchdog.start()
    path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    try:
        connection.request("POST", path, data, headers)
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        return f"{parts.hostname} does not answer ({reason})"
    finally:
        watchdog.cancel()
        connection.close()
    return None if 200 <= status < 300 else f"{parts.hostname} answers {status}"


def _run_command(words: list[str], data: bytes) -> str | None:
    try:
        # Its output is not that of this command, whose own may be read by a program.
        running = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        return f"{words[0]} cannot be run ({(error.strerror or str(error)).lower()})"
    try:
        running.communicate(data, timeout=_COMMAND)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(running.pid, signal.SIGKILL)  # and what it has started
        running.wait()
        return f"{words[0]} took more than {_COMMAND:g} seconds"
    status = running.returncode
    return None if status == 0 else f"{words[0]} ended with {status}"
