"""A real Redis behind Sentinel: one primary, one replica, three Sentinels."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import redis
from tests.servers.redis import RedisServer, binary

SENTINELS = 3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Watched:
    """One primary, one replica, and the Sentinels that watch them; ``url`` names the Sentinels."""

    def __init__(self, folder: Path, program: str = "") -> None:
        self.primary = RedisServer(folder / "primary", program)
        self.primary.start()
        self.replica = RedisServer(folder / "replica", program, ("--replicaof", f"127.0.0.1 {self.primary.port}"))
        self.replica.start()
        self.ports = [free_port() for _ in range(SENTINELS)]
        self._sentinels: list[subprocess.Popen[bytes]] = []
        for port in self.ports:
            config = folder / f"sentinel-{port}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder}/sentinel-{port}.log\n"
                f"sentinel monitor jobs 127.0.0.1 {self.primary.port} 2\n"
                "sentinel down-after-milliseconds jobs 500\nsentinel failover-timeout jobs 3000\n"
            )
            self._sentinels.append(subprocess.Popen([program or binary(), str(config), "--sentinel"]))
        for port in self.ports:
            self._await(port)
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = f"redis+sentinel://{hosts}/jobs/0"

    def _await(self, port: int) -> None:
        """Until this Sentinel knows the replica and the others."""
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 500)
        with redis.Redis(port=port, retry=retry, retry_on_error=[redis.ConnectionError]) as client:
            while True:
                known = client.sentinel_master("jobs")
                if known["num-slaves"] == 1 and known["num-other-sentinels"] == SENTINELS - 1:
                    return

    def cut_replica_off(self) -> None:
        """From now on the replica receives nothing; the Sentinels repair that after some 3 s."""
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", 1)

    def close(self) -> None:
        for process in self._sentinels:
            process.kill()
            process.wait()
        self.replica.stop()
        self.primary.stop()
