"""What the S3 adapter sends, and what it makes of answers: against a real MinIO, through proxies that interfere."""

from __future__ import annotations

import http.server
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.servers.fault_proxy import FaultProxy
from tests.servers.minio import ACCESS_KEY, SECRET_KEY, Minio, free_port

from kapstan.errors import ConfigurationError, StoreRefused, StoreUnavailable, StoreUnsafe
from kapstan.settings import Settings
from kapstan.store.s3 import S3Store


@contextmanager
def opened(settings: Settings) -> Iterator[S3Store]:
    store = S3Store.from_settings(settings)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def watched(minio: Minio, namespace: str) -> Iterator[tuple[S3Store, FaultProxy]]:
    """A store behind a proxy that only looks."""
    with FaultProxy(minio.url, {}).running() as proxy, opened(minio.settings(proxy.url, namespace=namespace)) as store:
        yield store, proxy


def signed_headers(headers: dict[str, str]) -> list[str]:
    return headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")


def test_a_create_sends_its_condition_as_a_signed_header(watched: tuple[S3Store, FaultProxy], namespace: str) -> None:
    store, proxy = watched
    assert store.create("a/b", b"body")
    [(method, path, headers)] = proxy.seen
    assert (method, path) == ("PUT", f"/kapstan/{namespace}/a/b")
    assert headers["if-none-match"] == "*"
    assert signed_headers(headers) == ["host", "if-none-match", "x-amz-content-sha256", "x-amz-date"]
    assert not [name for name in headers if name.startswith("x-amz-meta-")]


def test_a_replace_sends_the_version_exactly_as_it_was_received(watched: tuple[S3Store, FaultProxy]) -> None:
    store, proxy = watched
    store.create("a", b"1")
    stored = store.get("a")
    assert stored is not None
    assert stored.version[0] == stored.version[-1] == '"'
    assert store.replace("a", b"2", stored.version)
    _, _, headers = proxy.seen[-1]
    assert headers["if-match"] == stored.version
    assert "if-match" in signed_headers(headers)


def test_a_proxy_that_strips_the_condition_breaks_the_signature(minio: Minio, namespace: str) -> None:
    with FaultProxy(minio.url, {}, strip=True).running() as proxy:
        with opened(minio.settings(proxy.url, namespace=namespace)) as store:
            with pytest.raises(StoreRefused, match="the signature was refused: a proxy in between may change headers"):
                store.create("a", b"1")
            assert len(proxy.seen) == 1, "a refusal is no outage, so nothing is sent again"
            with pytest.raises(StoreRefused, match="the signature was refused"):
                store.probe()
        assert proxy.counts["stripped"] > 1


def test_the_probe_refuses_a_proxy_that_strips_and_signs_anew(minio: Minio, namespace: str) -> None:
    proxy = FaultProxy(minio.url, {}, strip=True, resign=(ACCESS_KEY, SECRET_KEY))
    with proxy.running(), opened(minio.settings(proxy.url, namespace=namespace)) as store:
        assert store.create("a", b"1")
        assert store.create("a", b"2"), "the fault bites: a silent overwrite"
        with pytest.raises(StoreUnsafe, match="8 of 8 racing creates of one object won; exactly one must"):
            store.probe()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"s3_bucket": "no-such-bucket"},
            "404 NoSuchBucket .*create the bucket, or name another one in KAPSTAN_S3_BUCKET",
        ),
        (
            {"s3_secret_key": "wrong-secret"},
            "403 SignatureDoesNotMatch .*the secret key is wrong .KAPSTAN_S3_SECRET_KEY",
        ),
        ({"s3_access_key": "nobody"}, "403 InvalidAccessKeyId .*KAPSTAN_S3_ACCESS_KEY"),
    ],
)
def test_a_refusal_names_the_setting_and_is_not_repeated(minio: Minio, changed: dict[str, str], says: str) -> None:
    with FaultProxy(minio.url, {}).running() as proxy, opened(minio.settings(proxy.url, **changed)) as store:
        for call in (lambda: store.get("a"), lambda: store.create("a", b""), lambda: list(store.keys(""))):
            with pytest.raises(StoreRefused, match=says):
                call()
        assert len(proxy.seen) == 3


def test_https_to_a_plain_port_is_named(minio: Minio) -> None:
    says = "does not speak TLS: is it http:// in KAPSTAN_S3_ENDPOINT"
    with opened(minio.settings(minio.url.replace("http", "https"))) as store, pytest.raises(StoreRefused, match=says):
        store.get("a")


def test_a_store_that_is_away_is_unavailable_after_the_deadline(minio: Minio) -> None:
    settings = minio.settings(f"http://127.0.0.1:{free_port()}", store_deadline_seconds=0.2)
    with opened(settings) as store, pytest.raises(StoreUnavailable, match=r"no answer to create a for 0\.2 s"):
        store.create("a", b"")


KEYS = {"s3_access_key": "key", "s3_secret_key": "secret"}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"s3_endpoint": "minio:9000", **KEYS}, "KAPSTAN_S3_ENDPOINT='minio:9000': give http://host:port"),
        ({"s3_endpoint": "http://minio:9000/bucket", **KEYS}, "give http://host:port"),
        ({"s3_endpoint": "http://minio:9000"}, "needs KAPSTAN_S3_ACCESS_KEY and KAPSTAN_S3_SECRET_KEY"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(changed: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        S3Store.from_settings(Settings(**changed))


def test_a_lost_reply_is_no_conflict(minio: Minio, namespace: str) -> None:
    proxy = FaultProxy(minio.url, {"drop_reply": 0.3}, seed=7)
    with proxy.running(), opened(minio.settings(proxy.url, namespace=namespace)) as store:
        assert all(store.create(f"a/{number}", b"%d" % number) for number in range(40))
        store.create("register", b"0")
        for number in range(1, 20):
            there = store.get("register")
            assert there is not None
            assert store.replace("register", b"%d" % number, there.version), number
    assert proxy.counts["drop_reply"] > 10
    assert proxy.counts["status_412"] > 5, "one's own object was met and recognised"


def test_the_bucket_is_made_once(minio: Minio) -> None:
    with opened(minio.settings(s3_bucket="made-here")) as store:
        store.ensure_bucket()
        store.ensure_bucket()
        assert store.create("a", b"")


def test_namespaces_do_not_see_each_other(minio: Minio, s3: S3Store, namespace: str) -> None:
    s3.put("a", b"mine")
    with opened(minio.settings(namespace=namespace + "x")) as other:
        assert other.get("a") is None
        assert list(other.keys("")) == []


def test_a_certificate_of_an_unknown_authority_names_the_setting(minio: Minio, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    with tls_in_front(tmp_path, certificate) as url:
        with opened(minio.settings(url)) as store, pytest.raises(StoreRefused, match="KAPSTAN_S3_CA_FILE"):
            store.get("a")
        with opened(minio.settings(url, s3_ca_file=str(certificate))) as store:
            assert store.get("a") is None


@contextmanager
def tls_in_front(folder: Path, certificate: Path) -> Iterator[str]:
    """An https address whose certificate is signed by nobody else; every object is missing there."""
    key = folder / "key.pem"
    subject = ["-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<Error><Code>NoSuchKey</Code></Error>"
            self.send_response(404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    class Server(http.server.HTTPServer):
        def get_request(self) -> tuple[socket.socket, object]:
            connection, address = super().get_request()
            return context.wrap_socket(connection, server_side=True), address

    with Server(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def answering(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Iterator[S3Store]:
    """A store behind something that gives this one answer to everything."""

    class Odd(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    settings = Settings(
        s3_endpoint=f"http://127.0.0.1:{server.server_port}",
        s3_access_key="a",
        s3_secret_key="b",
        store_deadline_seconds=0.05,
    )
    try:
        with opened(settings) as store:
            yield store
    finally:
        server.shutdown()
        server.server_close()


CALLS = {
    "get": lambda store: store.get("k"),
    "put": lambda store: store.put("k", b"mine"),
    "create": lambda store: store.create("k", b"mine"),
    "replace": lambda store: store.replace("k", b"mine", '"v"'),
    "keys": lambda store: list(store.keys("k")),
}
HTML = b"<html><body>Sign in</body></html>"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, HTML, StoreUnavailable),
        (202, b"", StoreUnavailable),
        (206, b"part", StoreUnavailable),
        (301, b"", StoreRefused),
        (302, HTML, StoreRefused),
        (304, b"", StoreRefused),
        (307, b"<Error><Code>TemporaryRedirect</Code></Error>", StoreRefused),
        (400, b"<Error><Code>RequestTimeout</Code></Error>", StoreUnavailable),
        (403, HTML, StoreRefused),
        (404, b"", StoreUnavailable),
        (404, HTML, StoreUnavailable),
        (404, b"<Error><Code>NoSuchBucket</Code></Error>", StoreRefused),
        (409, b"", StoreUnavailable),
        (413, HTML, StoreRefused),
        (501, b"", StoreRefused),
        (503, HTML, StoreUnavailable),
    ],
)
def test_an_answer_that_is_not_the_store_s_is_never_taken_for_success_or_absence(
    call: str, status: int, body: bytes, error: type[Exception]
) -> None:
    with answering(status, body) as store, pytest.raises(error):
        CALLS[call](store)


@pytest.mark.parametrize("body", [b"", HTML, b"<Error><Code>PreconditionFailed</Code></Error>"])
@pytest.mark.parametrize("call", CALLS)
def test_a_412_is_no_success_whatever_its_body(call: str, body: bytes) -> None:
    with answering(412, body) as store, pytest.raises((StoreUnavailable, StoreRefused)):
        CALLS[call](store)
