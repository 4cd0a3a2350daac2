"""Of the attacks on `watch`: every alarm is told at least once, whatever its receiver does."""

__all__ = ["alarms_told"]

import contextlib
import io
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from approxmass import Detector
from approxmass.watch import AlarmSender, Watch, alarms

if TYPE_CHECKING:
    from watcher import Place

EVERY = 100


@contextlib.contextmanager
def receiver(chance: random.Random) -> Iterator[tuple[str, list[str], list[str]]]:
    """A server that takes an alarm, refuses it, closes, waits, or takes it and says nothing.

    Yields its address, the alarms that it has taken, and its manner: empty where it is kind.
    """
    taken: list[str] = []
    manner = ["unkind"]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            alarm = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            what = (
                chance.choice(["take", "refuse", "close", "wait", "silent"]) if manner else "take"
            )
            if what in ("take", "silent"):
                taken.append(alarm["id"])
            if what == "wait":
                time.sleep(0.3)
            if what in ("take", "refuse"):
                self.send_response(204 if what == "take" else 503)
                self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # the other side was killed
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", taken, manner
    finally:
        server.shutdown()
        server.server_close()


def alarms_told(place: "Place", detector: Detector) -> None:
    """Images that raise alarms, while the run is killed and the receiver fails."""
    alarms._POST, alarms._FIRST_WAIT, alarms._LAST = 0.2, 0.02, 5.0
    with receiver(place.chance) as (address, taken, manner):
        for step in range(3):
            for i in range(10):
                file = io.BytesIO()
                image = place.noise.integers(150, 256, (8, 8), np.uint8)
                Image.fromarray(image).save(file, "png")
                (place.camera / f"{step}-{i}.png").write_bytes(file.getvalue())
                place.written.append(file.getvalue())
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    followed(place, detector, address, None)
                os._exit(1)
            time.sleep(place.chance.uniform(0.05, 0.6))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        manner.clear()
        run = followed(place, detector, address, 0)
        wanted = [alarm.id for alarm in run.totals.alarms]
        if len(wanted) < 3 or run.unsent or list(dict.fromkeys(taken)) != wanted:
            place.wrong.append(f"{len(set(taken))} alarms told of {len(wanted)}")


def followed(place: "Place", detector: Detector, address: str, idle: float | None) -> Watch:
    with Watch(detector, place.camera, place.log, EVERY, AlarmSender(address, {})) as run:
        for _ in run.batches(interval=0.02, until_idle=idle):
            pass
    return run
