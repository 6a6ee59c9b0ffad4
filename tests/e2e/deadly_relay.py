"""A relay between an operator process and the API server that kills the process at a chosen write about a chosen run.

Either before the request has gone on, so that the server never hears of it, or after the server has answered and
before the operator hears that. Plain HTTP towards the operator, whose own token is passed on.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from kubernetes import config

_READS = ("GET", "HEAD")
_OURS = ("flowruns", "jobs", "pods", "events")
"""What is written on a run's way. Pools, Deployments and the Lease are written as well, but not for this run alone."""
_HOP = frozenset({"connection", "transfer-encoding", "content-length", "host", "keep-alive"})


@dataclass
class Blow:
    """What is to happen: the operator ends at the first write about ``run`` that is not among ``spared``.

    Writes are called by what they do and how often it was done for this run, such as ``PATCH flowruns 2``.
    ``after``: only once the server has executed the write. ``kill`` returns when the process is dead.
    ``hold``: nothing is cut off; the answer to an executed write is withheld until this is set.
    """

    run: str
    spared: frozenset[str]
    after: bool
    kill: Callable[[], None]
    hold: threading.Event | None = None
    seen: Counter[str] = field(default_factory=Counter)
    struck: str = ""
    """The write at which it happened."""


class DeadlyRelay:
    """Listens at ``url``; everything passes until ``arm``, and nothing of a process that was killed."""

    def __init__(self, kubeconfig: Path, changed: Callable[[], object]) -> None:
        with config.new_client_from_config(str(kubeconfig)) as api:
            configuration = api.configuration
            upstream = urlsplit(configuration.host)
            tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        self._changed = changed
        self._lock = threading.Lock()
        self._blow: Blow | None = None
        self._sockets: set[socket.socket] = set()
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 600

            def setup(self) -> None:
                super().setup()
                self.upstream = http.client.HTTPSConnection(upstream.hostname or "", upstream.port, context=tls)
                self.upstream.connect()
                relay._sockets |= {self.connection, self.upstream.sock}

            def finish(self) -> None:
                relay._sockets -= {self.connection, self.upstream.sock}
                self.upstream.close()
                super().finish()

            def _relay(self) -> None:
                relay._pass_on(self, self.upstream)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _relay  # noqa: N815  (names that http.server calls)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that was killed is what this is for."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="relay", daemon=True)
        self._thread.start()

    def arm(self, blow: Blow) -> None:
        with self._lock:
            self._blow = blow

    def struck(self, blow: Blow) -> str:
        """The write at which the operator was killed, "" if it was not; a blow that is just falling is waited for."""
        with self._lock:
            return blow.struck

    def _pass_on(self, handler: BaseHTTPRequestHandler, upstream: http.client.HTTPSConnection) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        with self._lock:
            blow = self._blow
            if blow is not None and blow.struck and blow.hold is None:
                handler.close_connection = True
                return
            write = "" if blow is None else _write(blow, handler.command, handler.path, body)
            due = blow is not None and bool(write) and write not in blow.spared and not blow.struck
            if blow is not None and due:
                if blow.after:
                    ask(handler, upstream, body).read()
                blow.kill()
                blow.struck = write
                handler.close_connection = True
        if due:
            self._changed()
            if blow is not None and blow.hold is not None:
                blow.hold.wait()
        else:
            answer(handler, ask(handler, upstream, body))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for one in tuple(self._sockets):  # those that wait for events hear of nothing else
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)


def _write(blow: Blow, method: str, path: str, body: bytes) -> str:
    """What the write is called; "" if it is none, or not about the run."""
    place = urlsplit(path).path
    plural = next((plural for plural in _OURS if f"/{plural}" in place), "")
    if method in _READS or not plural or (blow.run not in place and blow.run.encode() not in body):
        return ""
    blow.seen[f"{method} {plural}"] += 1
    return f"{method} {plural} {blow.seen[f'{method} {plural}']}"


def ask(
    handler: BaseHTTPRequestHandler, upstream: http.client.HTTPSConnection, body: bytes
) -> http.client.HTTPResponse:
    headers = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP}
    upstream.request(handler.command, handler.path, body or None, headers)
    return upstream.getresponse()


def answer(handler: BaseHTTPRequestHandler, response: http.client.HTTPResponse) -> None:
    handler.send_response(response.status)
    for name, value in response.getheaders():
        if name.lower() not in _HOP:
            handler.send_header(name, value)
    if response.length is not None:
        handler.send_header("Content-Length", str(response.length))
        handler.end_headers()
        handler.wfile.write(response.read())
        return
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while data := response.read1(65536):
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
    handler.wfile.write(b"0\r\n\r\n")
