"""``make bench``: Kapstan beside bare Redis, bare MinIO and its peers, in one run and one table of ratios.

Nothing here is a test: a ratio that falls short is said in the table and never fails the command. Each family of rows
has a file of its own; ``measuring`` holds what they share and ``goals`` what is aimed at::

    python -m tests.bench                       # everything that this machine has services for
    python -m tests.bench submit bulk --rounds 9
    python -m tests.bench --json bench.json     # every figure of every round
    python -m tests.bench cluster --cluster     # FlowRun beside Job; needs `make cluster-up` and the installed chart

Redis is a redis-server of its own on loopback TCP with the append-only file on, MinIO is one too.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from tests.bench import (
    disturbed,
    flow_calls,
    imports,
    instructions,
    keyed_calls,
    latency,
    listing,
    on_cluster,
    queued,
    server_cost,
    submitting,
    table,
    takeover,
    throughput,
    two_workers,
)
from tests.bench.measuring import Bench, Line, NotApplicable
from tests.servers.redis import RedisServer

ROWS: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "submit": submitting.submit,
    "bulk": submitting.bulk,
    "throughput": throughput.throughput,
    "workers": two_workers.workers,
    "instructions": instructions.instructions,
    "server-cost": server_cost.server_cost,
    "latency": latency.latency,
    "memory": submitting.memory,
    "flow": flow_calls.local,
    "flow-s3": flow_calls.s3,
    "keyed": keyed_calls.keyed,
    "waiters": keyed_calls.waiters,
    "takeover": takeover.takeover,
    "cluster": on_cluster.start,
    "fairness": disturbed.fairness,
    "recovery": disturbed.recovery,
    "queued": queued.queued,
    "list": listing.listing,
    "import": imports.imports,
}


def main() -> None:
    arguments = _arguments()
    for name in list(os.environ):
        if name.startswith(("KAPSTAN_", "PREFECT_")) and not name.startswith("KAPSTAN_TEST_"):
            del os.environ[name]
    begun = time.monotonic()
    lines: list[Line] = []
    left_out: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="kapstan-bench-") as folder:
        os.environ["KAPSTAN_HOME"] = f"{folder}/home"
        os.environ["KAPSTAN_LOG_LEVEL"] = "WARNING"  # a line per run would measure the terminal
        bench = Bench(Path(folder), arguments.rounds, arguments.cluster)
        for name in arguments.rows or ROWS:
            print(f"measuring {name} ...", flush=True)
            try:
                lines += ROWS[name](bench)
            except (NotApplicable, pytest.skip.Exception) as reason:
                left_out.append((name, str(reason)))
            except Exception as error:  # noqa: BLE001  (the other rows are worth having)
                traceback.print_exc()
                left_out.append((name, f"{type(error).__name__}: {error}"))
        about = f"{_machine(Path(folder))}; {arguments.rounds} rounds, {time.monotonic() - begun:.0f} s"
    table.show(lines, left_out, about)
    if arguments.json is not None:
        table.write(arguments.json, lines, left_out, about)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Ratios beside bare servers and peers.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(ROWS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="figures per line (default 5)")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--cluster", action="store_true", help="measure on the cluster that is up, too")
    arguments = parser.parse_args()
    unknown = [row for row in arguments.rows if row not in ROWS]
    if unknown:
        parser.error(f"there is no row {unknown[0]!r}; choose from {', '.join(ROWS)}")
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: give 1 or more")
    return arguments


def _machine(folder: Path) -> str:
    """What the figures were taken on."""
    server = RedisServer(folder / "about")
    server.start()
    with server.client() as client:
        version = client.info("server")["redis_version"]
    server.stop()
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = ", busy: trust the ratios only" if load > cores + 1 else ""
    return (
        f"{cores} cores (load {load:.1f}{busy}), Python {platform.python_version()}, Redis {version} on loopback TCP "
        f"with append-only file, redis-py {redis.__version__}"
    )


if __name__ == "__main__":
    main()
