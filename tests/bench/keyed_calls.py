"""Rows keyed and waiters: what a call with a key costs beside the bare requests that it cannot do without, and how soon
those that wait for a key have its result."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from urllib.parse import urlsplit

import urllib3
from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3
from minio.time import to_amz_date
from tests.bench.measuring import Bench, Line, pairwise
from tests.servers.minio import ACCESS_KEY, BUCKET, SECRET_KEY, Minio
from tests.servers.worker import REPOSITORY

from kapstan import backend, settings, task
from kapstan.cache_policies import INPUTS

BLOCK = 50
WAITERS = 100
HELD_SECONDS = 1.0
BODY = b"r" * 700  # what a register with a small result takes, signature included
KIND = "task call, result in MinIO"


@task(name="bench-cached", cache_policy=INPUTS)
def cached(number: int) -> int:
    return number


@task(name="bench-once", cache_policy=INPUTS, exactly_once=True)
def once(number: int) -> int:
    return number


@task(name="bench-turn", cache_policy=INPUTS, exactly_once=True)
def turn(key: str) -> str:
    """Executed by one process, which says so and holds the key until it is told."""
    print("holds", flush=True)
    sys.stdin.readline()
    return key


def keyed(bench: Bench) -> Iterator[Line]:
    with bench.minio("minio-keyed") as server:
        ours = settings.current()
        backend.use(server.settings(home=ours.home, log_level=ours.log_level))
        try:
            yield from _on_minio(bench, _Bare(server))
        finally:
            backend.use(None)


def _on_minio(bench: Bench, bare: _Bare) -> Iterator[Line]:
    numbers = count(1)
    cached(0)
    kept = bare.put("kept", {"if-none-match": "*"})
    assert kept

    def two_puts() -> None:
        name = f"two-{next(numbers)}"
        bare.put(name, {"if-match": bare.put(name, {"if-none-match": "*"})})

    ways = {
        "hit": lambda: cached(0),
        "get": lambda: bare.get("kept"),
        "pure": lambda: cached(next(numbers)),
        "put": lambda: bare.put(f"one-{next(numbers)}", {"if-none-match": "*"}),
        "once": lambda: once(next(numbers)),
        "two": two_puts,
        "miss": lambda: bare.get("missing", 404),
    }
    pairwise(1, 10, ways)  # connections are made, the store is probed
    seconds = pairwise(bench.rounds, BLOCK, ways)
    figures = {way: [1e3 * value for value in values] for way, values in seconds.items()}
    yield Line("hit", "cached call, a hit, p50", KIND, "ms", figures["hit"], "bare signed GET", figures["get"])
    yield Line(
        "keyed-pure", "call with a key, pure, p50", KIND, "ms", figures["pure"], "bare conditional PUT", figures["put"]
    )
    both = [read + write for read, write in zip(figures["miss"], figures["put"], strict=True)]
    title = "the same, beside what it cannot do without"
    yield Line("keyed-read", title, KIND, "ms", figures["pure"], "GET of nothing, conditional PUT", both)
    yield Line(
        "keyed-once", "call with a key, at_most_once, p50", KIND, "ms", figures["once"], "two such PUTs", figures["two"]
    )


class _Bare:
    """What any client of S3 has to do for a request: sign, send, read."""

    def __init__(self, server: Minio) -> None:
        self._url = server.url
        self._pool = urllib3.connection_from_url(server.url, retries=False)
        self._credentials = Credentials(ACCESS_KEY, SECRET_KEY)

    def get(self, name: str, status: int = 200) -> None:
        answer = self._send("GET", name, b"", {})
        assert answer.status == status, answer.status

    def put(self, name: str, condition: Mapping[str, str]) -> str:
        """The version that it wrote."""
        answer = self._send("PUT", name, BODY, condition)
        assert answer.status == 200, answer.status
        return answer.headers["etag"]

    def _send(self, method: str, name: str, body: bytes, condition: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        now, content = datetime.now(UTC), hashlib.sha256(body).hexdigest()
        url = urlsplit(f"{self._url}/{BUCKET}/bare/{name}")
        headers = {"host": url.netloc, "x-amz-date": to_amz_date(now), "x-amz-content-sha256": content, **condition}
        signed = sign_v4_s3(
            method=method,
            url=url,
            region="us-east-1",
            headers=headers,
            credentials=self._credentials,
            content_sha256=content,
            date=now,
        )
        return self._pool.urlopen(method, url.path, body=body, headers=signed)


def waiters(bench: Bench) -> Iterator[Line]:
    """Another process holds the key for a while; a hundred threads of this one wait for it."""
    with bench.minio("minio-waiters") as server:
        ours = settings.current()
        backend.use(server.settings(home=ours.home, log_level=ours.log_level))
        try:
            figures = [_last_of(server, f"key-{number}") for number in range(bench.rounds)]
        finally:
            backend.use(None)
    title = f"{WAITERS} wait for a key: from the commit to the last result"
    yield Line("waiters", title, f"{KIND}, held by another process for {HELD_SECONDS:g} s", "ms", figures)


def _last_of(server: Minio, key: str) -> float:
    """Milliseconds from the holder's commit until the last of those that wait has the result."""
    code = f"from tests.bench.keyed_calls import turn; import time; turn({key!r}); print(time.monotonic())"
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY}",
            "KAPSTAN_S3_ENDPOINT": server.url,
            "KAPSTAN_S3_BUCKET": BUCKET,
            "KAPSTAN_S3_ACCESS_KEY": ACCESS_KEY,
            "KAPSTAN_S3_SECRET_KEY": SECRET_KEY,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        ended: list[float] = []

        def wait() -> None:
            assert turn(key) == key
            ended.append(time.monotonic())

        threads = [threading.Thread(target=wait) for _ in range(WAITERS)]
        for thread in threads:
            thread.start()
        time.sleep(HELD_SECONDS)
        assert not ended, "they were to wait"
        holder.stdin.write("\n")
        holder.stdin.flush()
        committed = float(holder.stdout.readline())
        for thread in threads:
            thread.join()
    assert len(ended) == WAITERS, f"{len(ended)} of {WAITERS} had a result"
    return 1e3 * (max(ended) - committed)
