"""States in which a Redis answers and takes no writes, or does not answer for a while: each brought about for real."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.servers.redis import RedisServer

_PROBE = "#!lua\nreturn redis.call('SET', 'probe', 1)"


def refusal(server: RedisServer) -> str:
    """The first word of the answer to a script that writes; empty if it was carried out."""
    with redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as client:
        try:
            client.eval(_PROBE, 0)
        except redis.RedisError as error:
            said = str(error)
            words = {
                "not enough good replicas": "NOREPLICAS",
                "can't write against": "READONLY",
                "busy": "BUSY",
                "is loading": "LOADING",
            }
            return next((word for text, word in words.items() if text in said.lower()), said.split(" ", 1)[0])
    return ""


def await_refusal(server: RedisServer, refused: bool) -> None:
    """Block until writes are refused, or taken again: a fault that does not bite is no fault."""
    while bool(refusal(server)) is not refused:
        continue


@contextmanager
def _config(server: RedisServer, **values: str) -> Iterator[None]:
    with server.client() as client:
        before = {name: client.config_get(name)[name] for name in (key.replace("_", "-") for key in values)}
        for name, value in values.items():
            client.config_set(name.replace("_", "-"), value)
        try:
            yield
        finally:
            for name, value in before.items():
                client.config_set(name, value)


def noreplicas(server: RedisServer) -> AbstractContextManager[None]:
    """It was told to take writes only while a replica follows, and none does."""
    return _config(server, min_replicas_to_write="1")


def full(server: RedisServer) -> AbstractContextManager[None]:
    """No memory is left: commands that need more are refused."""
    return _config(server, maxmemory="1")


@contextmanager
def misconf_append(server: RedisServer) -> Iterator[None]:
    """Its append-only file cannot grow any more, as on a full disk."""
    size = max(file.stat().st_size for file in (server.folder / "appendonlydir").iterdir())
    before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def misconf_snapshot(server: RedisServer) -> Iterator[None]:
    """It cannot save the snapshots that it was told to save."""
    with server.client() as client, _config(server, save="3600 1"):

        def save(status: str) -> None:
            client.bgsave()
            while client.info("persistence")["rdb_bgsave_in_progress"]:
                continue
            assert client.info("persistence")["rdb_last_bgsave_status"] == status

        target = server.folder / "dump.rdb"
        target.mkdir()
        try:
            save("err")
            yield
        finally:
            target.rmdir()
            save("ok")


@contextmanager
def demoted(server: RedisServer, *, serves_stale: str = "yes") -> Iterator[None]:
    """It was made a replica of a primary that cannot be reached."""
    with server.client() as client, _config(server, replica_serve_stale_data=serves_stale):
        client.replicaof("127.0.0.1", 1)
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


def masterdown(server: RedisServer) -> AbstractContextManager[None]:
    """As ``demoted``, and it does not even serve what it has."""
    return demoted(server, serves_stale="no")


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """A script of somebody else's does not end."""

    def spin() -> None:
        with server.client() as client, contextlib.suppress(redis.RedisError):
            client.eval("while true do end", 0)

    with _config(server, busy_reply_threshold="20"):
        spinning = threading.Thread(target=spin)
        spinning.start()
        await_refusal(server, True)
        try:
            yield
        finally:
            with server.client() as client:
                client.script_kill()
            spinning.join()


@contextmanager
def loading(server: RedisServer) -> Iterator[None]:
    """It was killed and is loading its data, slowly: 400 large keys, 50 ms each, until the end of the block."""
    with server.client() as client:
        before = client.info("server")["run_id"]
        client.mset({f"{{loading}}:{number}": os.urandom(2048) for number in range(400)})
        client.bgrewriteaof()  # what is loaded then begins with a snapshot, where the delay works and is interrupted
        while any(client.info("persistence")[f"aof_rewrite_{word}"] for word in ("in_progress", "scheduled")):
            continue
    server.kill()
    slowly = ("--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
    server.start(*slowly, await_data=False)
    with server.client() as client:
        assert client.info("server")["run_id"] != before
        try:
            yield
            assert client.info("persistence")["loading"], "it was loaded before the end of the block"
        finally:
            client.config_set("key-load-delay", 0)


@contextmanager
def stalled(server: RedisServer) -> Iterator[None]:
    """Connections stay, nothing is answered, and it is the same start of the server afterwards."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


REFUSING: dict[str, tuple[str, Callable[[RedisServer], AbstractContextManager[None]]]] = {
    "noreplicas": ("NOREPLICAS", noreplicas),
    "misconf-append": ("MISCONF", misconf_append),
    "misconf-snapshot": ("MISCONF", misconf_snapshot),
    "readonly": ("READONLY", demoted),
    "masterdown": ("READONLY", masterdown),  # and every read with MASTERDOWN
    "busy": ("BUSY", busy),
    "loading": ("LOADING", loading),
}
"""By name: the word with which every write is refused, and how to get there."""
