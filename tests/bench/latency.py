"""Row latency: one run at a time on an idle worker, from the submit to its first line and to its result."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

from tests.bench.measuring import Bench, Line, in_turns, serving
from tests.bench.rivals.processes import running
from tests.bench.served import noop

BLOCK = 100
KIND = "background, pure, result stored"


def latency(bench: Bench) -> Iterator[Line]:
    with bench.redis("latency"), serving():
        from tests.bench.rivals import huey_tasks  # needs the server's address

        arguments = ("tests.bench.rivals.huey_tasks.huey", "--workers", "1", "--no-periodic", "--quiet")
        with running("huey_consumer", *arguments, log=bench.folder / "huey.log"):
            starts: dict[str, list[float]] = {"ours": [], "huey": []}

            def way(name: str, run: Callable[[], float]) -> Callable[[], float]:
                def figure() -> float:
                    start, result = _block(run)
                    starts[name].append(start)
                    return result

                return figure

            ways = {
                "ours": way("ours", lambda: noop.delay(True).result(timeout=20)),
                "huey": way("huey", lambda: huey_tasks.noop().get(blocking=True, timeout=20)),
            }
            in_turns(1, ways)
            starts["ours"].clear()
            starts["huey"].clear()
            results = in_turns(bench.rounds, ways)
    title, peer = "idle, submit to {} p50", "huey, one worker"
    yield Line("latency-start", title.format("start"), KIND, "ms", starts["ours"], peer, starts["huey"])
    yield Line("latency-result", title.format("result"), KIND, "ms", results["ours"], peer, results["huey"])


def _block(run: Callable[[], float]) -> tuple[float, float]:
    """Medians in ms: to the start of the task, to its result."""
    starts: list[float] = []
    results: list[float] = []
    for _ in range(BLOCK):
        submitted = time.monotonic()
        started = run()
        results.append(time.monotonic() - submitted)
        starts.append(started - submitted)
    return statistics.median(starts) * 1e3, statistics.median(results) * 1e3
