"""Where a campaign runs: a Redis of its own (alone, or behind Sentinel) and a store (a folder, or MinIO behind a proxy
that does what networks do). Workers reach the store through the proxy, the callers directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.fault_proxy import FaultProxy
from tests.servers.minio import BUCKET, Minio, serve
from tests.servers.redis import RedisServer
from tests.servers.sentinel import Watched


@dataclass(frozen=True)
class Place:
    """``watched``, and ``minio`` with ``proxy``, only where the campaign has them. ``environment`` is everybody's,
    ``workers`` what theirs has beside it."""

    redis: RedisServer
    environment: dict[str, str]
    workers: dict[str, str]
    watched: Watched | None = None
    minio: Minio | None = None
    proxy: FaultProxy | None = None


@contextmanager
def alone(folder: Path) -> Iterator[Place]:
    """A Redis, and a folder as the store."""
    server = RedisServer(folder / "redis")
    server.start()
    try:
        yield Place(server, {"KAPSTAN_REDIS_URL": server.url}, {})
    finally:
        server.stop()


@contextmanager
def behind_sentinel(folder: Path) -> Iterator[Place]:
    """A primary, its replica, three Sentinels, and a folder as the store."""
    watched = Watched(folder)
    try:
        yield Place(watched.primary, {"KAPSTAN_REDIS_URL": watched.url}, {}, watched)
    finally:
        watched.close()


@contextmanager
def on_s3(folder: Path) -> Iterator[Place]:
    """A Redis, and MinIO as the store."""
    with alone(folder) as place, contextmanager(serve)(Minio(folder / "minio")) as minio:
        proxy = FaultProxy(minio.url, {})
        with proxy.running():
            settings = minio.settings()
            store = {
                "KAPSTAN_S3_ENDPOINT": minio.url,
                "KAPSTAN_S3_BUCKET": BUCKET,
                "KAPSTAN_S3_ACCESS_KEY": settings.s3_access_key,
                "KAPSTAN_S3_SECRET_KEY": settings.s3_secret_key,
                "KAPSTAN_STORE_DEADLINE_SECONDS": "2",
            }
            workers = {"KAPSTAN_S3_ENDPOINT": proxy.url}
            yield Place(place.redis, {**place.environment, **store}, workers, None, minio, proxy)
