"""Where tasks in pods tell what they do: an HTTP server of the test's own process, outside of everything that may fail.

A line is on the disk (fsync) before its answer goes out, so that an effect that a task saw acknowledged is never lost
from the count. A line whose tag the test holds is written at once and answered only when the test lets it go: so a
test knows that a task is in the middle of its work, and needs no clock for it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Effect(NamedTuple):
    """One line: what was told (such as ``begins``), of which piece of work, by which pod, when (``time.monotonic``)."""

    what: str
    tag: str
    by: str
    at: float


class Sink:
    """Receives effects at ``url``, which pods reach; `tests.e2e.workload` tells them.

    Args:
        path: the file that the lines are written to.
        host: an address of this machine that pods can connect to.
    """

    def __init__(self, path: Path, host: str) -> None:
        self._file = path.open("ab")
        self._changed = threading.Condition()
        self._effects: list[Effect] = []
        self._held: dict[str, threading.Event] = {}
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                sink._receive(told["what"], told["tag"], told["by"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """The file says it all."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """A teller that was killed is what these tests are about."""

        self._server = Server((host, 0), Handler)
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="sink", daemon=True)
        self._thread.start()

    def _receive(self, what: str, tag: str, by: str) -> None:
        with self._changed:
            self._file.write(json.dumps([what, tag, by]).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._effects.append(Effect(what, tag, by, time.monotonic()))
            held = self._held.get(tag)
            self._changed.notify_all()
        if held is not None:
            held.wait()

    # ------------------------------------------------------------------ holding

    def hold(self, *tags: str) -> None:
        """From now on, lines of these tags are answered only after ``release``."""
        with self._changed:
            for tag in tags:
                self._held[tag] = threading.Event()

    def release(self, *tags: str) -> None:
        """Answer what is held of these tags (without any: of all), and hold them no more."""
        with self._changed:
            for tag in tags or tuple(self._held):
                self._held.pop(tag).set()

    # ------------------------------------------------------------------ reading

    @property
    def effects(self) -> list[Effect]:
        """Everything that was told so far, in order."""
        with self._changed:
            return list(self._effects)

    def of(self, tag: str) -> list[Effect]:
        return [effect for effect in self.effects if effect.tag == tag]

    def count(self, what: str) -> Counter[str]:
        """How often ``what`` was told, by tag."""
        return Counter(effect.tag for effect in self.effects if effect.what == what)

    def wait(self, what: str, tag: str, timeout: float = 60.0, *, times: int = 1) -> Effect:
        """The ``times``-th line that tells ``what`` of ``tag``; fails after ``timeout`` seconds without it."""

        def told() -> list[Effect]:
            return [effect for effect in self._effects if (effect.what, effect.tag) == (what, tag)]

        self.wait_for(lambda _: len(told()) >= times, timeout, f"{what} of {tag}")
        with self._changed:
            return told()[times - 1]

    def wait_for(self, holds: Callable[[list[Effect]], bool], timeout: float, what: str) -> None:
        """Block until ``holds(effects)``; fails after ``timeout`` seconds, with the last lines."""
        with self._changed:
            came = self._changed.wait_for(lambda: holds(self._effects), timeout)
            assert came, f"no {what} within {timeout:g} s; the last of {len(self._effects)}: {self._effects[-10:]}"

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        self._file.close()
