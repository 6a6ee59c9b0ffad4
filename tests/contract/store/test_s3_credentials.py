"""Keys for the store that nobody wrote down: a web identity at a real MinIO's STS, renewed before they end.

The issuer of tokens is ours (a Kubernetes API server in life); what MinIO checks, gives and lets end is real.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from minio.credentials.credentials import Credentials
from tests.servers.minio import ACCESS_KEY, SECRET_KEY, Minio, free_port, serve
from tests.servers.oidc import CLIENT, Issuer

from kapstan.errors import ConfigurationError, StoreRefused, StoreUnavailable
from kapstan.settings import Settings
from kapstan.store import s3_credentials
from kapstan.store.s3 import S3Store
from kapstan.store.s3_credentials import Renewed

VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_REGION",
)


@pytest.fixture(autouse=True)
def nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own identity."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with Issuer(tmp_path_factory.mktemp("issuer")).running() as running:
        yield running


@pytest.fixture(scope="module")
def server(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    """A MinIO that trusts the issuer, and gives whoever has a token of it the right to read and write."""
    yield from serve(
        Minio(
            tmp_path_factory.mktemp("sts"),
            MINIO_IDENTITY_OPENID_CONFIG_URL=issuer.configuration,
            MINIO_IDENTITY_OPENID_CLIENT_ID=CLIENT,
            MINIO_IDENTITY_OPENID_CLIENT_SECRET="unused",
            MINIO_IDENTITY_OPENID_ROLE_POLICY="readwrite",
        )
    )


def until_said(server: Minio, pattern: str) -> str:
    """MinIO tells its roles a moment after it is ready."""
    end = time.time() + 30
    while (found := re.search(pattern, server.said())) is None:
        assert time.time() < end, server.said()
        until(time.time() + 0.1)
    return found[0]


class Identity:
    """A pod's: the file that holds its token, and who it is at the STS."""

    def __init__(self, issuer: Issuer, server: Minio, file: Path, environ: pytest.MonkeyPatch) -> None:
        self._issuer = issuer
        self._file = file
        role = until_said(server, r"arn:minio:iam:::role/\S+")
        environ.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
        environ.setenv("AWS_ROLE_ARN", role)
        environ.setenv("AWS_ENDPOINT_URL_STS", server.url)

    def token(self, seconds: float, **claims: Any) -> str:
        """Written as the kubelet does, which renews it now and then; keys end with the token that they were got by."""
        made = self._issuer.token(seconds, **claims)
        self._file.write_text(made)
        return made


@pytest.fixture
def identity(issuer: Issuer, server: Minio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Identity:
    return Identity(issuer, server, tmp_path / "token", monkeypatch)


def keyless(server: Minio, **changed: object) -> Settings:
    given = {"s3_credentials": "aws", "s3_access_key": "", "s3_secret_key": "", "store_deadline_seconds": 10.0}
    return server.settings(**(given | changed))


@pytest.fixture
def store(server: Minio, identity: Identity, request: pytest.FixtureRequest) -> Iterator[S3Store]:
    opened = S3Store.from_settings(keyless(server, namespace=re.sub(r"\W", "-", request.node.name)[:60]))
    yield opened
    opened.close()


def until(moment: float) -> None:
    threading.Event().wait(max(0.0, moment - time.time()))


def test_a_web_identity_signs_everything_that_the_store_does(store: S3Store, identity: Identity) -> None:
    identity.token(3600)
    assert store.create("a", b"1")
    assert not store.create("a", b"2"), "the condition is signed as before"
    there = store.get("a")
    assert there is not None
    assert store.replace("a", b"3", there.version)
    assert list(store.keys("")) == ["a"]


def test_keys_that_end_are_renewed_before_and_nothing_fails(
    server: Minio, identity: Identity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the clock of the real server: keys of 8 s, a write every half second for two of their lives."""
    used: list[Credentials] = []
    source = s3_credentials.of(keyless(server))
    store = S3Store.from_settings(keyless(server, namespace="renewed"))
    end = time.time() + 16
    try:
        while time.time() < end:
            identity.token(8)
            store.put("beat", b"x")
            keys = source.current()
            if not used or used[-1] is not keys:
                used.append(keys)
            assert keys.expiration is not None
            assert keys.expiration.replace(tzinfo=UTC) > datetime.now(UTC), "the end itself is never reached"
            until(time.time() + 0.5)
    finally:
        store.close()
    assert len(used) >= 3


def test_the_store_lets_keys_end_and_new_ones_are_asked_for(store: S3Store, identity: Identity, server: Minio) -> None:
    """Our clock is wrong: it takes keys for good that the server takes for over."""
    identity.token(4)
    made = s3_credentials.of(keyless(server)).current()
    ended = time.time() + 5
    asked: list[Credentials] = []

    def fetch() -> Credentials:
        asked.append(s3_credentials.of(keyless(server)).current() if asked else made)
        return Credentials(asked[-1].access_key, asked[-1].secret_key, asked[-1].session_token)  # no end that we know

    store._wire._credentials = Renewed(fetch)  # pyright: ignore[reportPrivateUsage]
    assert store.create("before", b"")
    until(ended)
    identity.token(3600)
    assert store.create("after", b"")
    assert len(asked) == 2


def test_a_refusal_is_told_by_its_name_and_shows_no_token(store: S3Store, identity: Identity, server: Minio) -> None:
    token = identity.token(3600, aud="somebody-else")
    with pytest.raises(StoreRefused, match=rf"the STS at {server.url} answers 40\d \w+.*AWS_ROLE_ARN") as refused:
        store.get("a")
    assert token not in str(refused.value)
    assert "WebIdentityToken" not in str(refused.value)


def test_a_token_that_cannot_be_read_is_named(store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match=rf"AWS_WEB_IDENTITY_TOKEN_FILE={tmp_path}/token cannot be read"):
        store.get("a")


def test_an_sts_that_is_away_is_waited_for(server: Minio, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    identity.token(3600)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{free_port()}")
    store = S3Store.from_settings(keyless(server, store_deadline_seconds=0.2))
    with pytest.raises(StoreUnavailable, match=r"no keys to sign with: the STS at .* does not answer"):
        store.get("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
    assert store.get("a") is None
    store.close()


def test_keys_of_the_environment_are_taken(server: Minio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    store = S3Store.from_settings(keyless(server, namespace="environment"))
    assert store.create("a", b"")
    store.close()


def test_a_containers_service_gives_keys(
    server: Minio, issuer: Issuer, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is ours, the keys that it passes on are MinIO's own, with the end that MinIO gave them."""
    identity.token(3600)
    keys = s3_credentials.of(keyless(server)).current()
    assert keys.expiration is not None
    told = {
        "AccessKeyId": keys.access_key,
        "SecretAccessKey": keys.secret_key,
        "Token": keys.session_token,
        "Expiration": f"{keys.expiration.isoformat(timespec='seconds')}Z",
    }

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(told if self.headers.get("Authorization") == "pod-token" else {"Code": "Denied"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Nothing to say."""

    service = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        monkeypatch.delenv("AWS_WEB_IDENTITY_TOKEN_FILE")
        url = f"http://127.0.0.1:{service.server_port}/v1/credentials"
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        store = S3Store.from_settings(keyless(server, namespace="container"))
        with pytest.raises(StoreRefused, match=r"the service that gives this machine its keys gave no keys: .*Denied"):
            store.get("a")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token")
        assert store.create("a", b"")
        store.close()
    finally:
        service.shutdown()
        service.server_close()
        thread.join(5)


@pytest.mark.parametrize(
    ("changed", "environ", "says"),
    [
        ({"s3_credentials": "keys"}, {}, "needs KAPSTAN_S3_ACCESS_KEY and KAPSTAN_S3_SECRET_KEY, or .*=aws"),
        ({"s3_access_key": "a", "s3_secret_key": "b"}, {}, "takes no keys of its own: unset KAPSTAN_S3_ACCESS_KEY"),
        ({}, {"AWS_ACCESS_KEY_ID": "a"}, "AWS_SECRET_ACCESS_KEY is not set"),
        ({}, {"AWS_ROLE_ARN": "arn:aws:iam::1:role/x"}, "AWS_WEB_IDENTITY_TOKEN_FILE is not: .*annotated"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    server: Minio, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], environ: dict[str, str], says: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=says):
        S3Store.from_settings(keyless(server, **changed))


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def goes_on(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def test_while_the_present_keys_sign_a_refusal_of_new_ones_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    clock, asked = Clock(), 0
    away = False

    def fetch() -> Credentials:
        nonlocal asked
        asked += 1
        if away:
            raise StoreUnavailable("the STS does not answer")
        return Credentials(f"key{asked}", "secret", "token", clock.now + timedelta(seconds=100))

    source = Renewed(fetch, clock)
    first = source.current()
    clock.goes_on(74)
    assert source.current() is first
    away = True
    clock.goes_on(2)
    assert source.current() is first
    assert source.current() is first
    assert asked == 2, "not at every request"
    assert "the present ones sign until" in caplog.text
    clock.goes_on(6)
    away = False
    assert source.current().access_key == "key3"
    away = True
    clock.goes_on(101)
    with pytest.raises(StoreUnavailable):
        source.current()


def test_keys_that_the_store_never_takes_are_refused_and_not_asked_for_again_and_again(
    store: S3Store, server: Minio
) -> None:
    asked: list[int] = []

    def fetch() -> Credentials:
        asked.append(1)
        return Credentials(f"nobody{len(asked)}", "secret", "token")

    store._wire._credentials = Renewed(fetch)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(StoreRefused, match=r"Invalid(AccessKeyId|TokenId)"):
        store.get("a")
    assert len(asked) == 2


def test_of_many_threads_one_asks() -> None:
    asked: list[int] = []
    begun = threading.Barrier(8)

    def fetch() -> Credentials:
        asked.append(1)
        return Credentials("key", "secret")

    source = Renewed(fetch)

    def look() -> None:
        begun.wait(10)
        source.current()

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(asked) == 1
