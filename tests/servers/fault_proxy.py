"""An HTTP proxy in front of a real object store that does what networks and careless proxies do, and counts it.

Faults, drawn with a fixed seed: the request never arrives, it arrives and the reply is lost or cut in the middle, 503,
500, a signature that does not hold any more (which the real store answers with 403), late delivery (the client's
connection is closed at once, the request arrives afterwards), and a request that takes long. ``faults`` may be changed
while it serves. ``strip`` takes condition headers away; with ``resign`` it also signs anew, as a proxy that holds the
credentials does.
"""

from __future__ import annotations

import collections
import http.client
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3
from minio.time import to_amz_date

Fault = Literal["drop_request", "drop_reply", "cut_reply", "unavailable", "broken", "forbidden", "late", "slow"]
_CONDITIONS = ("if-none-match", "if-match")


class FaultProxy:
    """Proxy to ``upstream``; see ``running``.

    Attributes:
        counts: how often each fault bit; ``late_<status>`` what late deliveries met, ``gone`` requests that found no
            upstream, ``status_<status>`` answers that were passed on.
        slowness: seconds by which the fault ``slow`` delays a request.
        seen: (method, path, headers) of every request, names of headers in lower case.
    """

    def __init__(
        self,
        upstream: str,
        faults: Mapping[Fault, float],
        *,
        seed: int = 1,
        strip: bool = False,
        resign: tuple[str, str] | None = None,
    ) -> None:
        self._upstream = urlsplit(upstream).netloc
        self.faults = dict(faults)
        self._random = random.Random(seed)
        self._strip = strip
        self._resign = resign
        self._lock = threading.Condition()
        self._late: list[threading.Timer] = []
        self._connections = threading.local()
        self.slowness = 0.5
        self.counts: collections.Counter[str] = collections.Counter()
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

            def finish(self) -> None:
                super().finish()
                proxy._hang_up()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that hung up."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        """Serve until the end of the block; late deliveries are made before it ends."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.settle()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def settle(self) -> None:
        """Wait for every late delivery."""
        for timer in list(self._late):
            timer.join()

    def wait_for_gone(self, count: int, deadline: float = 30.0) -> None:
        """Wait until so many requests have found no upstream."""
        with self._lock:
            assert self._lock.wait_for(lambda: self.counts["gone"] >= count, deadline), self.counts

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        body = handler.rfile.read(int(headers.get("content-length", 0)))
        with self._lock:
            self.seen.append((handler.command, handler.path, dict(headers)))
            fault = self._draw()
            if fault:
                self.counts[fault] += 1
            delay = self._random.uniform(0, 0.2)
        if fault == "slow":
            time.sleep(self.slowness)
        if fault in ("drop_request", "late"):
            if fault == "late":
                self._deliver_late(delay, handler.command, handler.path, headers, body)
            handler.close_connection = True
            return
        if fault == "unavailable":
            self._answer(handler, 503, {}, b"<Error><Code>SlowDown</Code></Error>")
            return
        if fault == "broken":
            self._answer(handler, 500, {}, b"<Error><Code>InternalError</Code></Error>")
            return
        if fault == "forbidden":
            headers["authorization"] = headers["authorization"][:-8] + "00000000"
        try:
            status, answer_headers, answer = self._forward(handler.command, handler.path, headers, body)
        except OSError:
            with self._lock:
                self.counts["gone"] += 1
                self._lock.notify_all()
            handler.close_connection = True
            return
        if fault == "cut_reply":
            self._answer(handler, status, answer_headers, answer, cut=True)
            handler.close_connection = True
            return
        if fault == "drop_reply":
            handler.close_connection = True
            return
        with self._lock:
            self.counts[f"status_{status}"] += 1
        self._answer(handler, status, answer_headers, answer)

    def _draw(self) -> Fault | None:
        drawn = self._random.random()
        for fault, share in self.faults.items():
            if drawn < share:
                return fault
            drawn -= share
        return None

    def _deliver_late(self, delay: float, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        def deliver() -> None:
            try:
                status, _, _ = self._forward(method, path, headers, body)
            except OSError:
                return
            finally:
                self._hang_up()
            with self._lock:
                self.counts[f"late_{status}"] += 1

        timer = threading.Timer(delay, deliver)
        self._late.append(timer)
        timer.start()

    def _forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        sent = dict(headers)
        if self._strip and any(sent.pop(name, None) for name in _CONDITIONS):
            with self._lock:
                self.counts["stripped"] += 1
        if self._resign:
            sent = self._sign(method, path, sent)
        connection = self._connection()
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if name not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise OSError(str(error)) from error

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._connections, "upstream"):
            self._connections.upstream = http.client.HTTPConnection(self._upstream, timeout=10)
        return self._connections.upstream

    def _hang_up(self) -> None:
        if hasattr(self._connections, "upstream"):
            self._connections.upstream.close()

    def _sign(self, method: str, path: str, headers: dict[str, str]) -> dict[str, str]:
        assert self._resign is not None
        now = datetime.now(UTC)
        content = headers["x-amz-content-sha256"]
        signed = sign_v4_s3(
            method=method,
            url=urlsplit(f"http://{self._upstream}{path}"),
            region="us-east-1",
            headers={"host": self._upstream, "x-amz-date": to_amz_date(now), "x-amz-content-sha256": content},
            credentials=Credentials(*self._resign),
            content_sha256=content,
            date=now,
        )
        kept = {k: v for k, v in headers.items() if k in ("content-length", "content-type", "content-md5")}
        return {**kept, **{name.lower(): str(value) for name, value in signed.items()}}

    @staticmethod
    def _answer(
        handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes, *, cut: bool = False
    ) -> None:
        if cut and not body:
            handler.wfile.write(b"HTTP/1.1 2")
            return
        head = handler.command == "HEAD"
        handler.send_response(status)
        for name, value in headers.items():
            if name not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                handler.send_header(name, value)
        handler.send_header("content-length", headers.get("content-length", "0") if head else str(len(body)))
        handler.end_headers()
        if not head:
            handler.wfile.write(body[: len(body) // 2] if cut else body)
